"""The page and its line: prefixes, dead lines, other servers, other keyboards, a second tab."""

import contextlib
import socket
import threading
import time

import pytest
from test_explorer import _hold, _last_frame, _sent_keys

from context_as_memory.server.app import create_app
from context_as_memory.server.limits import Limits
from context_as_memory.server.record import serving
from context_as_memory.server.store import FolderStore
from tiny import save_model

STATE = "document.body.dataset.state"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def make_app(tmp_path, weights):
    def made(name: str = "worlds", root_path: str = "", **limits):
        return create_app(FolderStore(tmp_path / name, weights, "cpu"), Limits(**limits), root_path=root_path)

    return made


@pytest.fixture
def pages(browser):
    contexts = []

    def opened(address: str, **options):
        contexts.append(browser.new_context(bypass_csp=True, **options))
        page = contexts[-1].new_page()
        page.goto(address + "?known=0")
        return page

    yield opened
    for context in contexts:
        context.close()


def _wait(page, state: str, timeout: float = 30_000) -> None:
    page.wait_for_function(f"{STATE} === '{state}'", timeout=timeout)


def _status(page) -> str:
    return page.locator("#status").text_content()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Relay:
    """Passes bytes on to a server, until it is told to swallow them: the lines of before stay open, and dead."""

    def __init__(self, target: int) -> None:
        self.target, self.deaf, self.closed = target, threading.Event(), False
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self.listening.accept()
                if self.closed:  # a waiting accept takes one more
                    ours.close()
                    return
                theirs = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [ours, theirs]
                deaf = self.deaf  # of this line
                for a, b in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass, args=(a, b, deaf), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, deaf: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not deaf.is_set():
                    target.sendall(data)

    def swallow(self) -> None:
        """Every line that is open now passes nothing any more; new ones do."""
        self.deaf.set()
        self.deaf = threading.Event()

    def close(self) -> None:
        self.closed = True
        for one in (self.listening, *self._sockets):
            one.close()


def test_the_page_walks_under_a_prefix_and_within_its_own_rules(make_app, browser):
    """Without `bypass_csp`: the page's policy for browsers stands in nobody's way."""
    with serving(make_app(root_path="/cam")) as address:
        context = browser.new_context()
        page = context.new_page()
        errors: list[str] = []
        page.on("console", lambda line: errors.append(line.text) if line.type in ("error", "warning") else None)
        page.goto(f"{address}cam/?known=0")
        page.wait_for_selector("body[data-state=ready]")
        page.keyboard.down("w")
        page.wait_for_selector("body:not([data-chunks='0'])")
        page.keyboard.up("w")
        page.wait_for_selector("#memories img")
        assert "/cam/" in page.url and errors == []
        context.close()


def test_a_dead_line_is_noticed_and_the_walk_goes_on_with_the_held_key(make_app, pages):
    with serving(make_app()) as address:
        relay = Relay(int(address.rsplit(":", 1)[1].strip("/")))
        try:
            page = pages(f"http://127.0.0.1:{relay.port}/")
            _wait(page, "ready")
            _hold(page, "w", 2)
            place = page.evaluate("location.hash")
            before = _last_frame(page)
            relay.swallow()
            page.keyboard.down("w")
            page.wait_for_function(f"Number(document.getElementById('frame').max) > {before + 12}", timeout=40_000)
            page.keyboard.up("w")
            assert page.evaluate("location.hash") == place and place
        finally:
            relay.close()


def test_a_place_is_never_replaced_by_another(make_app, pages):
    """The server comes back from another folder: the page says so, keeps its address, and goes on when it is right."""
    port = _free_port()
    with serving(make_app("one"), {"port": port, "log_level": "warning"}) as address:
        page = pages(address)
        _wait(page, "ready")
        _hold(page, "w", 2)
        place = page.evaluate("location.hash")
        assert place
    with serving(make_app("two"), {"port": port, "log_level": "warning"}):
        _wait(page, "refused", 60_000)
        assert "keeps no world" in _status(page) and "New world" in _status(page)
        assert page.evaluate("location.hash") == place
        page.keyboard.press("w")  # says nothing of another kind
        page.wait_for_timeout(300)
        assert "keeps no world" in _status(page)
    with serving(make_app("one"), {"port": port, "log_level": "warning"}):
        page.reload()
        _wait(page, "ready")
        assert page.evaluate("location.hash") == place and _last_frame(page) >= 8


