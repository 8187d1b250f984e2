"""One visitor's world as a state machine, without sockets."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from context_as_memory.camera import Cameras, pinhole
from context_as_memory.errors import UserError
from context_as_memory.server.limits import Limits
from context_as_memory.server.outbox import NewFrames
from context_as_memory.server.protocol import (
    ChunkStats,
    ContextFrames,
    Event,
    Failure,
    Fork,
    Init,
    Ready,
    Rewind,
    Settings,
    Switch,
)
from context_as_memory.server.session import LEGAL, Session, State
from context_as_memory.server.store import FolderStore
from context_as_memory.storage import create_world, file_of
from tiny import PaintedWorld, hold


@pytest.fixture
def sessions(store):
    """Makes sessions, which are closed in the end."""
    made = []

    def make(store=store, **limits) -> Session:
        made.append(Session(store, Limits(**limits)))
        return made[-1]

    yield make
    for session in made:
        session.close()


def _of(outputs, kind):
    return [item for item in outputs if isinstance(item, kind)]


def test_a_session_walks_while_keys_are_held_and_the_latest_event_wins(sessions):
    session = sessions()
    with pytest.raises(UserError, match="no world yet"):
        session.receive(hold("w"))
    ready, first = session.receive(Init())
    assert isinstance(ready, Ready) and ready.chunk_frames == 4 and session.state is State.STANDING
    assert isinstance(first, NewFrames) and len(first.frames_u8) == 1 and first.chunk_index == -1
    assert not session.wants_to_move and session.step() == []
    session.receive(hold("j", 2))
    session.receive(hold("w", 1))  # came late
    frames, context, stats = session.step()
    assert isinstance(frames, NewFrames) and isinstance(context, ContextFrames) and isinstance(stats, ChunkStats)
    assert frames.first == 1 and len(frames.frames_u8) == 4 and frames.event_id == 2
    assert frames.poses[-1][:2] == first.poses[0][:2] and frames.poses[-1][2] > first.poses[0][2]  # turned left
    assert context.frames == [0] and context.ages == [1] and context.jpegs[0].startswith(b"\xff\xd8")
    assert stats.frames == 5 and stats.event_id == stats.received_event_id == 2
    session.receive(Settings(strategy="recent", max_context=2))
    assert _of(session.step(), ContextFrames)[0].frames == [3, 4]
    session.receive(hold("", 3))
    assert session.state is State.STANDING and session.step() == []
    session.close()
    session.close()
    with pytest.raises(UserError, match="closed"):
        session.receive(Init())


@pytest.mark.parametrize(
    ("pressed", "before", "anew"),
    [("l", 0, True), ("l", 1, True), ("l", 2, False), ("", 0, False), ("j", 0, False)],
)
def test_other_keys_in_the_first_half_of_a_chunk_begin_it_anew(sessions, pressed, before, anew):
    """Later they wait for the next one; a key that was pressed for a moment still has its chunk. Four steps a chunk."""
    session, twin = sessions(), sessions()
    for one in (session, twin):
        one.receive(Init(seed=3))
        one._world.config = replace(one._world.config, num_steps=4)
        one.receive(hold("j", 1))
    engine, evaluations = session._world.engine, []

    def place(*chunk):
        network = engine.denoiser.place(*chunk)

        def output(noisy, timestep):
            if len(evaluations) == before:
                session.receive(hold(pressed, 2))
            evaluations.append(timestep)
            return network(noisy, timestep)

        return output

    session._world.engine = replace(engine, denoiser=SimpleNamespace(read=engine.denoiser.read, place=place))
    if anew:
        twin.receive(hold(pressed, 2))
    frames, alone = session.step()[0], twin.step()[0]
    assert frames.event_id == (2 if anew else 1)
    np.testing.assert_array_equal(frames.frames_u8, alone.frames_u8)
    assert frames.poses == alone.poses and frames.chunk_index == 0
    assert len(evaluations) == 4 + (before + 1 if anew else 0)


def test_poses_are_walked_and_the_last_one_is_stood_on(sessions):
    session = sessions()
    session.receive(Init(seed=3))
    start = session.poses(0)[0]
    poses = np.repeat(start[None], 6, axis=0)
    poses[:, 1, 3] += 0.1 * np.arange(1, 7)
    session.receive(Event(kind="camera_poses", payload=poses.tolist(), event_id=4))
    seen = session.step() + session.step()
    assert [item.event_id for item in _of(seen, NewFrames)] == [4, 4] and session.state is State.STANDING
    np.testing.assert_array_equal(session.poses(1), poses[[0, 1, 2, 3, 4, 5, 5, 5]])
    session.receive(hold("w", 3))
    assert not session.wants_to_move, "keys that came before the poses are late"


@pytest.mark.parametrize(
    "payload", [None, [], [[[1.0]]], [np.ones((4, 4)).tolist()], [np.full((4, 4), np.nan).tolist()]]
)
def test_what_is_no_pose_is_refused(sessions, payload):
    session = sessions()
    session.receive(Init())
    with pytest.raises(UserError):
        session.receive(Event(kind="camera_poses", payload=payload))


def test_the_gaze_goes_up_and_down_to_85_degrees_and_turns_while_tilted(sessions):
    session = sessions()
    session.receive(Init())

    def walked(keys: str, chunks: int) -> np.ndarray:
        session.receive(hold(keys))
        for _ in range(chunks):
            session.step()
        return session._world.bank.cameras.forward[-1]

    start = session._world.bank.cameras.forward[-1]
    assert np.rad2deg(np.arcsin(walked("i", 2)[2])) == pytest.approx(24)  # 3 degrees a frame, 4 frames a chunk
    assert np.rad2deg(np.arcsin(walked("i", 8)[2])) == pytest.approx(85)
    turned = walked("jk", 5)  # 60 degrees down again, and to the left
    assert np.rad2deg(np.arcsin(turned[2])) == pytest.approx(25)
    heading = np.rad2deg(np.arctan2(turned[1], turned[0]) - np.arctan2(start[1], start[0]))
    assert heading % 360 == pytest.approx(60)
    assert np.rad2deg(np.arcsin(walked("k", 10)[2])) == pytest.approx(-85)


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


def test_the_next_chunk_begins_just_in_time(sessions, monkeypatch):
    """When what is left to show lasts no longer than a chunk takes, and a margin."""
    now = [100.0]
    monkeypatch.setattr("context_as_memory.server.session.time", SimpleNamespace(monotonic=lambda: now[0]))
    session = sessions()
    session.receive(Init())
    session.receive(hold("w"))
    session.step()
    assert session.early_s <= 0, "who says nothing of what is shown is served at once"
    session.receive(Event(kind="shown", payload=0))
    assert session.early_s <= 0, "nothing is left to show"
    session.step()  # four frames: 133 ms
    session.last_chunk_s = 0.02
    assert 0.05 < session.early_s < 0.07
    now[0] += session.early_s
    assert session.early_s <= 1e-9
    session.last_chunk_s = 0.3
    assert session.early_s < 0, "slow chunks follow each other at once"


def test_raw_pictures_are_described_as_sglangs_clients_expect(sessions):
    _, frames = sessions().receive(Init())
    batch = frames.message("raw", 85)
    height, width = frames.frames_u8.shape[1:3]
    assert batch.content_type == "application/x-raw-rgb" and batch.format == "rgb24" and batch.channels == 3
    assert batch.bytes_per_frame == height * width * 3 and batch.raw_size == len(batch.payload) == batch.total_size
    assert (np.frombuffer(batch.payload, np.uint8).reshape(frames.frames_u8.shape) == frames.frames_u8).all()
    assert frames.message("jpeg", 85).channels is None


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


def test_a_world_that_cannot_be_opened_leaves_the_visitor_where_he_is(sessions):
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


def test_a_world_that_nobody_walked_in_is_not_kept_and_there_is_an_end_to_them(sessions, store):
    session = sessions(stored_worlds=2)
    session.receive(Init())
    session.receive(Init())
    assert len(store.names()) == 1
    session.receive(hold("w"))
    session.step()
    session.receive(Init())
    assert len(store.names()) == 2
    with pytest.raises(UserError, match="2 worlds"):
        session.receive(Init())
    session.close()
    assert len(store.names()) == 1


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
    assert first.first == 95 and ready.chunks == [0, 64]  # given frames come in parts of 64
    session.receive(hold("l"))
    assert _of(session.step(), ContextFrames)[0].candidates > 10


def test_a_script_is_walked_frame_by_frame_and_then_stands(sessions):
    session = sessions()
    script = [["j"], ["j"], [], [], ["l"]]
    session.receive(Init(condition_inputs={"camera_actions": script}))
    headings = [pose[2] for _ in range(2) for pose in _of(session.step(), NewFrames)[0].poses]
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
        (Event(kind="dance", payload="x"), "mean nothing"),
        (Event(kind="prompt", payload="x"), "read no text"),
        (Event(kind="prompt", payload=["x"]), "the payload is a text"),
        (Event(kind="prompt", payload="x" * 4001), "4001 letters"),
        (Settings(strategy="nonsense", max_context=2), "nonsense"),
        (Settings(strategy="paper", max_context=5), "max_context"),
        (Failure(content="x"), "message of the server"),
        (Init(start="nowhere"), "nowhere"),
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
    session = sessions(FolderStore(tmp_path / "real", weights, "cpu"))
    session.receive(Init(compare=True, strategy="recent"))
    session.receive(hold("j"))
    for _ in range(3):
        with_memory, without = _of(session.step(), NewFrames)
        assert (with_memory.view, without.view) == ("with_memory", "without_memory")
        assert with_memory.poses == without.poses
        assert (with_memory.frames_u8 == without.frames_u8).all()
    session.receive(Settings(strategy="coverage", max_context=3, compare=True))
    session.receive(hold("l"))
    outputs = [_of(session.step(), NewFrames) for _ in range(3)]
    assert any((a.frames_u8 != b.frames_u8).any() for a, b in outputs)
    session.receive(Settings(strategy="coverage", max_context=3, compare=False))
    assert len(_of(session.step(), NewFrames)) == 1


def test_a_world_is_kept_rewound_and_forked(sessions):
    session = sessions()
    ready, first = session.receive(Init())
    session.receive(hold("l"))
    walked = [_of(session.step(), NewFrames)[0] for _ in range(3)]
    with pytest.raises(UserError, match="writ"):  # one visitor at a time
        sessions().receive(Init(world=ready.world))
    session.close()

    again = sessions()
    ready, now = again.receive(Init(world=ready.world))
    assert now.first == 12 and (now.frames_u8[0] == walked[-1].frames_u8[-1]).all()
    assert len(ready.poses) == 12 and ready.chunks == [0, 1, 5, 9]
    ready, now = again.receive(Rewind(frame=2))
    assert now.first == 4 and len(ready.branches) == 2  # what came after is a branch
    again.receive(hold("l"))
    assert (_of(again.step(), NewFrames)[0].frames_u8 == walked[1].frames_u8).all()
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
    visitor = threading.Thread(target=session.step)
    visitor.start()
    time.sleep(0.05)
    session.close()
    order.append("closed")
    visitor.join()
    assert order == ["chunk", "closed"]


def test_the_share_link_is_the_same_when_the_visitor_comes_back(sessions):
    first = sessions()
    ready = first.receive(Init())[0]
    first.receive(hold("w"))
    first.step()
    first.close()
    again = sessions().receive(Init(world=ready.world))[0]
    assert again.share == ready.share != sessions().receive(Init())[0].share and ready.world not in ready.share


@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (1, 0, 0)])
def test_a_world_is_walked_in_by_its_own_up(sessions, store, up):
    """A world whose first camera is level for that up: W goes where it looks, L turns about the vertical."""
    ahead, name = np.roll(up, 1) * 1.0, "0123456789abcdef"
    c2w = np.eye(4)
    c2w[:3, 0], c2w[:3, 1], c2w[:3, 2] = np.cross(ahead, up), -np.array(up), ahead
    world = create_world(store.path(name), store.weights, networks=store._networks, up=up)
    size = (world.config.width, world.config.height)
    camera = Cameras(c2w[None], pinhole(90, *size), *size)
    world.reset(np.zeros((1, *size[::-1], 3), np.uint8), camera)
    world.close()
    session = sessions()
    first = _of(session.receive(Init(world=name)), NewFrames)[0]
    session.receive(hold("w", 1))
    walked = _of(session.step(), NewFrames)[0]
    moved = np.array(walked.poses[-1][:2]) - first.poses[0][:2]
    heading = first.poses[0][2]
    np.testing.assert_allclose(moved, 0.6 * np.array([np.cos(heading), np.sin(heading)]), atol=1e-3)
    session.receive(hold("l", 2))
    turned = _of(session.step(), NewFrames)[0]
    difference = (turned.poses[-1][2] - heading + np.pi) % (2 * np.pi) - np.pi
    assert difference == pytest.approx(-4 * np.radians(3), abs=1e-3)  # to the right, seen from above
    cameras = session._world.bank.cameras
    np.testing.assert_allclose(cameras.position[4] - cameras.position[0], 0.6 * ahead, atol=1e-9)
    np.testing.assert_allclose(-cameras.down[-1], up, atol=1e-9)
    assert file_of(session._world).settings["up"] == list(up)
