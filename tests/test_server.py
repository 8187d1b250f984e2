"""The explorer without a browser: messages, a session's states, and the real application around a tiny world."""

import contextlib
from concurrent.futures import CancelledError

import msgpack
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

import tiny
from context_as_memory.cli.explore import is_loopback
from context_as_memory.errors import UserError
from context_as_memory.server.app import PATH, create_app
from context_as_memory.server.protocol import (
    ChunkStats,
    Event,
    Failure,
    FrameBatch,
    Init,
    Memory,
    ProtocolError,
    Ready,
    Rewind,
    Settings,
    decode,
    encode,
)
from context_as_memory.server.session import Limits, Session, State
from context_as_memory.server.shelf import FolderShelf, MemoryShelf
from tiny_world import save_tiny_world

TEXT, NUMBERS = st.text(max_size=20), st.integers(0, 2**31)
MESSAGES = st.one_of(
    st.builds(Init, start=st.none() | TEXT, seed=NUMBERS, memory=TEXT, max_context=st.none() | NUMBERS),
    st.builds(Event, seq=NUMBERS, keys=st.lists(TEXT, max_size=5)),
    st.builds(Settings, memory=TEXT, max_context=NUMBERS),
    st.builds(Rewind, frame=NUMBERS),
    st.builds(Failure, message=TEXT),
    st.builds(
        FrameBatch,
        first=NUMBERS,
        jpegs=st.lists(st.binary(max_size=30), max_size=3),
        poses=st.lists(st.lists(st.floats(-9, 9), min_size=3, max_size=3), max_size=3),
        applied=NUMBERS,
    ),
    st.builds(
        ChunkStats,
        chunk=NUMBERS,
        frames=NUMBERS,
        frames_per_second=st.floats(0, 99),
        received=NUMBERS,
        applied=NUMBERS,
        seconds=st.dictionaries(TEXT, st.floats(0, 9), max_size=3),
    ),
)


@given(MESSAGES)
def test_every_message_comes_back_as_it_went(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_noise_is_never_more_than_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        decode(data)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "map"),
        ({"type": "dance"}, "unknown message type"),
        ({"type": "event", "seq": 1}, "missing"),
        ({"type": "event", "seq": "1", "keys": []}, "seq has the wrong type"),
        ({"type": "event", "seq": True, "keys": []}, "seq has the wrong type"),
        ({"type": "event", "seq": 1, "keys": [1]}, "keys has the wrong type"),
        ({"type": "event", "seq": 1, "keys": [], "more": 1}, "unknown field"),
    ],
)
def test_what_is_no_message_is_named(value, words):
    with pytest.raises(ProtocolError, match=words):
        decode(msgpack.packb(value))


def _shelf() -> MemoryShelf:
    return MemoryShelf(lambda seed: tiny.world(seed=seed))


def _session(**limits) -> Session:
    return Session(_shelf(), Limits(**limits))


def test_a_session_walks_while_keys_are_held_and_the_latest_event_wins():
    session = _session()
    with pytest.raises(UserError, match="before init"):
        session.receive(Event(seq=1, keys=["w"]))
    ready, first = session.receive(Init())
    assert isinstance(ready, Ready) and ready.chunk_frames == 2 and session.state is State.WALKING
    assert isinstance(first, FrameBatch) and len(first.jpegs) == 1
    assert not session.wants_to_move and session.step() == []
    session.receive(Event(seq=2, keys=["j"]))
    session.receive(Event(seq=1, keys=["w"]))  # came late
    frames, memory, stats = session.step()
    assert isinstance(frames, FrameBatch) and isinstance(memory, Memory) and isinstance(stats, ChunkStats)
    assert frames.first == 1 and len(frames.jpegs) == 2 and frames.applied == 2
    assert frames.poses[-1][:2] == first.poses[0][:2] and frames.poses[-1][2] > first.poses[0][2]  # turned left
    assert memory.frames == [0] and memory.ages == [1] and memory.jpegs[0].startswith(b"\xff\xd8")
    assert stats.frames == 3 and set(stats.seconds) == {"retrieve", "encode", "denoise", "decode"}
    session.receive(Settings(memory="recent", max_context=2))
    _, memory, _ = session.step()
    assert memory.frames == [1, 2]
    session.receive(Event(seq=3, keys=[]))
    assert session.step() == []
    session.close()
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.receive(Init())


def test_what_is_not_allowed_is_refused_and_the_walk_goes_on():
    session = _session(history_frames=4, max_context=4)
    session.receive(Init())
    for message, words in (
        (Event(seq=1, keys=["q"]), "unknown keys"),
        (Settings(memory="nonsense", max_context=2), "nonsense"),
        (Settings(memory="paper", max_context=5), "max_context"),
        (Failure(message="x"), "message of the server"),
        (Init(start="nowhere"), "nowhere"),
    ):
        with pytest.raises(UserError, match=words):
            session.receive(message)
    session.receive(Event(seq=1, keys=["w"]))
    assert len(session.step()) == 3
    with pytest.raises(UserError, match="3 frames"):
        session.step()
    assert not session.wants_to_move  # it stopped; a new world may begin
    session.receive(Init(seed=1))


