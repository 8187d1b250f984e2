"""The explorer in a real browser: load, walk, turn away, see what is remembered."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import uvicorn

import tiny
from context_as_memory.server.app import create_app
from context_as_memory.server.shelf import FolderShelf, MemoryShelf
from tiny_world import save_tiny_world

SHOTS = Path(__file__).parents[2] / "outputs" / "e2e"  # looked at by people; not in git


@pytest.fixture(scope="module")
def address():
    """A running explorer around a tiny world."""
    yield from _running(MemoryShelf(lambda seed: tiny.world(seed=seed)))


@pytest.fixture(scope="module")
def keeper(tmp_path_factory):
    """One that keeps its worlds."""
    folder = tmp_path_factory.mktemp("explorer")
    yield from _running(FolderShelf(folder / "worlds", save_tiny_world(folder / "weights"), "cpu"))


def _running(shelf):
    app = create_app(shelf)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium here; apt install chromium (.ci/run does)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def _open(browser, address, **options):
    """A page on the explorer, ready to walk; any error of its scripts fails the test."""
    page = browser.new_context(**options).new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.wait_for_function("document.getElementById('status').textContent.startsWith('ready')")
    return page


def _hold(page, key: str, chunks: int) -> None:
    """Hold a key until so many more chunks were shown in the read-outs."""
    count = "Number(document.querySelector('#stats dd')?.textContent ?? 1)"
    before = page.evaluate(count)
    page.keyboard.down(key)
    page.wait_for_function(f"{count} >= {before + 2 * chunks}")
    page.keyboard.up(key)


def _remembered(page) -> list[str]:
    return page.locator("#memories small").all_text_contents()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_walk_turn_away_and_back_and_see_what_is_remembered(browser, address, scheme):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = _open(browser, address, viewport={"width": 1280, "height": 720}, color_scheme=scheme)
    blank = (
        "[...document.getElementById('view').getContext('2d').getImageData(0, 0, 32, 16).data].every((v) => v === 0)"
    )
    page.wait_for_function(f"!({blank})")  # the start picture is there before the first step
    _hold(page, "w", 2)
    ahead = _remembered(page)
    assert "most recent" in ahead[-1]
    _hold(page, "ArrowLeft", 6)
    away = _remembered(page)
    assert away != ahead
    _hold(page, "l", 6)
    back = _remembered(page)
    assert any("shows" in note for note in back)  # older frames came back into the context
    page.locator("#memory").select_option("recent")
    page.locator("#view").focus()
    _hold(page, "w", 2)
    numbers = [int(note.split()[1].rstrip(",")) for note in _remembered(page)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # a window of the last frames
    page.screenshot(path=SHOTS / f"explorer-{scheme}.png")
    page.locator("#begin").click()
    page.wait_for_function("document.querySelectorAll('#memories li').length === 0")
    assert page.errors == []


def test_on_a_phone_it_is_walked_by_touch(browser, address):
    page = _open(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    button = page.locator("#pad button", has_text="ahead")
    assert button.is_visible()
    button.dispatch_event("pointerdown")
    page.wait_for_function("document.querySelectorAll('#memories li').length > 0")
    button.dispatch_event("pointerup")
    for box in (element.bounding_box() for element in page.locator("#pad button, #view, #map, header > *").all()):
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390  # nothing sticks out sideways
    page.screenshot(path=SHOTS / "explorer-phone.png")
    assert page.errors == []


def test_a_page_that_is_loaded_again_goes_on_and_goes_back(browser, keeper):
    page = _open(browser, keeper)
    _hold(page, "w", 3)
    page.wait_for_timeout(500)  # the last chunk arrives
    frames = page.evaluate("Number(document.getElementById('frame').max)")
    assert frames >= 6 and "#" in page.url
    page.reload()
    page.wait_for_function(f"Number(document.getElementById('frame').max) === {frames}")
    page.locator("#frame").fill("2")
    page.locator("#rewind").click()
    page.wait_for_function(f"Number(document.getElementById('frame').max) < {frames}")
    _hold(page, "l", 1)
    assert page.errors == []
