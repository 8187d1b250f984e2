"""The explorer without a browser: the real application around painted worlds."""

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import CancelledError
from pathlib import Path

import msgpack
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from context_as_memory.cli.explore import is_loopback
from context_as_memory.errors import UserError
from context_as_memory.formats.video import read_video
from context_as_memory.server.app import LOOPBACK, PATH, create_app
from context_as_memory.server.hub import Broadcast, Hub, JsonLines, log_event
from context_as_memory.server.limits import Limits
from context_as_memory.server.outbox import Viewer
from context_as_memory.server.protocol import (
    FORMATS,
    ChunkStats,
    Event,
    Failure,
    Fork,
    FrameBatch,
    Init,
    Ready,
    Rewind,
    Settings,
    decode,
    encode,
)
from context_as_memory.server.record import record
from context_as_memory.server.session import Session
from context_as_memory.server.store import FolderStore
from context_as_memory.storage import WorldFile, import_world
from test_protocol import MESSAGES
from tiny import PaintedWorld, hold

HOSTS = [*LOOPBACK, "testserver"]  # the test client calls itself so


@pytest.fixture
def client(store):
    app = create_app(store, Limits(sessions=2, viewers=1), hosts=HOSTS)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def _receive(socket):
    return decode(socket.receive_bytes(), 10_000_000)


def _until(socket, kind):
    while not isinstance(message := _receive(socket), kind):
        pass
    return message


def test_the_real_application_walks(client):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init(seed=3, realtime_output_format="h264")))
        ready = _receive(socket)
        assert isinstance(ready, Ready) and ready.driver and ready.world
        batch = _receive(socket)
        assert isinstance(batch, FrameBatch) and batch.content_type == "video/h264"
        socket.send_bytes(encode(hold("l", 1)))
        kinds = [type(_receive(socket)).type for _ in range(6)]
        assert kinds == ["frame_batch", "context", "chunk_stats"] * 2
        socket.send_bytes(encode(hold("", 2)))
        socket.send_bytes(encode(Settings(strategy="nonsense", max_context=1)))
        assert "nonsense" in _until(socket, Failure).content
    assert client.get("/healthz").json() == {"status": "ok"}
    text = client.get("/metrics").text
    assert "cam_chunks_total " in text and "cam_sessions_open 0" in text and "cam_failures_total 1" in text
    assert "explorer" in client.get("/").text
    for name in (
        "app.js",
        "map.js",
        "msgpack.js",
        "player.js",
        "timeline.js",
        "style.css",
        "brush.js",
        "shell.js",
        "strip.js",
        "theme.js",
    ):
        assert client.get(f"/{name}").status_code == 200


def test_others_watch_and_touch_nothing(client):
    with client.websocket_connect(PATH) as visitor:
        visitor.send_bytes(encode(Init()))
        share = _receive(visitor).share
        with client.websocket_connect(PATH) as viewer:
            viewer.send_bytes(encode(Init(watch=share)))
            ready = _receive(viewer)
            assert not ready.driver and ready.world is None and _receive(viewer).chunk_index == -1
            viewer.send_bytes(encode(hold("w", 7)))  # is not taken
            viewer.send_text("nor is this")
            with client.websocket_connect(PATH) as third:
                third.send_bytes(encode(Init(watch=share)))
                assert "already watch" in _receive(third).content
            visitor.send_bytes(encode(hold("j", 1)))
            theirs, ours = _until(viewer, ChunkStats), _until(visitor, ChunkStats)
            assert theirs == ours and ours.event_id == ours.received_event_id == 1
            visitor.send_bytes(encode(hold("", 2)))
            visitor.send_bytes(encode(Rewind(frame=1)))
            theirs, ours = _until(viewer, Ready), _until(visitor, Ready)
            assert ours.driver and ours.world and not theirs.driver and theirs.world is None  # a name opens a world
            visitor.send_bytes(encode(Fork(frame=1, name="main")))
            refusal = _until(visitor, Failure).content
            assert "has a branch 'main'" in refusal and "/" not in refusal  # no folders of the server
            visitor.close()
            assert "has left" in _until(viewer, Failure).content
            with pytest.raises(WebSocketDisconnect):
                _until(viewer, Failure)
    with client.websocket_connect(PATH) as late:
        late.send_bytes(encode(Init(watch=share)))
        assert "nobody walks" in _receive(late).content


def test_a_viewer_who_lags_is_let_go_and_its_queue_is_bounded():
    async def scenario():
        viewer = Viewer("jpeg", Limits(waiting_messages=3))
        viewer.offer([b"1", b"2"])
        assert not viewer.lagging
        viewer.offer([b"3", b"4"])
        assert viewer.lagging and viewer.packets.qsize() == 3

    asyncio.run(scenario())


