"""The explorer in a real browser: the page, its scripts and the application, around real but tiny networks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from context_as_memory.formats.video import read_video
from context_as_memory.server.app import create_app
from context_as_memory.server.record import record, serving
from context_as_memory.server.store import FolderStore
from context_as_memory.storage import WorldFile, import_world
from tiny import save_model

SHOTS = Path(__file__).parents[2] / "outputs" / "e2e"  # looked at by people; not in git


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer")
    SHOTS.mkdir(parents=True, exist_ok=True)
    return create_app(FolderStore(folder / "worlds", save_model(folder / "weights"), "cpu"))


@pytest.fixture(scope="module")
def address(app):
    with serving(app) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Opens a page of the explorer, ready to walk; any error of its scripts fails the test."""
    contexts, errors = [], []

    def opener(query: str = "?known=0", script: str = "", **options):
        contexts.append(browser.new_context(bypass_csp=True, **options))
        page = contexts[-1].new_page()
        page.add_init_script(script)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(address + query)
        page.wait_for_function("['ready', 'watching'].includes(document.body.dataset.state)")
        return page

    yield opener
    for context in contexts:
        context.close()
    assert errors == []


def _hold(page, key: str, chunks: int) -> None:
    """Hold a key until so many more chunks were shown."""
    count = "Number(document.body.dataset.chunks)"
    before = page.evaluate(count)
    page.keyboard.down(key)
    page.wait_for_function(f"{count} >= {before + chunks}")
    page.keyboard.up(key)


def _remembered(page) -> list[str]:
    return page.locator("#memories small").all_text_contents()


def _last_frame(page) -> int:
    return int(page.evaluate("Number(document.getElementById('frame').max)"))


def _stand(page) -> int:
    """Wait until nothing has moved for a second, much longer than a tiny network needs for a chunk; the last frame."""
    last, still = _last_frame(page), 0
    while still < 10:
        page.wait_for_timeout(100)
        before, last = last, _last_frame(page)
        still = still + 1 if last == before else 0
    return last


PIXELS = "(id) => [...document.getElementById(id).getContext('2d').getImageData(0, 0, 32, 16).data]"


def _sent_keys(page, act) -> list[set[str]]:
    """The keys that the page tells the server while `act` runs."""
    packets = []
    page.evaluate(
        """async () => {
          const { decode } = await import("./msgpack.js");
          window.told = [];
          const send = WebSocket.prototype.send;
          WebSocket.prototype.send = function (data) {
            const message = decode(data.buffer ?? data);
            if (message.kind === "camera_actions") window.told.push(message.payload.transitions[0].actions);
            return send.call(this, data);
          };
        }"""
    )
    act()
    packets = page.evaluate("window.told")
    return [set(keys) for keys in packets]


