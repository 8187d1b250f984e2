"""The explorer without a browser: messages, a session's states, and the real application around painted worlds."""

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
import threading
import time
import urllib.request
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from context_as_memory.cli.explore import is_loopback
from context_as_memory.errors import UserError
from context_as_memory.server.app import LOOPBACK, PATH, create_app
from context_as_memory.server.hall import Hall, JsonLines, Viewer, note
from context_as_memory.server.limits import Limits
from context_as_memory.server.protocol import (
    FORMATS,
    ChunkStats,
    Event,
    Failure,
    Fork,
    FrameBatch,
    Init,
    Memory,
    Ready,
    Rewind,
    Settings,
    Switch,
    decode,
    encode,
)
from context_as_memory.server.session import LEGAL, Frames, Session, State
from context_as_memory.server.shelf import FolderShelf
from context_as_memory.video import read_video
from context_as_memory.worldfile import WorldFile, import_world
from painted_world import PaintedWorld
from test_protocol import MESSAGES
from tiny_world import save_tiny_world

HOSTS = [*LOOPBACK, "testserver"]  # the test client calls itself so


def hold(keys: str, event_id: int | None = None) -> Event:
    """The keys that are held from now on."""
    payload = {"mode": "state", "transitions": [{"actions": list(keys), "client_ts_ms": 1}]}
    return Event(kind="camera_actions", event_id=event_id, payload=payload)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_world(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def shelf(tmp_path, weights):
    return FolderShelf(tmp_path / "worlds", weights, "cpu", PaintedWorld)


@pytest.fixture
def sessions(shelf):
    """Makes sessions, which are closed in the end."""
    made = []

    def make(shelf=shelf, **limits) -> Session:
        made.append(Session(shelf, Limits(**limits)))
        return made[-1]

    yield make
    for session in made:
        session.close()


# -- sessions --------------------------------------------------------------------------------------------------------


def _of(told, kind):
    return [item for item in told if isinstance(item, kind)]


def test_a_session_walks_while_keys_are_held_and_the_latest_event_wins(sessions):
    session = sessions()
    with pytest.raises(UserError, match="before init"):
        session.receive(hold("w"))
    ready, first = session.receive(Init())
    assert isinstance(ready, Ready) and ready.chunk_frames == 4 and session.state is State.STANDING
    assert isinstance(first, Frames) and len(first.frames_u8) == 1 and first.chunk_index == -1
    assert not session.wants_to_move and session.step() == []
    session.receive(hold("j", 2))
    session.receive(hold("w", 1))  # came late
    frames, memory, stats = session.step()
    assert isinstance(frames, Frames) and isinstance(memory, Memory) and isinstance(stats, ChunkStats)
    assert frames.first == 1 and len(frames.frames_u8) == 4 and frames.event_id == 2
    assert frames.poses[-1][:2] == first.poses[0][:2] and frames.poses[-1][2] > first.poses[0][2]  # turned left
    assert memory.frames == [0] and memory.ages == [1] and memory.jpegs[0].startswith(b"\xff\xd8")
    assert stats.frames == 5 and stats.event_id == stats.received_event_id == 2
    session.receive(Settings(memory="recent", max_context=2))
    assert _of(session.step(), Memory)[0].frames == [3, 4]
    session.receive(hold("", 3))
    assert session.state is State.STANDING and session.step() == []
    session.close()
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.receive(Init())


def test_who_says_what_is_shown_is_never_far_behind(sessions):
    session = sessions(chunks_ahead=2)
    ready, _ = session.receive(Init())
    session.receive(hold("w"))
    for _ in range(3):
        assert session.step()  # one that says nothing is held back by the network alone
    session.receive(Event(kind="shown", payload=0))
    assert not session.wants_to_move and session.step() == []  # chunks 1 and 2 are not shown yet
    session.receive(Event(kind="shown", payload=99))  # there is none
    assert not session.wants_to_move
    session.receive(Event(kind="shown", payload=2))
    session.receive(Event(kind="shown", payload=1))  # came late
    assert session.step() and session.step() and not session.wants_to_move
    session.receive(Rewind(frame=1))
    session.receive(hold("w"))
    session.receive(Event(kind="shown", payload=4))  # of the walk before
    assert session.step() and session.step() and not session.wants_to_move
    with pytest.raises(UserError, match="chunk_index"):
        session.receive(Event(kind="shown", payload="all"))


def test_only_legal_transitions_happen(sessions):
    for before in State:
        for after in State:
            session = sessions()
            session.state = before
            if after in LEGAL[before]:
                session._move(after)
            else:
                with pytest.raises(UserError, match="cannot become"):
                    session._move(after)
    assert LEGAL[State.CLOSED] == {State.CLOSED} and State.WALKING not in LEGAL[State.NEW]


def test_looking_up_and_walking_stays_on_the_ground_also_over_chunks(sessions):
    session = sessions()
    session.receive(Init())
    session.receive(hold("i"))
    for _ in range(3):
        session.step()
    session.receive(hold("w"))
    session.step()
    cameras = session._world.bank.cameras
    pitch = np.arcsin(cameras.forward[:, 2])
    assert np.allclose(np.diff(pitch[:13]), np.radians(3), atol=1e-6)  # no chunk begins level again
    assert np.ptp(cameras.position[:, 2]) < 1e-9 and np.linalg.norm(cameras.position[-1] - cameras.position[12]) > 0.5


def test_a_world_that_cannot_be_opened_leaves_the_walker_where_he_is(sessions):
    first, second = sessions(), sessions()
    taken = first.receive(Init())[0].world
    second.receive(Init())
    second.receive(hold("w"))
    second.step()
    for wrong in (Init(world=taken), Init(world="0" * 16), Init(seed=-1), Init(seed=2**40), Switch(branch="none")):
        with pytest.raises(UserError):
            second.receive(wrong)
        second.receive(hold("w"))
        assert len(second.step()) == 3


def test_a_world_that_nobody_walked_in_is_not_kept_and_there_is_an_end_to_them(sessions, shelf):
    session = sessions(kept_worlds=2)
    session.receive(Init())
    session.receive(Init())
    assert len(shelf.names()) == 1
    session.receive(hold("w"))
    session.step()
    session.receive(Init())
    assert len(shelf.names()) == 2
    with pytest.raises(UserError, match="2 worlds"):
        session.receive(Init())
    session.close()
    assert len(shelf.names()) == 1


def test_a_chunk_that_fails_is_not_tried_again_and_again(sessions, monkeypatch):
    session = sessions()
    session.receive(Init())

    def fail(*values, **named):
        raise UserError("the disk is full")

    monkeypatch.setattr(PaintedWorld, "step", fail)
    session.receive(hold("w"))
    with pytest.raises(UserError, match="full"):
        session.step()
    assert session.state is State.STANDING


def test_a_known_place_is_remembered_all_around(sessions):
    session = sessions()
    ready, first = session.receive(Init(start="vault", known=True))
    assert first.first == 95 and ready.chunks == [0]
    session.receive(hold("l"))
    assert _of(session.step(), Memory)[0].candidates > 10


def test_a_script_is_walked_frame_by_frame_and_then_stands(sessions):
    session = sessions()
    script = [["j"], ["j"], [], [], ["l"]]
    session.receive(Init(condition_inputs={"camera_actions": script}))
    headings = [pose[2] for _ in range(2) for pose in _of(session.step(), Frames)[0].poses]
    assert session.state is State.STANDING and session.step() == []
    turns = np.sign(np.round(np.diff([0.0, *headings]) - np.diff([0.0, headings[0]])[0] * np.eye(8)[0], 6))
    assert turns.tolist() == [0, 1, 0, 0, -1, 0, 0, 0]
    session.receive(Init(max_chunks=1))
    session.receive(hold("w"))
    assert session.step() and not session.wants_to_move  # no more than was asked for


def test_what_is_not_allowed_is_refused_and_the_walk_goes_on(sessions):
    session = sessions(history_frames=8, max_context=4)
    session.receive(Init())
    for message, words in (
        (hold("q"), "unknown keys"),
        (Event(kind="prompt", payload="x"), "mean nothing"),
        (Settings(memory="nonsense", max_context=2), "nonsense"),
        (Settings(memory="paper", max_context=5), "max_context"),
        (Failure(content="x"), "message of the server"),
        (Init(start="nowhere"), "nowhere"),
        (Init(first_frame=b"x"), "no picture"),
        (Init(realtime_output_format="gif"), "gif"),
        (Init(watch="x"), "cannot watch"),
        (Switch(branch="none"), "no branch"),
        (Fork(frame=0, name=""), "no name"),
        (Fork(frame=9, name="b"), "frame 9"),
    ):
        with pytest.raises(UserError, match=words):
            session.receive(message)
    session.receive(hold("w"))
    assert len(session.step()) == 3
    with pytest.raises(UserError, match="5 frames"):
        session.step()
    assert not session.wants_to_move  # it stopped; a new world may begin
    session.receive(Init(seed=1))


def test_beside_it_the_same_walk_without_memory(sessions, weights, tmp_path):
    """Real networks: with equal context both are bit-identical, since seed and path are; with less they are not."""
    session = sessions(FolderShelf(tmp_path / "real", weights, "cpu"))
    session.receive(Init(compare=True, memory="recent"))
    session.receive(hold("j"))
    for _ in range(3):
        with_memory, without = _of(session.step(), Frames)
        assert (with_memory.view, without.view) == ("memory", "without") and with_memory.poses == without.poses
        assert (with_memory.frames_u8 == without.frames_u8).all()
    session.receive(Settings(memory="coverage", max_context=3, compare=True))
    session.receive(hold("l"))
    told = [_of(session.step(), Frames) for _ in range(3)]
    assert any((a.frames_u8 != b.frames_u8).any() for a, b in told)
    session.receive(Settings(memory="coverage", max_context=3, compare=False))
    assert len(_of(session.step(), Frames)) == 1


def test_a_world_is_kept_rewound_and_forked(sessions):
    session = sessions()
    ready, first = session.receive(Init())
    session.receive(hold("l"))
    walked = [_of(session.step(), Frames)[0] for _ in range(3)]
    with pytest.raises(UserError, match="writ"):  # one walker at a time
        sessions().receive(Init(world=ready.world))
    session.close()

    again = sessions()
    ready, now = again.receive(Init(world=ready.world))
    assert now.first == 12 and (now.frames_u8[0] == walked[-1].frames_u8[-1]).all()
    assert len(ready.poses) == 12 and ready.chunks == [0, 1, 5, 9]
    ready, now = again.receive(Rewind(frame=2))
    assert now.first == 4 and len(ready.branches) == 2  # what came after is a branch
    again.receive(hold("l"))
    assert (_of(again.step(), Frames)[0].frames_u8 == walked[1].frames_u8).all()
    ready, now = again.receive(Fork(frame=1, name="another way"))
    assert ready.branch == "another way" and now.first == 4
    again.receive(hold("j"))
    again.step()
    ready, now = again.receive(Switch(branch="main"))
    assert ready.branch == "main" and now.first == 8
    again.close()
    third = sessions()
    ready, now = third.receive(Init(world=ready.world, branch="another way"))
    assert now.first == 8 and ready.branch == "another way"
    with pytest.raises(UserError, match="frame 99"):
        third.receive(Rewind(frame=99))
    third.close()
    for name in ("../etc", "0" * 16, ""):
        with pytest.raises(UserError):
            sessions().receive(Init(world=name))


def test_a_session_is_not_closed_in_the_middle_of_a_chunk(sessions, monkeypatch):
    session, order = sessions(), []
    session.receive(Init())
    session.receive(hold("w"))
    step = PaintedWorld.step

    def slow(world, *values, **named):
        time.sleep(0.2)
        chunk = step(world, *values, **named)
        order.append("chunk")
        return chunk

    monkeypatch.setattr(PaintedWorld, "step", slow)
    walker = threading.Thread(target=session.step)
    walker.start()
    time.sleep(0.05)
    session.close()
    order.append("closed")
    walker.join()
    assert order == ["chunk", "closed"]


# -- the application -------------------------------------------------------------------------------------------------


@pytest.fixture
def client(shelf):
    app = create_app(shelf, Limits(sessions=2, viewers=1), hosts=HOSTS)
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
        assert kinds == ["frame_batch", "memory", "chunk_stats"] * 2
        socket.send_bytes(encode(hold("", 2)))
        socket.send_bytes(encode(Settings(memory="nonsense", max_context=1)))
        assert "nonsense" in _until(socket, Failure).content
    assert client.get("/healthz").json() == {"status": "ok"}
    text = client.get("/metrics").text
    assert "cam_chunks_total " in text and "cam_sessions_open 0" in text and "cam_failures_total 1" in text
    assert "explorer" in client.get("/").text
    for name in ("app.js", "map.js", "msgpack.js", "player.js", "timeline.js", "style.css"):
        assert client.get(f"/{name}").status_code == 200


def test_others_watch_and_touch_nothing(client):
    with client.websocket_connect(PATH) as walker:
        walker.send_bytes(encode(Init()))
        share = _receive(walker).share
        with client.websocket_connect(PATH) as viewer:
            viewer.send_bytes(encode(Init(watch=share)))
            ready = _receive(viewer)
            assert not ready.driver and ready.world is None and _receive(viewer).chunk_index == -1
            viewer.send_bytes(encode(hold("w", 7)))  # is not heard
            viewer.send_text("nor is this")
            with client.websocket_connect(PATH) as third:
                third.send_bytes(encode(Init(watch=share)))
                assert "already watch" in _receive(third).content
            walker.send_bytes(encode(hold("j", 1)))
            theirs, ours = _until(viewer, ChunkStats), _until(walker, ChunkStats)
            assert theirs == ours and ours.event_id == ours.received_event_id == 1
            walker.send_bytes(encode(hold("", 2)))
            walker.send_bytes(encode(Rewind(frame=1)))
            theirs, ours = _until(viewer, Ready), _until(walker, Ready)
            assert ours.driver and ours.world and not theirs.driver and theirs.world is None  # a name opens a world
            walker.send_bytes(encode(Fork(frame=1, name="main")))
            refusal = _until(walker, Failure).content
            assert "has a branch 'main'" in refusal and "/" not in refusal  # no folders of the server
            walker.close()
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


def test_what_has_begun_is_finished_when_nobody_waits_any_more(shelf):
    async def scenario():
        hall, done = Hall(shelf, Limits()), []
        work = asyncio.ensure_future(hall.alone(lambda: (time.sleep(0.2), done.append(1))))
        await asyncio.sleep(0.05)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert done == [1]

    asyncio.run(scenario())


def _turned_away(socket) -> None:
    assert _receive(socket).code == "protocol"
    with pytest.raises(WebSocketDisconnect) as end:
        socket.receive_bytes()
    assert end.value.code == 1008


def test_too_many_walkers_are_told_so_and_strangers_are_turned_away(client, shelf):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            walker = stack.enter_context(client.websocket_connect(PATH))
            walker.send_bytes(encode(Init()))
            assert isinstance(_receive(walker), Ready)
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
    locked = TestClient(create_app(shelf, token="secret", hosts=["*"]))
    for query in ("", "?token=wrong", "?token=%C3%A9"):
        with locked.websocket_connect(PATH + query) as socket:
            _turned_away(socket)
    assert locked.get(f"/v1/worlds/{'0' * 16}/walk.mp4").status_code == 403
    with locked.websocket_connect(f"{PATH}?token=secret") as socket:
        socket.send_bytes(encode(Init()))
        assert isinstance(_receive(socket), Ready)


def test_a_walk_is_exported_as_film_and_as_world(client, shelf, tmp_path):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init()))
        name = _receive(socket).world
        socket.send_bytes(encode(hold("l", 1)))
        _until(socket, ChunkStats)
        film = client.get(f"/v1/worlds/{name}/walk.mp4")  # while somebody walks in it
        assert film.status_code == 200
        (tmp_path / "walk.mp4").write_bytes(film.content)
        assert len(read_video(tmp_path / "walk.mp4")) >= 5
        (tmp_path / "world.tar").write_bytes(client.get(f"/v1/worlds/{name}/world.tar").content)
    assert client.get("/v1/worlds").json() == [name]
    locked = TestClient(create_app(shelf, token="secret", hosts=["*"]))
    assert locked.get("/v1/worlds").json() == []  # a token is in the share link too
    with WorldFile.open(import_world(tmp_path / "world.tar", tmp_path / "copy"), write=False) as file:
        assert file.branch("main").frames >= 5
    for path in (f"{name}/other.zip", f"{'0' * 16}/walk.mp4", "..%2F..%2Fetc/walk.mp4", f"{name}/walk.mp4?branch=no"):
        assert client.get(f"/v1/worlds/{path}").status_code == 404