def test_what_has_begun_is_finished_when_nobody_waits_any_more(store):
    async def scenario():
        hub, done = Hub(store, Limits()), []
        work = asyncio.ensure_future(hub.alone(lambda: (time.sleep(0.2), done.append(1))))
        await asyncio.sleep(0.05)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert done == [1]

    asyncio.run(scenario())


def test_a_script_gives_way_to_held_keys(store):
    """It asks first and is served second; where nobody holds keys, first."""

    async def scenario(keys: str) -> list[str]:
        hub, order = Hub(store, Limits()), []
        script, walker = Broadcast(Session(store), 0), Broadcast(Session(store), 1)
        hub.broadcasts = {script, walker}
        for broadcast in (script, walker):
            broadcast.session.receive(Init())
        script.session.receive(Event(kind="camera_actions", event_id=1, payload=[["j"]] * 100))
        walker.session.receive(hold(keys, 1))
        await hub.step(script)

        async def one(name: str, broadcast: Broadcast) -> None:
            await hub.step(broadcast)
            order.append(name)

        await asyncio.gather(one("script", script), one("walker", walker))
        script.session.close()
        walker.session.close()
        return order

    assert asyncio.run(scenario("l")) == ["walker", "script"]
    assert asyncio.run(scenario("")) == ["script", "walker"]


def _turned_away(socket, code: int = 1008) -> None:
    assert _receive(socket).code == "protocol"
    with pytest.raises(WebSocketDisconnect) as end:
        socket.receive_bytes()
    assert end.value.code == code


def test_too_many_visitors_are_told_so_and_strangers_are_turned_away(client, store):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            visitor = stack.enter_context(client.websocket_connect(PATH))
            visitor.send_bytes(encode(Init()))
            assert isinstance(_receive(visitor), Ready)
        third = stack.enter_context(client.websocket_connect(PATH))
        third.send_bytes(encode(Init()))
        assert "places are taken" in _receive(third).content
        with pytest.raises(WebSocketDisconnect) as end:
            third.receive_bytes()
        assert end.value.code == 1013
    with client.websocket_connect(PATH, headers={"origin": "https://elsewhere.example"}) as socket:
        _turned_away(socket)
    # A name of another site that points here: its pages have the same origin, but not a host of ours.
    assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400
    with TestClient(create_app(store, token="secret", hosts=["*"])) as locked:  # one event loop, as in a server
        for query in ("", "?token=wrong", "?token=%C3%A9"):
            with locked.websocket_connect(PATH + query) as socket:
                socket.send_bytes(encode(Init()))
                _turned_away(socket)
            with locked.websocket_connect(PATH + query) as socket:
                socket.send_bytes(encode(Init(first_frame=bytes(100_000))))  # too long for somebody unknown
                _turned_away(socket, 1009)
        assert locked.get(f"/v1/worlds/{'0' * 16}/walk.mp4").status_code == 403
        with locked.websocket_connect(f"{PATH}?token=secret") as socket:
            socket.send_bytes(encode(Init()))
            share = _until(socket, Ready).share
            # The word of the share link is enough, for watching. (For the error see the fuzzed messages below.)
            with contextlib.suppress(CancelledError), locked.websocket_connect(PATH) as friend:
                friend.send_bytes(encode(Init(watch=share)))
                assert not _until(friend, Ready).driver


def test_a_forgotten_page_loses_its_place_and_heartbeats_do_not_help(store):
    app = create_app(store, Limits(idle_s=0.3), hosts=HOSTS)
    with TestClient(app, base_url="http://127.0.0.1") as client, client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init()))
        _until(socket, FrameBatch)
        for _ in range(5):
            socket.send_bytes(encode(Event(kind="heartbeat")))
            time.sleep(0.1)
        assert _until(socket, Failure).code == "idle"