def test_looking_up_and_down_by_keys_by_dragging_and_by_buttons(open_page):
    page = open_page(viewport={"width": 1280, "height": 720})
    assert "look up and down" in page.locator(".hint").text_content()

    def act() -> None:
        for key in ("i", "k", "r", "F", "PageUp", "PageDown"):
            page.keyboard.down(key)
            page.keyboard.up(key)
        box = page.locator("#view").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for modifier in ("Shift", None):  # up: looks with Shift, walks without
            if modifier:
                page.keyboard.down(modifier)
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x, y - 40)
            page.mouse.up()
            if modifier:
                page.keyboard.up(modifier)

    told = _sent_keys(page, act)
    assert [keys for keys in told if keys] == [{"i"}, {"k"}, {"i"}, {"k"}, {"i"}, {"k"}, {"i"}, {"w"}]
    assert page.locator("#pad button[data-key=i], #pad button[data-key=k]").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_walk_turn_away_and_back_and_see_what_is_remembered(open_page, scheme):
    page = open_page(viewport={"width": 1280, "height": 720}, color_scheme=scheme)
    page.wait_for_function(f"({PIXELS})('view').some((v) => v !== 0 && v !== 255)")  # the start picture is there
    _hold(page, "w", 2)
    ahead = _remembered(page)
    assert "most recent" in ahead[-1]
    _hold(page, "ArrowLeft", 6)
    away = _remembered(page)
    assert away != ahead
    _hold(page, "l", 6)
    assert any(" ago, " in note for note in _remembered(page))  # older frames came back into the context
    _stand(page)  # so that no chunk of before is on its way
    page.locator("#compare").check()
    _hold(page, "l", 2)
    assert page.locator("#without").is_visible()
    page.wait_for_function(f"({PIXELS})('without').some((v) => v !== 0 && v !== 255)")
    _stand(page)
    page.locator("#strategy").select_option("recent")
    _hold(page, "w", 3)
    numbers = [int(note.split()[1]) for note in _remembered(page)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # a window of the last frames
    stats = dict(zip(page.locator("#stats dt").all_text_contents(), page.locator("#stats dd").all_text_contents(),
                     strict=True))  # fmt: skip
    assert stats["key to picture"].endswith(" ms") and int(stats["frames remembered"]) > 50
    assert stats["pictures"] == "video/h264"  # this Chromium can; the next test asks for JPEG
    page.screenshot(path=SHOTS / f"explorer-{scheme}.png")
    page.locator("#new").click()
    page.locator("#known").check()  # a place that was looked at before
    page.locator("#begin").click()
    page.wait_for_function("Number(document.getElementById('frame').max) === 95")
    _hold(page, "l", 2)
    assert any(" ago, " in note for note in _remembered(page))


def test_jpeg_is_shown_as_well_and_the_mouse_walks(open_page):
    page = open_page("?known=0&video=jpeg", viewport={"width": 1280, "height": 720})
    before = page.evaluate(PIXELS, "view")
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 102)
    page.wait_for_function("Number(document.body.dataset.chunks) >= 2")
    page.mouse.up()
    last = _stand(page)
    page.wait_for_timeout(400)
    assert last >= 8 and "image/jpeg" in page.locator("#stats").text_content()
    assert page.evaluate(PIXELS, "view") != before
    page.wait_for_timeout(500)
    assert _last_frame(page) == last  # nothing is held any more