def _answered(message) -> bool:
    """Whether something always comes back: not for an event that is in order, nor for settings."""
    return not isinstance(message, (Event, Settings))


ANSWERED = MESSAGES.filter(_answered).map(encode)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.text(max_size=20) | ANSWERED, min_size=1, max_size=3))
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
    shelf = FolderShelf(tmp_path_factory.mktemp("fuzzed"), weights, "cpu", PaintedWorld)
    return create_app(shelf, hosts=HOSTS)


def test_the_log_is_one_json_object_a_line():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("context_as_memory.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        note("exported", what="walk.mp4", bytes=3)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    row = json.loads(stream.getvalue())
    assert row["event"] == "exported" and row["bytes"] == 3 and row["level"] == "info"


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
    command = [sys.executable, "-m", "context_as_memory", "explore", "--no-browser", "--port", str(port), "--weights",
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
    with connect(f"ws://127.0.0.1:{port}{PATH}", max_size=None) as walker:
        say(walker, Init())
        name = decode(walker.recv(), 10**7).world
        say(walker, hold("l", 1))
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = decode(walker.recv(), 10**7)
                if isinstance(message, ChunkStats):
                    seen = message.frames
                    if message.chunk_index == 2:
                        process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM) and seen >= 13
    process = start()
    try:
        with connect(f"ws://127.0.0.1:{port}{PATH}", max_size=None) as walker:
            say(walker, Init(world=name))
            ready = decode(walker.recv(), 10**7)
            assert len(ready.poses) + 1 >= seen  # whatever was shown is there
            say(walker, hold("l", 1))
            assert isinstance(decode(walker.recv(), 10**7), FrameBatch)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    events = [json.loads(line)["event"] for line in Path(tmp_path / "log.jsonl").read_text().splitlines()]
    assert events.count("started") == 2 and "session_opened" in events and events[-1] == "stopped"