def test_a_walk_is_exported_as_film_and_as_world(client, store, tmp_path):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init()))
        name = _receive(socket).world
        socket.send_bytes(encode(hold("l", 1)))
        _until(socket, ChunkStats)
        film = client.get(f"/v1/worlds/{name}/walk.mp4", headers={"range": "bytes=999999999-"})  # while somebody walks
        assert (
            film.status_code == 200
        )  # and whatever part is asked for, all is sent, and the next export is not held up
        (tmp_path / "walk.mp4").write_bytes(film.content)
        assert len(read_video(tmp_path / "walk.mp4")) >= 5
        (tmp_path / "world.tar").write_bytes(client.get(f"/v1/worlds/{name}/world.tar").content)
    assert [one["name"] for one in client.get("/v1/worlds").json()] == [name]
    locked = TestClient(create_app(store, token="secret", hosts=["*"]))
    assert locked.get("/v1/worlds").json() == [] != locked.get("/v1/worlds?token=secret").json()
    with WorldFile.open(import_world(tmp_path / "world.tar", tmp_path / "copy"), write=False) as file:
        assert file.branch("main").frames >= 5
    for path in (f"{name}/other.zip", f"{'0' * 16}/walk.mp4", "..%2F..%2Fetc/walk.mp4", f"{name}/walk.mp4?branch=no"):
        assert client.get(f"/v1/worlds/{path}").status_code == 404


def _answered(message) -> bool:
    """Whether something always comes back: not for an event that is in order, nor for settings."""
    return not isinstance(message, (Event, Settings))


ANSWERED = MESSAGES.filter(_answered).map(encode)
NO_TEXT_KEYS = st.dictionaries(st.integers(0, 9), st.integers(0, 9), min_size=1)
MALFORMED = NO_TEXT_KEYS.map(lambda payload: msgpack.packb({"type": "event", "kind": "shown", "payload": payload}))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=20) | MALFORMED | ANSWERED, min_size=1, max_size=3))
def test_fuzzed_messages_close_with_a_code_or_are_answered(fuzzed, packets):
    with TestClient(fuzzed, base_url="http://127.0.0.1") as client:
        # Leaving the block, the test client may cancel the server's side before it has seen the end; that is its own.
        with contextlib.suppress(CancelledError), client.websocket_connect(PATH) as socket:
            try:
                for data in packets:
                    socket.send_text(data) if isinstance(data, str) else socket.send_bytes(data)
                    message = _receive(socket)  # an answer, or first the reason and then the end
                    assert not isinstance(message, Failure) or message.code != "fault", message
            except WebSocketDisconnect as end:
                assert end.code in (1000, 1001, 1008, 1009)
        assert client.get("/healthz").status_code == 200
        assert "cam_sessions_open 0" in client.get("/metrics").text


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory, weights):
    store = FolderStore(tmp_path_factory.mktemp("fuzzed"), weights, "cpu", PaintedWorld)
    return create_app(store, hosts=HOSTS)


def test_the_log_is_one_json_object_a_line():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("context_as_memory.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        log_event("exported", what="walk.mp4", bytes=3)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    row = json.loads(stream.getvalue())
    assert row["event"] == "exported" and row["bytes"] == 3 and row["level"] == "info"


def test_a_film_of_another_kind_is_refused_before_the_walk(tmp_path):
    with pytest.raises(UserError, match="mp4 or .webp"):
        record(None, tmp_path / "demo.gif", {})


def test_only_loopback_needs_no_token():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.1.2") and not is_loopback("example.org")
    assert set(FORMATS) == {"jpeg", "h264", "raw"}


def test_a_server_that_is_told_to_end_loses_no_chunk_and_a_new_one_goes_on(tmp_path, weights):
    """The real command in its own process: walk, SIGTERM in the middle of a chunk, start again, go on."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "context_as_memory", "explore", "--no-browser", "--no-guard", "--port", str(port),
               "--weights",
               str(weights), "--worlds", str(tmp_path / "worlds"), "--log", str(tmp_path / "log.jsonl")]  # fmt: skip

    def start() -> subprocess.Popen:
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
                return process
            assert process.poll() is None
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def say(connection, message):
        connection.send(encode(message))

    process = start()
    seen = 0
    with connect(f"ws://127.0.0.1:{port}{PATH}", max_size=None) as visitor:
        say(visitor, Init())
        name = decode(visitor.recv(), 10**7).world
        say(visitor, hold("l", 1))
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = decode(visitor.recv(), 10**7)
                if isinstance(message, ChunkStats):
                    seen = message.frames
                    if message.chunk_index == 2:
                        process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM) and seen >= 13
    process = start()
    try:
        with connect(f"ws://127.0.0.1:{port}{PATH}", max_size=None) as visitor:
            say(visitor, Init(world=name))
            ready = decode(visitor.recv(), 10**7)
            assert len(ready.poses) + 1 >= seen  # whatever was shown is there
            say(visitor, hold("l", 1))
            assert isinstance(decode(visitor.recv(), 10**7), FrameBatch)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    events = [json.loads(line)["event"] for line in Path(tmp_path / "log.jsonl").read_text().splitlines()]
    assert events.count("started") == 2 and "session_opened" in events and events[-1] == "stopped"
