"""A walk out for other programs: what is written is read back, by our readers and by theirs where they are at hand."""

import json

import numpy as np
import pytest

import tiny
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli.main import main
from context_as_memory.data.episode import write_episode
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.cameras import read_track
from context_as_memory.formats.export import CAMERA, TASK, WalkFrames, export_walk, motions
from context_as_memory.formats.importers import import_videos
from context_as_memory.formats.pictures import read_image
from context_as_memory.formats.video import read_video

START = look([1.0, 2.0, 0.0], 0.7, pinhole(70, tiny.ROOM_WIDTH, tiny.ROOM_HEIGHT), tiny.ROOM_WIDTH, tiny.ROOM_HEIGHT)
CAMERAS = Cameras.concat([START, cameras_from_actions(START, "wl-6,i-3,j-3")])
FRAMES = tiny.paint_room(CAMERAS)
WALK = WalkFrames(lambda rows: FRAMES[rows], CAMERAS, fps=10.0)


@pytest.mark.parametrize("kind", ["frames", "colmap", "nerfstudio"])
def test_pictures_and_cameras_come_back_as_they_were(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("context_as_memory.formats.export.BLOCK", 5)
    out = export_walk(WALK, kind, tmp_path / "out")
    names = sorted((out / "images").iterdir())
    assert len(names) == len(FRAMES)
    for path, frame in zip(names, FRAMES, strict=True):
        np.testing.assert_array_equal(read_image(path), frame)
    track = read_track(out, picture=(tiny.ROOM_WIDTH, tiny.ROOM_HEIGHT))
    np.testing.assert_allclose(track.cameras.c2w, CAMERAS.c2w, atol=1e-9)
    np.testing.assert_allclose(track.cameras.K, CAMERAS.K, atol=1e-9)
    imported = import_videos(tmp_path)
    np.testing.assert_array_equal(imported[0].frames([3]), FRAMES[[3]])


def test_motions_lead_from_each_camera_to_the_next():
    from scipy.spatial.transform import Rotation

    steps, pose = motions(CAMERAS), CAMERAS.c2w[0]
    for step, wanted in zip(steps[:-1], CAMERAS.c2w[1:], strict=True):
        move = np.eye(4)
        move[:3, :3], move[:3, 3] = Rotation.from_rotvec(step[3:]).as_matrix(), step[:3]
        pose = pose @ move
        np.testing.assert_allclose(pose, wanted, atol=1e-9)
    assert not steps[-1].any() and steps[0, 2] > 0, "ahead is along the view"


def test_a_lerobot_data_set_holds_the_walk(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = export_walk(WALK, "lerobot", tmp_path / "set")
    info = json.loads((out / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 10, len(FRAMES))
    place = {"chunk_index": 0, "file_index": 0}
    data = parquet.read_table(out / info["data_path"].format(**place)).to_pydict()
    assert set(data) | {CAMERA} == set(info["features"])
    for name, values in data.items():
        feature = info["features"][name]
        assert np.asarray(values[0]).size == feature["shape"][0]
    np.testing.assert_allclose(np.array(data["observation.state"])[:, :3], CAMERAS.position, atol=1e-6)
    np.testing.assert_allclose(data["timestamp"], np.arange(len(FRAMES)) / 10, atol=1e-6)
    episode = parquet.read_table(out / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pydict()
    assert episode["length"] == [len(FRAMES)] and episode["tasks"] == [[TASK]]
    assert episode[f"videos/{CAMERA}/to_timestamp"] == [pytest.approx(len(FRAMES) / 10)]
    film = read_video(out / info["video_path"].format(video_key=CAMERA, **place))
    assert film.shape == FRAMES.shape
    tasks = parquet.read_table(out / "meta" / "tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((out / "meta" / "stats.json").read_text())
    assert set(stats) == set(info["features"])
    np.testing.assert_allclose(np.ravel(stats[CAMERA]["mean"]), FRAMES.mean(axis=(0, 1, 2)) / 255, atol=1e-6)
    np.testing.assert_allclose(np.ravel(stats[CAMERA]["std"]), FRAMES.std(axis=(0, 1, 2)) / 255, atol=1e-6)


def test_every_second_frame_is_half_the_rate(tmp_path):
    pytest.importorskip("pyarrow")
    out = export_walk(WALK, "lerobot", tmp_path / "set", every=2)
    info = json.loads((out / "meta" / "info.json").read_text())
    assert (info["total_frames"], info["fps"]) == (len(FRAMES[::2]), 5)


def test_what_cannot_be_exported_is_said(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds files already"):
        export_walk(WALK, "frames", tmp_path / "full")
    with pytest.raises(UserError, match="every 0th"):
        export_walk(WALK, "frames", tmp_path / "out", every=0)
    with pytest.raises(UserError, match="no frames"):
        export_walk(WalkFrames(WALK.read, CAMERAS[:0]), "frames", tmp_path / "out")


def test_the_command_exports_walks_worlds_and_episodes(tmp_path, weights, capsys):
    words = ["generate", "--start", "vault", "--actions", "j-8", "--weights", str(weights), "--no-compare"]
    assert main([*words, "--world", str(tmp_path / "world"), "--out", str(tmp_path / "walk")]) == 0
    write_episode(tmp_path / "episode", FRAMES, CAMERAS, {"split": "test", "fps": 10}, raw=True)
    for name, count in (("walk", 9), ("world", 9), ("episode", len(FRAMES))):
        out = tmp_path / f"{name}-out"
        assert main(["export", str(tmp_path / name), "--to", "colmap", "--out", str(out)]) == 0
        assert len(list((out / "images").iterdir())) == count and (out / "sparse" / "0" / "images.txt").exists()
    capsys.readouterr()
    for words in (["nowhere", "--to", "frames"], ["walk", "--to", "frames", "--fps", "0"]):
        assert main(["export", str(tmp_path / words[0]), *words[1:], "--out", str(tmp_path / "no")]) == 2
    assert "cam: error" in capsys.readouterr().err