def test_on_a_phone_it_is_walked_by_touch(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    button = page.locator("#pad button", has_text="ahead")
    assert button.is_visible()
    button.dispatch_event("pointerdown")
    page.wait_for_function("document.querySelectorAll('#memories li').length > 0")
    button.dispatch_event("pointerup")
    parts = "#pad button, #view, #map, #timeline, #controls > *, #history > *, .exports > :not([hidden])"
    boxes = [element.bounding_box() for element in page.locator(parts).all() if element.is_visible()]
    assert len(boxes) > 10
    for box in boxes:
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390  # nothing sticks out sideways
    page.screenshot(path=SHOTS / "explorer-phone.png")


def test_a_page_that_is_loaded_again_goes_on_goes_back_and_forks(open_page, tmp_path):
    page = open_page()
    _hold(page, "w", 3)
    frames = _stand(page)
    assert frames >= 12 and "#" in page.url
    page.reload()
    page.wait_for_function(f"Number(document.getElementById('frame').max) === {frames}")
    assert page.locator("#frame").input_value() == str(frames)
    page.locator("#frame").fill("6")
    page.locator("#rewind").click()
    assert "are kept" in page.locator("#sure-text").text_content()  # asked first
    page.locator("#sure-yes").click()
    page.wait_for_function("Number(document.getElementById('frame').max) === 8")
    page.locator("#undo").click()  # and taken back
    page.wait_for_function(f"Number(document.getElementById('frame').max) === {frames}")
    page.locator("#frame").fill("6")
    page.locator("#rewind").click()
    page.locator("#sure-yes").click()
    page.wait_for_function("Number(document.getElementById('frame').max) === 8")
    _hold(page, "l", 1)
    _stand(page)
    page.locator("#timeline").click(position={"x": 2, "y": 10})  # the first frame
    page.wait_for_function("document.getElementById('frame-number').textContent === '0'")
    page.locator("#fork-name").fill("another way")
    page.locator("#fork").click()
    page.wait_for_function("document.getElementById('branch').value === 'another way'")
    assert _last_frame(page) == 0
    _hold(page, "j", 1)
    forked = _stand(page)
    page.screenshot(path=SHOTS / "explorer-fork.png")
    page.reload()  # goes on in the branch
    page.wait_for_function(f"Number(document.getElementById('frame').max) === {forked}")
    assert page.locator("#branch").input_value() == "another way"
    page.locator("#branch").select_option("main")
    page.locator("#switch").click()
    page.wait_for_function("location.hash.endsWith('/main') && document.body.dataset.state === 'ready'")
    page.locator("#keep").click()
    with page.expect_download() as film:
        page.locator("#film").click()
    assert len(read_video(film.value.path().rename(tmp_path / "walk.mp4"))) == _last_frame(page) + 1
    with page.expect_download() as archive:
        page.locator("#archive").click()
    with WorldFile.open(import_world(archive.value.path(), tmp_path / "copy"), write=False) as file:
        assert {"main", "another way"} <= {branch.name for branch in file.branches()}
    with page.expect_download() as shot:
        page.locator("#shot").click()
    assert shot.value.suggested_filename.endswith(".png")


def test_a_photo_becomes_a_world_and_a_friend_watches(open_page, tmp_path):
    page = open_page()
    Image.fromarray(np.full((300, 400, 3), (200, 40, 40), np.uint8)).save(tmp_path / "photo.jpg")
    page.locator("#new").click()
    page.locator("#photo").set_input_files(tmp_path / "photo.jpg")
    page.wait_for_function(f"({PIXELS})('view')[0] > 150 && ({PIXELS})('view')[1] < 90")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    page.locator("#photo").set_input_files(tmp_path / "bad.png")
    page.wait_for_function("document.getElementById('status').textContent.includes('no picture')")
    _hold(page, "j", 2)  # the world is still there
    _stand(page)
    page.locator("#new").click()
    page.locator("#begin").click()
    page.wait_for_function("Number(document.getElementById('frame').max) === 0")
    page.locator("#mine").click()
    assert " frames" in page.locator("#worlds button").first.text_content()
    page.locator("#worlds button:not(:has-text('you are here'))").first.click()  # back to the one before
    page.wait_for_function("Number(document.getElementById('frame').max) >= 8")
    page.wait_for_function(f"({PIXELS})('view').some((v) => v !== 0 && v !== 255)")
    page.locator("#share").click()
    link = page.locator("#link").input_value()
    assert "this computer only" in page.locator("#link-note").text_content()
    page.keyboard.press("Escape")
    friend = open_page(link[link.index("?watch=") :])
    last = _stand(page)
    assert _last_frame(friend) == last and not friend.locator(".mine").first.is_visible()
    first_tile = "[...document.getElementById('timeline').getContext('2d').getImageData(5, 5, 1, 1).data]"
    friend.wait_for_function(f"{first_tile}[0] > 150 && {first_tile}[1] < 90")  # who came later sees the photo there
    friend.locator("#timeline").hover(position={"x": 3, "y": 10})
    assert f"frame 0 of {last}" in friend.locator("#peek").text_content()
    _hold(page, "l", 2)
    last = _stand(page)
    friend.wait_for_function(f"Number(document.getElementById('frame').max) === {last}")
    friend.keyboard.down("w")  # does nothing
    friend.wait_for_timeout(500)
    assert _last_frame(page) == last
    friend.screenshot(path=SHOTS / "explorer-watching.png")
    page.reload()  # the link still leads to this world
    page.wait_for_function("document.body.dataset.state === 'ready'")
    friend.wait_for_function("document.body.dataset.state === 'watching'")
    _hold(page, "l", 1)
    last = _stand(page)
    friend.wait_for_function(f"Number(document.getElementById('frame').max) === {last}")


TAP_BEFORE_A_WORLD_IS_ASKED_FOR = """
window.WebSocket = class extends WebSocket {
  set onopen(begin) {
    if (begin) this.addEventListener("open", () => {
      const tap = { code: "KeyW", key: "w", bubbles: true };
      for (const kind of ["keydown", "keyup"]) document.body.dispatchEvent(new KeyboardEvent(kind, tap));
      begin();
    });
  }
};
"""


def test_a_key_that_is_tapped_before_a_world_stands_is_a_short_step_in_it(open_page):
    page = open_page(script=TAP_BEFORE_A_WORLD_IS_ASKED_FOR)
    page.wait_for_function("Number(document.body.dataset.chunks) >= 1")
    last = _stand(page)
    page.wait_for_timeout(500)
    assert _last_frame(page) == last  # nothing holds the key


def test_keys_walk_wherever_the_focus_is_and_stay_held(open_page):
    page = open_page()
    for control in ("#strategy", "#context", "#frame", "#compare"):
        page.locator(control).focus()
        _hold(page, "w", 1)
    assert page.locator("#strategy").input_value() == "coverage"  # the key chose nothing
    page.locator("#fork-name").press_sequentially("awl")
    _stand(page)
    before = _last_frame(page)
    page.wait_for_timeout(300)
    assert page.locator("#fork-name").input_value() == "awl" and _last_frame(page) == before  # one writes there
    page.locator("#view").focus()
    page.keyboard.down("l")
    page.wait_for_function(f"Number(document.getElementById('frame').max) > {before}")
    page.locator("#frame").evaluate("(slider) => { slider.value = 2 }")
    page.locator("#rewind").click()
    page.locator("#sure-yes").click()
    page.wait_for_function(f"Number(document.getElementById('frame').max) < {before}")
    chunks = page.evaluate("Number(document.body.dataset.chunks)")
    page.wait_for_function(f"Number(document.body.dataset.chunks) >= {chunks + 3}")  # the key is still held
    page.keyboard.up("l")


def test_a_frame_is_painted_on_and_the_world_remembers_it_so(open_page):
    page = open_page(viewport={"width": 1366, "height": 768})
    _hold(page, "l", 1)
    last = _stand(page)
    page.wait_for_function("document.getElementById('state').textContent === 'ready'")
    page.locator("#brush").click()
    page.locator("#painting").wait_for()
    page.locator("#paint-apply").click()  # nothing is painted
    assert "Paint something" in page.locator("#paint-say").text_content()
    page.locator("#paint-tool").select_option("box")
    box = page.locator("#paint").bounding_box()
    for _ in range(2):
        page.mouse.move(box["x"] + 40, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + 300, box["y"] + 200)
        page.mouse.up()
    page.locator("#paint-undo").click()  # one of both is left
    page.screenshot(path=SHOTS / "explorer-paint.png")
    page.locator("#paint-apply").click()
    page.locator("#painting").wait_for(state="hidden")
    assert _last_frame(page) > last and "not remembered any more" in page.locator("#notice").text_content()
    page.locator("#undo").click()
    page.wait_for_function(f"Number(document.getElementById('frame').max) === {last}")


@pytest.mark.parametrize("size", [(390, 844), (844, 390)])
def test_on_a_phone_picture_and_pad_are_in_sight(open_page, size):
    page = open_page(viewport={"width": size[0], "height": size[1]}, has_touch=True, is_mobile=True)
    for part in ("#view", "#pad"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= size[0], part
        assert box["y"] >= 0 and box["y"] + box["height"] <= size[1], part
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_a_film_of_the_page_is_recorded(app, installed, tmp_path, monkeypatch):
    monkeypatch.setattr("context_as_memory.server.record.WALK", (("w", 1), ("j", 2)))
    with ThreadPoolExecutor(1) as pool:  # playwright allows one of its kind per thread
        film = read_video(pool.submit(record, app, tmp_path / "demo.mp4", {"log_level": "warning"}).result())
    assert film.shape == (4, 720, 1280, 3) and np.abs(film[-1].astype(int) - film[0]).mean() > 0.5
