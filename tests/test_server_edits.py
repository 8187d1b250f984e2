"""Painting on a remembered view in the explorer, the pictures of a walk, and the list of stored worlds."""

import contextlib
import io
from concurrent.futures import CancelledError

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from context_as_memory.cli.explore import Explore
from context_as_memory.cli.world import List
from context_as_memory.edits import edit
from context_as_memory.errors import UserError
from context_as_memory.server.app import LOOPBACK, MOST_FRAMES, PATH, create_app
from context_as_memory.server.limits import Limits
from context_as_memory.server.protocol import (
    ChunkStats,
    Edit,
    Edited,
    Event,
    Failure,
    Init,
    Ready,
    Rewind,
    decode,
    encode,
)
from context_as_memory.server.session import Session
from context_as_memory.server.store import FolderStore
from context_as_memory.storage import open_world

HOSTS = [*LOOPBACK, "testserver"]


@pytest.fixture
def real(tmp_path, weights):
    """Worlds that tiny networks generate."""
    return FolderStore(tmp_path / "worlds", weights, "cpu")


@pytest.fixture
def client(real):
    with TestClient(create_app(real, hosts=HOSTS), base_url="http://127.0.0.1") as client:
        yield client


def _png(frame_u8: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame_u8).save(buffer, "PNG")
    return buffer.getvalue()


def _painted(frame_u8: np.ndarray) -> np.ndarray:
    changed = frame_u8.copy()
    changed[10:30, 10:40] = (255, 0, 0)
    return changed


def _until(socket, kind):
    while not isinstance(message := decode(socket.receive_bytes(), 10_000_000), kind):
        pass
    return message


def _pixels(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def _walked(socket) -> int:
    """Walk one chunk; the last frame's number."""
    socket.send_bytes(encode(Event(kind="camera_actions", payload=[["l"]])))
    return _until(socket, ChunkStats).frames - 1


def test_a_painted_view_is_an_event_of_the_branch_as_the_command_would_make_it(client, real, weights):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init(seed=3)))
        ready = _until(socket, Ready)
        last = _walked(socket)
        before = _pixels(client.get(f"/v1/walks/{ready.share}/frames.png?numbers=0"))
        painted = _painted(before)
        twin = real.open(real.copy(ready.world))  # the same world, edited by the function behind `cam world edit`
        done = edit(twin, 0, painted)
        socket.send_bytes(encode(Edit(frame=0, picture=_png(painted))))
        after, told = _until(socket, Ready), _until(socket, Edited)
        assert (told.frame, told.entry, told.before) == (0, done.entry, last) == (0, last + 1 + told.carried, last)
        assert (told.withdrawn, told.carried) == (len(done.withdrawn), len(done.carried))
        assert (told.of, told.still_seen) == (done.of, done.still_seen)
        assert after.edits == [last + 1] and ready.edits == []
        numbers = f"{told.entry},0"
        shown = _pixels(client.get(f"/v1/walks/{ready.share}/frames.png?numbers={numbers}"))
        assert np.array_equal(shown, np.concatenate([painted, before]))
        assert np.array_equal(twin.bank.frames_u8(slice(None)), _stored(real, ready.world))
        twin.close()
        assert _walked(socket) > last + 2  # the walk goes on
        socket.send_bytes(encode(Rewind(frame=told.before)))  # this is how it is undone
        assert _until(socket, Ready).edits == []


def _stored(store, name: str) -> np.ndarray:
    world = open_world(store.path(name), write=False, networks=store._networks)
    try:
        return world.bank.frames_u8(slice(None))
    finally:
        world.close()


def test_bad_edits_are_one_sentence_and_change_nothing(client):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init()))
        ready = _until(socket, Ready)
        before = _pixels(client.get(f"/v1/walks/{ready.share}/frames.png?numbers=0"))
        for frame, picture, words in [
            (0, _png(before), "unchanged"),
            (0, _png(np.zeros((20, 30, 3), np.uint8)), "30x20"),
            (99, _png(_painted(before)), "not in the memory"),
        ]:
            socket.send_bytes(encode(Edit(frame=frame, picture=picture)))
            told = _until(socket, Failure)
            assert told.code == "refused" and words in told.content and "\n" not in told.content
        assert _walked(socket) == ready.chunk_frames


def test_who_watches_sees_all_frames_and_paints_none(client):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init()))
        ready = _until(socket, Ready)
        # Leaving the block, the test client may cancel the server's side before it has seen the end; that is its own.
        with contextlib.suppress(CancelledError), client.websocket_connect(PATH) as viewer:
            viewer.send_bytes(encode(Init(watch=ready.share)))
            assert not _until(viewer, Ready).driver
            frame = _pixels(client.get(f"/v1/walks/{ready.share}/frames.jpeg?numbers=0"))
            viewer.send_bytes(encode(Edit(frame=0, picture=_png(_painted(frame)))))
            assert _walked(socket) == ready.chunk_frames  # and no edit before it
            assert _until(viewer, ChunkStats).frames == ready.chunk_frames + 1
        assert client.get(f"/v1/walks/{ready.share}/frames.gif").status_code == 404
        assert client.get(f"/v1/walks/{ready.share}/frames.png?numbers=77").status_code == 204  # not now
        for numbers in ("x", "1;2", "-3", ",".join(["0"] * (MOST_FRAMES + 1))):
            assert client.get(f"/v1/walks/{ready.share}/frames.png?numbers={numbers}").status_code == 400
    assert client.get(f"/v1/walks/{ready.share}/frames.png").status_code == 404  # nobody walks there any more


def test_the_limit_of_a_world_holds_for_edits(real):
    session = Session(real, Limits(history_frames=2))
    session.receive(Init())
    picture = np.full((*real.size[::-1], 3), 90, np.uint8)
    with pytest.raises(UserError, match="the most that is stored"):
        session.receive(Edit(frame=0, picture=b""), picture)
    session.close()


def test_stored_worlds_have_a_picture_a_date_and_a_length(client, real):
    with client.websocket_connect(PATH) as socket:
        socket.send_bytes(encode(Init()))
        name = _until(socket, Ready).world
        last = _walked(socket)
    (kept,) = client.get("/v1/worlds").json()
    assert (kept["name"], kept["frames"], kept["branches"]) == (name, last + 1, 1) and kept["walked_s"] > 1e9
    picture = client.get(f"/v1/worlds/{name}/picture.jpg")
    assert picture.headers["content-type"] == "image/jpeg" and _pixels(picture).shape == (*real.size[::-1], 3)
    assert client.get("/v1/worlds/none/picture.jpg").status_code == 404
    assert client.get("/v1/starts/vault.png").status_code == 200
    assert client.get("/v1/starts/..%2Fvault.png").status_code == 404
    locked = TestClient(create_app(real, token="s" * 20, hosts=HOSTS), base_url="http://127.0.0.1")
    assert locked.get("/v1/worlds").json() == [] and locked.get(f"/v1/worlds/{name}/picture.jpg").status_code == 403
    (real.path(name) / "world.sqlite").write_bytes(b"damaged")
    assert [one["frames"] for one in client.get("/v1/worlds").json()] == [0]  # still in the list


def test_the_explorer_and_the_list_of_worlds_agree_on_the_folder():
    assert List().folder == Explore().worlds
