"""What the package says when something is missing can be done as it is said."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from context_as_memory.errors import install

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_extra_that_a_message_names_exists_and_no_message_names_a_package_that_no_index_has() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    named = {extra for text in sources for extra in re.findall(r"install\(['\"](\w+)['\"]\)", text)}
    assert named and named <= set(EXTRAS)
    assert not any("install 'context-as-memory[" in text or "install context-as-memory[" in text for text in sources)


@pytest.mark.parametrize("extra", ["explore", "fast", "heic"])
def test_the_command_names_the_packages_of_an_extra(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    entries_of = [f'{entry}; extra == "{name}"' for name, entries in EXTRAS.items() for entry in entries]
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=2.9", *entries_of])
    assert install(extra) == "pip install " + " ".join(f"'{entry}'" for entry in EXTRAS[extra])

    def gone(_: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", gone)
    assert install(extra) == f"pip install '.[{extra}]' in the checkout"