@pytest.fixture
def client():
    app = create_app(_shelf(), Limits(sessions=2))
    with TestClient(app) as client:
        yield client


def _receive(socket):
    return decode(socket.receive_bytes())


def test_the_real_application_walks(client):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init(seed=3)))
        assert isinstance(_receive(socket), Ready)
        assert isinstance(_receive(socket), FrameBatch)
        socket.send_bytes(encode(Event(seq=1, keys=["l"])))
        kinds = [type(_receive(socket)).type for _ in range(6)]
        assert kinds == ["frame_batch", "memory", "chunk_stats"] * 2
        socket.send_bytes(encode(Event(seq=2, keys=[])))
        socket.send_bytes(encode(Settings(memory="nonsense", max_context=1)))
        while not isinstance(message := _receive(socket), Failure):
            pass
        assert "nonsense" in message.message
    assert client.get("/healthz").json() == {"status": "ok"}
    text = client.get("/metrics").text
    assert "cam_chunks_total " in text and "cam_sessions_open 0" in text
    assert "explorer" in client.get("/").text
    for name in ("app.js", "map.js", "msgpack.js", "style.css"):
        assert client.get(f"/{name}").status_code == 200


def test_too_many_viewers_are_told_so_and_strangers_are_turned_away(client):
    with client.websocket_connect(PATH), client.websocket_connect(PATH), client.websocket_connect(PATH) as third:
        assert "places are taken" in _receive(third).message
        with pytest.raises(WebSocketDisconnect):
            third.receive_bytes()
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(PATH, headers={"origin": "https://elsewhere.example"}) as socket,
    ):
        socket.receive_bytes()
    locked = TestClient(create_app(_shelf(), token="secret"))
    for query in ("", "?token=wrong"):
        with pytest.raises(WebSocketDisconnect), locked.websocket_connect(PATH + query) as socket:
            socket.receive_bytes()
    with locked.websocket_connect(f"{PATH}?token=secret") as socket:
        socket.send_bytes(encode(Init()))
        assert isinstance(_receive(socket), Ready)


@settings(max_examples=20, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=20), MESSAGES.map(encode)))
def test_fuzzed_messages_close_with_a_code_or_are_answered(data):
    with TestClient(create_app(_shelf())) as client:
        # Leaving the block, the test client may cancel the server's side before it has seen the end; that is its own.
        with contextlib.suppress(CancelledError), client.websocket_connect(PATH) as socket:
            socket.send_text(data) if isinstance(data, str) else socket.send_bytes(data)
            try:
                socket.receive_bytes()  # an answer, or first the reason and then the end
            except WebSocketDisconnect as end:
                assert end.code in (1000, 1001, 1008, 1009)
        assert client.get("/healthz").status_code == 200


def test_only_loopback_needs_no_token():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.1.2") and not is_loopback("example.org")


def test_a_kept_world_goes_on_after_its_session_and_can_go_back(tmp_path):
    shelf = FolderShelf(tmp_path / "worlds", save_tiny_world(tmp_path / "weights"), "cpu")
    session = Session(shelf)
    ready, first = session.receive(Init())
    assert ready.world and ready.poses == [] and first.first == 0
    session.receive(Event(seq=1, keys=["l"]))
    walked = [session.step()[0] for _ in range(3)]
    with pytest.raises(UserError, match="writ"):  # one walker at a time
        Session(shelf).receive(Init(world=ready.world))
    session.close()

    again = Session(shelf)
    ready, now = again.receive(Init(world=ready.world))
    assert now.first == 3 * ready.chunk_frames and now.jpegs[0] == walked[-1].jpegs[-1]
    assert len(ready.poses) == now.first
    ready, now = again.receive(Rewind(frame=2))
    assert now.first == ready.chunk_frames and now.jpegs[0] == walked[0].jpegs[-1]
    again.receive(Event(seq=2, keys=["l"]))
    assert again.step()[0].jpegs == walked[1].jpegs  # the same noise, the same memory: the same frames
    with pytest.raises(UserError, match="frame 99"):
        again.receive(Rewind(frame=99))
    again.close()
    for name in ("../etc", "0" * 16, ""):
        with pytest.raises(UserError):
            Session(shelf).receive(Init(world=name))
    session = _session()
    session.receive(Init())
    with pytest.raises(UserError, match="not kept"):
        session.receive(Rewind(frame=0))
