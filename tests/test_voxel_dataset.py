"""Episodes of voxel worlds, the command that makes them, and the explorer in the true world."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from context_as_memory.cli.main import main
from context_as_memory.data import batch
from context_as_memory.data.episode import check_dataset, list_episodes
from context_as_memory.data.voxel import dataset as voxels
from context_as_memory.data.voxel import styles
from context_as_memory.data.voxel.render import VoxelRenderer
from context_as_memory.data.voxel.walk import EYE_M, path_cameras, plan_voxel_path
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.server.limits import Limits
from context_as_memory.server.outbox import NewFrames
from context_as_memory.server.protocol import ContextFrames, Init, Ready, Rewind
from context_as_memory.server.session import Session
from context_as_memory.server.truth import TrueStore, TrueWorld, VoxelPlace
from tiny import hold
from voxel_house import GROUND, UPSTAIRS, house

SMALL = {"frames_per_video": 6, "width": 32, "height": 20, "workers": 1, "raw": True, "progress": False}
NAMES = ["gallery-1", "village-203"]


@pytest.fixture(autouse=True)
def houses(monkeypatch):
    """Every world is the small house: what is tested here does not depend on the style."""
    monkeypatch.setattr(styles, "build_world", house)


# --- Episodes ---------------------------------------------------------------------------------------


def test_episodes_are_exact_sound_kept_and_shown(tmp_path):
    made = voxels.render_voxel_dataset(tmp_path, worlds=NAMES, videos_per_world=2, seed=3, **SMALL)
    names = [f"{world}_{number}" for world in NAMES for number in range(2)]
    assert made.written == names and made.existing == [] and check_dataset(tmp_path) == {}
    episode = list_episodes(tmp_path, "train")[0]
    assert episode.name == "village-203_0" and episode.meta["world"] == "village-203" and episode.num_frames == 6
    assert [episode.split for episode in list_episodes(tmp_path)] == ["test", "test", "train", "train"]
    cameras = episode.cameras()
    path = plan_voxel_path(house(), 6, batch.episode_seed("village-203", 0, 3))
    np.testing.assert_array_equal(cameras.c2w, path_cameras(path, 32, 20).c2w)
    np.testing.assert_array_equal(episode.frames(), VoxelRenderer(house(), threads=2).render(cameras))
    assert not np.array_equal(cameras.c2w, list_episodes(tmp_path)[3].cameras().c2w)  # another walk

    sheet = np.asarray(Image.open(tmp_path / voxels.CONTACT_SHEET))
    assert sheet.shape == (4 * (14 + 100 + 4), 6 * 164 - 4, 3)
    first = np.asarray(Image.fromarray(episode.frames()[0]).resize((160, 100), Image.Resampling.BICUBIC), float)
    assert np.abs(sheet[2 * 118 + 14 : 3 * 118 - 4, :160] - first).mean() < 8  # the third row, first picture

    (tmp_path / "gallery-1_1" / "poses.npy").unlink()
    assert list(check_dataset(tmp_path)) == ["gallery-1_1"]
    again = voxels.render_voxel_dataset(tmp_path, worlds=NAMES[:1], videos_per_world=1, seed=3, **SMALL)
    assert again.written == [] and again.existing == ["gallery-1_0"]
    with pytest.raises(UserError, match="another recipe.*hfov_deg"):
        voxels.render_voxel_dataset(tmp_path, worlds=NAMES[:1], seed=3, hfov_deg=70.0, **SMALL)


def test_a_world_that_fails_is_named_and_the_others_are_written(tmp_path, monkeypatch):
    def build(name):
        if name == "gallery-1":
            raise UserError("no room for paintings")
        return house(name)

    monkeypatch.setattr(styles, "build_world", build)
    with pytest.raises(UserError, match=r"1 of 2 videos failed.*gallery-1_0: no room for paintings"):
        voxels.render_voxel_dataset(tmp_path, worlds=NAMES, **SMALL)
    assert [episode.name for episode in list_episodes(tmp_path)] == ["village-203_0"]


def test_worlds_are_a_split_or_names():
    assert voxels.choose_worlds("val", 7) == styles.world_names("val", 7)
    assert voxels.choose_worlds(("test",), 2) == styles.world_names("test", 2)
    assert voxels.choose_worlds(["village-3", "gallery-9", "village-3"], 1) == ["village-3", "gallery-9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"worlds": ["moon-1"]}, "moon-1"),
        ({"worlds": []}, "no voxel worlds"),
        ({"worlds": "train", "count": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"width": 33, "raw": False}, "even numbers"),
        ({"hfov_deg": 180.0}, "field of view"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        voxels.render_voxel_dataset(tmp_path, **{**SMALL, "worlds": NAMES, **arguments})
    assert not list(tmp_path.iterdir())


# --- The command ------------------------------------------------------------------------------------


def test_the_command_writes_episodes_and_continues(tmp_path, capsys):
    words = ["render", "--out", str(tmp_path / "data"), "--names", "val", "--count", "2", "--frames-per-video", "3"]
    words += ["--width", "32", "--height", "20", "--workers", "1"]
    assert main(words) == 0
    assert "2 episodes written, 0 were there" in capsys.readouterr().out
    assert main(words) == 0 and "0 episodes written, 2 were there" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "data")]) == 0
    assert (tmp_path / "data" / "contact.png").exists()
    assert [episode.split for episode in list_episodes(tmp_path / "data")] == ["val", "val"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--out"),
        (["--out", "x", "--maps", "test"], "--worlds freedoom"),
        (["--out", "x", "--worlds", "freedoom", "--hfov", "70"], "90 degrees"),
        (["--out", "x", "--names", "moon-1"], "moon-1"),
        (["--view", "moon-1"], "moon-1"),
    ],
)
def test_the_command_says_what_is_missing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(styles, "build_world", styles.parse_name)
    assert main(["render", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_without_numba_the_command_says_how_to_get_it(tmp_path):
    """In a process of its own, where numba cannot be imported."""
    script = "import sys; sys.modules['numba'] = None; from context_as_memory.cli.main import main; sys.exit(main())"
    source = str(Path(__file__).resolve().parents[1] / "src")
    ended = subprocess.run(
        [sys.executable, "-c", script, "render", "--out", str(tmp_path / "data"), "--names", "gallery-1"],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("cam: error: voxel worlds need numba; pip install '")
    assert not list(tmp_path.iterdir())


# --- The true world in the explorer -----------------------------------------------------------------


@pytest.fixture(scope="module")
def place():
    return VoxelPlace(house("house-0"), 32, 20, 90.0, threads=1)


@pytest.fixture
def session(place, tmp_path):
    session = Session(TrueStore(tmp_path / "walks", place), Limits())
    yield session
    session.close()


def test_a_walk_in_the_true_world_shows_what_is_there(session, place):
    ready, first = session.receive(Init(known=True))
    assert isinstance(ready, Ready) and ready.truth == "house-0" and (ready.width, ready.height) == (32, 20)
    np.testing.assert_array_equal(first.frames_u8[0], VoxelRenderer(house()).render(place.start)[0])
    assert np.hypot(*(place.start.position[0, :2] - house().home)) < 0.5
    session.receive(hold("j", 1))
    frames, context, stats = session.step()
    assert isinstance(frames, NewFrames) and isinstance(context, ContextFrames) and context.frames == [0]
    assert set(stats.seconds) == {"retrieve", "paint"} and stats.frames == 5
    turned = cameras_from_actions(place.start, "j-4")
    np.testing.assert_allclose(session._world.bank.cameras.c2w[1:], turned.c2w, atol=1e-9)
    np.testing.assert_array_equal(frames.frames_u8, place.renderer.render(session._world.bank.cameras[1:]))
    session.receive(hold("l", 2))
    back = session.step()[0].frames_u8
    assert np.abs(back[-1].astype(int) - first.frames_u8[0]).max() <= 1  # nothing is forgotten: it is there
    with pytest.raises(UserError, match="with and without memory"):
        session._compare(True)

    ready, _ = session.receive(Rewind(frame=3))
    assert len(ready.branches) == 2 and ready.truth == "house-0" and isinstance(session._world, TrueWorld)


def test_the_eye_follows_the_ground_up_the_stairs_and_flies_where_there_is_none(place):
    along = np.tile(np.eye(4), (60, 1, 1))
    along[:, :3, :3] = place.start.c2w[0, :3, :3]
    along[:, 0, 3], along[:, 1, 3], along[:, 2, 3] = np.linspace(9.6, 13.6, 60), 3.0, GROUND + EYE_M
    cameras = type(place.start)(along, place.start.K[0], 32, 20)
    height = place.follow(cameras, GROUND + EYE_M).position[:, 2]
    assert height[0] == GROUND + EYE_M and height[-1] == pytest.approx(UPSTAIRS + EYE_M)
    assert (np.diff(height) >= 0).all() and np.diff(height).max() <= 0.1 + 1e-9
    along[:, :2, 3] -= 100.0
    nowhere = place.follow(type(place.start)(along, place.start.K[0], 32, 20), 7.0)
    np.testing.assert_array_equal(nowhere.position[:, 2], 7.0)


def test_the_true_world_loads_no_weights(place, tmp_path, monkeypatch):
    from context_as_memory import world

    def refuse(*_):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(world, "open_model", refuse)
    store = TrueStore(tmp_path, place)
    name, made = store.create(0)
    made.reset(np.zeros((1, 1, 1, 3), np.uint8), place.start)  # what it is given does not matter
    made.close()
    opened = store.open(name)
    assert len(opened.bank) == 1 and opened.chunk_frames == 4
    np.testing.assert_array_equal(opened.bank.frames_u8(0), place.renderer.render(place.start))
    opened.close()