def test_a_world_that_nobody_walked_in_has_no_address_and_reloading_begins_another(make_app, pages):
    with serving(make_app()) as address:
        page = pages(address)
        _wait(page, "ready")
        assert page.evaluate("location.hash") == ""
        page.reload()
        _wait(page, "ready")
        _hold(page, "l", 1)
        assert page.evaluate("location.hash").endswith("/main")


def test_keys_count_by_their_place_and_none_can_stick(make_app, pages):
    """AZERTY, Russian, an input method, a key without a place; and a key that goes up with another letter."""
    with serving(make_app()) as address:
        page = pages(address)
        _wait(page, "ready")

        def act():
            keys = [("z", "KeyW"), ("q", "KeyA"), ("ц", "KeyW"), ("Process", "KeyD"), ("w", ""), ("l", "KeyL")]
            for key, code in keys:
                page.evaluate(
                    """([key, code]) => {
                      for (const [type, shown] of [["keydown", key], ["keyup", key === "l" ? "L" : key]])
                        document.body.dispatchEvent(new KeyboardEvent(type, { key: shown, code, bubbles: true }));
                    }""",
                    [key, code],
                )

        sent = _sent_keys(page, act)
        assert [keys for keys in sent if keys] == [{"w"}, {"a"}, {"w"}, {"d"}, {"w"}, {"l"}]
        assert sent[-1] == set() and len(sent) == 12


def test_a_second_tab_offers_to_watch_or_to_take_over(make_app, pages):
    with serving(make_app()) as address:
        first = pages(address)
        _wait(first, "ready")
        _hold(first, "w", 2)
        place = first.evaluate("location.hash")
        second = pages(address.rstrip("/") + "/")
        _wait(second, "ready")
        second.goto(f"{address}?known=0{place}")
        second.reload()
        _wait(second, "refused")
        assert "another tab" in _status(second) and "process" not in _status(second)
        assert second.evaluate("location.hash") == place
        second.locator("#take").click()
        _wait(second, "ready")
        _wait(first, "closed")
        assert "goes on in another tab" in _status(first)
        _hold(second, "w", 1)
        first.reload()
        _wait(first, "refused")
        first.locator("#look").click()
        _wait(first, "watching")
        assert not first.locator(".hint").is_visible()


def test_a_page_that_was_left_alone_goes_on_at_the_next_key(make_app, pages):
    with serving(make_app(idle_s=2.0)) as address:
        page = pages(address)
        _wait(page, "ready")
        _hold(page, "l", 1)
        before = _last_frame(page)
        _wait(page, "closed")
        assert "hold a key" in _status(page)
        page.keyboard.down("l")
        page.wait_for_function(f"Number(document.getElementById('frame').max) > {before}")
        page.keyboard.up("l")


def test_places_that_are_taken_are_tried_again_until_one_is_free(make_app, pages):
    with serving(make_app(sessions=1)) as address:
        first = pages(address)
        _wait(first, "ready")
        second = pages(address)
        second.wait_for_function("document.getElementById('status').textContent.includes('trying again (2)')")
        assert "places are taken" in _status(second)
        first.close()
        _wait(second, "ready", 60_000)


def test_a_server_that_is_away_for_long_is_found_again(make_app, pages):
    port = _free_port()
    with serving(make_app(), {"port": port, "log_level": "warning"}) as address:
        page = pages(address)
        _wait(page, "ready")
        _hold(page, "l", 1)
        before = _last_frame(page)
    page.wait_for_function("document.getElementById('status').textContent.includes('trying again')")
    page.wait_for_function("document.getElementById('state').textContent === 'disconnected'")
    page.evaluate("for (let i = 0; i < 12; i++) dispatchEvent(new Event('online'))")  # many tries
    time.sleep(1)
    with serving(make_app(), {"port": port, "log_level": "warning"}):
        page.keyboard.down("l")  # somebody is there: tried at once
        page.wait_for_function(f"Number(document.getElementById('frame').max) > {before}", timeout=60_000)
        page.keyboard.up("l")
