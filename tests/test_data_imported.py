"""Videos with cameras of other formats become episodes: RealEstate10K's text, and poses beside a video."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paper_set
from context_as_memory.cli.main import main
from context_as_memory.data.episode import check_dataset, list_episodes
from context_as_memory.data.imported import import_episodes
from context_as_memory.errors import UserError
from context_as_memory.formats.video import VideoWriter
from context_as_memory.formats.write import write_poses, write_realestate10k

FRAMES = 40


@pytest.fixture(scope="module")
def estate(tmp_path_factory) -> Path:
    """Three clips in RealEstate10K's layout: a text of cameras, a folder of pictures named by time."""
    root = tmp_path_factory.mktemp("estate")
    for number in range(3):
        cameras = paper_set.path(FRAMES, number)
        write_realestate10k(cameras, root / "cameras" / f"clip_{number}.txt", url="https://example.org/v", fps=25)
        (root / "videos" / f"clip_{number}").mkdir(parents=True)
        for row, frame in enumerate(paper_set.paint(cameras, number)):
            Image.fromarray(frame).save(root / "videos" / f"clip_{number}" / f"{row * 40_000}.png", compress_level=1)
    return root


def test_realestate10k_becomes_episodes_in_metres(estate, tmp_path):
    command = ["import", "videos", str(estate / "videos"), "--cameras", str(estate / "cameras"), "--fps", "25"]
    assert main([*command, "--scale", "2", "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert check_dataset(tmp_path / "out") == {}
    found = list_episodes(tmp_path / "out")
    assert sorted(episode.split for episode in found) == ["test", "train", "val"]
    for number, episode in enumerate(found):
        truth = paper_set.path(FRAMES, number)
        cameras = episode.cameras()
        np.testing.assert_allclose(cameras.c2w[:, :3, :3], truth.c2w[:, :3, :3], atol=1e-5)
        np.testing.assert_allclose(cameras.position, 2 * truth.position, atol=1e-5)
        np.testing.assert_allclose(cameras.K, truth.resized(64, 32).K, atol=1e-3)
        pictures = paper_set.paint(truth, number)[:, 8:40]
        assert np.abs(episode.frames().astype(int) - pictures).mean() < 3


def test_a_video_with_poses_becomes_an_episode(tmp_path):
    cameras = paper_set.path(FRAMES)
    (tmp_path / "videos" / "walk").mkdir(parents=True)
    write_poses(cameras, tmp_path / "videos" / "walk")
    with VideoWriter(tmp_path / "videos" / "walk" / "video.mp4", 64, 48, 24, crf=1) as writer:
        writer.write(paper_set.paint(cameras))
    summary = import_episodes(tmp_path / "videos", tmp_path / "out", fps=24, size=(64, 48), progress=False)
    assert summary.written == ["walk"]
    (episode,) = list_episodes(tmp_path / "out")
    np.testing.assert_allclose(episode.cameras().c2w, cameras.c2w, atol=1e-9)
    assert np.abs(episode.frames().astype(int) - paper_set.paint(cameras)).mean() < 3
    again = import_episodes(tmp_path / "videos", tmp_path / "out", fps=24, size=(64, 48), progress=False)
    assert again.existing == ["walk"]


def test_impossible_numbers_are_named(estate, tmp_path):
    with pytest.raises(UserError, match="--fps is 0"):
        import_episodes(estate / "videos", tmp_path / "out", cameras=estate / "cameras", fps=0)
    with pytest.raises(UserError, match="too small"):
        import_episodes(estate / "videos", tmp_path / "out", cameras=estate / "cameras", fps=25, size=(8, 8))
    assert not list((tmp_path / "out").glob("*"))
