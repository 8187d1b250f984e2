"""Settings for every test, made before anything heavy is imported."""

import os
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are tiny; threads only fight each other
os.environ.setdefault("MPLBACKEND", "Agg")  # no display

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook  # before the package: `shapes` then has real types

from shape_checks import METHOD

# Types and array shapes of the method are checked at every call, in tests only: the package itself pays nothing.
install_import_hook(METHOD, "shape_checks.check")

# The same examples on every machine, and no deadline: a busy machine is slow, not wrong.
settings.register_profile("repository", derandomize=True, deadline=None, database=None)
settings.load_profile("repository")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of tiny weights."""
    from tiny import save_model

    return save_model(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Tiny pipelines in the layouts of Wan 2.1 and 2.2, by kind."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    import tiny_wan

    folder = tmp_path_factory.mktemp("pipelines")
    return {kind: tiny_wan.save_pipeline(folder / kind, kind) for kind in tiny_wan.KINDS}


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Nothing is read from, or left in, the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "context-as-memory"


@pytest.fixture
def store(tmp_path, weights):
    """Worlds of the explorer, painted instead of generated."""
    from context_as_memory.server.store import FolderStore
    from tiny import PaintedWorld

    return FolderStore(tmp_path / "worlds", weights, "cpu", PaintedWorld)


@pytest.fixture(scope="session")
def installed():
    """The path of Debian's Chromium. Machines of checks have it: `.ci/run` installs it, and without it fails."""
    from context_as_memory.errors import UserError
    from context_as_memory.server.record import chromium

    try:
        return chromium()
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(installed):
    """A real browser, for the tests of the explorer's page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield opened
        opened.close()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    skips = {"gpu": (_no_gpu, "no CUDA device"), "weights": (_no_weights, "no weights in assets/")}
    for name, (missing, reason) in skips.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and missing():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def _no_weights() -> bool:
    return not any((Path(__file__).parents[1] / "src" / "context_as_memory" / "assets").rglob("*.safetensors"))
