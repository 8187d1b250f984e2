"""What a measuring run has stored of itself, damaged: one sentence, and what it says helps."""

from pathlib import Path

import pytest

from context_as_memory.errors import UserError
from context_as_memory.evaluation.compare import read_report
from context_as_memory.evaluation.suite.result import Case, ClipStore, Measured

DAMAGED = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": ' * 50_000, b"\x00" * 30]


def _cases() -> list[Case]:
    return [Case(name, "kind", lambda: Measured({"value": 1.0})) for name in ("one", "two")]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("name", ["settings.json", "one.json", "part_speed.json"])
def test_a_damaged_file_of_a_run_is_named_and_made_again(tmp_path: Path, name: str, content: bytes) -> None:
    def run() -> tuple[object, object]:
        store = ClipStore(tmp_path, {"seed": 0})
        return store.run(_cases()), store.keep("speed", lambda: 3)

    wanted = run()
    path = tmp_path / "clips" / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged; delete it"):
        run()
    path.unlink()  # does what the sentence says
    assert run() == wanted == ({"one": {"value": 1.0}, "two": {"value": 1.0}}, 3)


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_report_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(UserError, match="report"):
        read_report(tmp_path / "report.json")
