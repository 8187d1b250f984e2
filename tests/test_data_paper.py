"""Importing the paper's data set, in miniature: frames, cameras, captions, split, labels, and what may be wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import paper_set
from context_as_memory.cli.main import main
from context_as_memory.data.episode import Caption, check_dataset, list_episodes
from context_as_memory.data.paper import Layout, compare_labels, import_paper, splits
from context_as_memory.errors import UserError

FRAMES = 160


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return paper_set.write(tmp_path_factory.mktemp("paper"), FRAMES)


@pytest.fixture(scope="module")
def episodes(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("episodes")
    import_paper(source, out, progress=False)
    return out


@pytest.fixture
def small(tmp_path) -> Path:
    """One that a test may damage."""
    return paper_set.write(tmp_path / "paper", 90, ("Room_0", "Room_1", "Room_2"))


def test_frames_cameras_and_captions_arrive(source, episodes):
    assert check_dataset(episodes) == {}
    found = {episode.name: episode for episode in list_episodes(episodes)}
    assert set(found) == set(paper_set.VIDEOS)
    for number, video in enumerate(paper_set.VIDEOS):
        episode = found[video]
        cameras = paper_set.path(FRAMES, number)
        assert (episode.meta["width"], episode.meta["height"]) == (64, 32), "cut to multiples of 32"
        np.testing.assert_allclose(episode.cameras().c2w, cameras.c2w, atol=1e-6)
        np.testing.assert_allclose(episode.cameras().K, cameras.resized(64, 32).K, atol=1e-3)
        truth = paper_set.paint(cameras, number)[:, 8:40]
        assert np.abs(episode.frames().astype(int) - truth).mean() < 3, "but for the losses of the video"
        assert "not found" in episode.meta["licence"] and episode.meta["fps"] == 30
        assert episode.captions() == [
            Caption(0, 76, "A room, the camera turns. Part 0."),
            Caption(76, 153, "A room, the camera turns. Part 1."),
        ], "ends are included in the file; a frame that two captions share belongs to the later"


def test_a_video_is_read_in_parts(episodes):
    episode = list_episodes(episodes)[0]
    parts = list(episode.parts(37))
    assert [len(part) for part in parts] == [37, 37, 37, 37, 12]
    assert np.array_equal(np.concatenate(parts), episode.frames())


def test_videos_are_split_by_their_number_within_their_environment():
    names = [f"{room}_{number}" for room in ("Attic", "Bridge", "Cave") for number in range(30)]
    names += [f"Dock_{number}" for number in range(10)]
    found = splits(names)
    assert {name for name, split in found.items() if split == "test"} == {
        "Attic_29", "Bridge_29", "Cave_29", "Attic_28", "Bridge_28",
    }  # fmt: skip
    assert {name for name, split in found.items() if split == "val"} == {"Cave_28", "Attic_27"}
    assert list(splits(["Room_0", "Room_1", "Room_2"]).values()).count("train") == 1
    assert splits(["Room_0", "Room_1"]) == {"Room_0": "train", "Room_1": "train"}, "too few to hold any back"


def test_a_zip_gives_the_same_episodes_and_what_is_there_is_kept(small, tmp_path):
    archive = paper_set.zipped(small, tmp_path / "whole.zip")
    import_paper(small, tmp_path / "folder", progress=False)
    first = import_paper(archive, tmp_path / "zip", progress=False)
    assert sorted(first.written) == ["Room_0", "Room_1", "Room_2"]
    for one, other in zip(list_episodes(tmp_path / "folder"), list_episodes(tmp_path / "zip"), strict=True):
        assert one.meta == other.meta, "all hashes too"
    shutil.rmtree(tmp_path / "zip" / "Room_1")
    (tmp_path / "zip" / ".Room_1.killed").mkdir()
    again = import_paper(archive, tmp_path / "zip", progress=False)
    assert (again.written, sorted(again.existing)) == (["Room_1"], ["Room_0", "Room_2"])


def test_each_video_has_a_process_of_its_own(small, tmp_path):
    import_paper(small, tmp_path / "one", progress=False)
    import_paper(small, tmp_path / "two", workers=2, progress=False)
    for one, other in zip(list_episodes(tmp_path / "one"), list_episodes(tmp_path / "two"), strict=True):
        assert one.meta == other.meta


def test_another_size_is_scaled_and_cut_together_with_its_cameras(small, tmp_path):
    import_paper(small, tmp_path / "out", size=(96, 64), progress=False)
    episode = list_episodes(tmp_path / "out")[0]
    assert episode.frames().shape[1:3] == (64, 96)
    np.testing.assert_allclose(episode.cameras().K, paper_set.path(90).resized(96, 64).K, atol=1e-3)


def test_what_is_wrong_with_a_copy_is_said_in_one_sentence(small, tmp_path):
    def problem(**changes) -> str:
        with pytest.raises(UserError) as caught:
            import_paper(small, tmp_path / "out", progress=False, **changes)
        return str(caught.value)

    (small / "frames" / "Room_1" / "0040.png").unlink()
    assert "frames/Room_1/0040.png is missing" in problem()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"Room_0", "Room_2"}, "the others are done"
    shutil.copy(small / "frames" / "Room_1" / "0041.png", small / "frames" / "Room_1" / "0040.png")
    paper_set.Image.new("RGBA", (32, 32)).save(small / "frames" / "Room_1" / "0050.png")
    assert "0050.png is 32x32, the first frame 64x48" in problem()
    (small / "frames" / "Room_1" / "0050.png").write_bytes(b"no picture")
    assert "0050.png" in problem()
    for number in range(50, 90):
        (small / "frames" / "Room_1" / f"{number:04d}.png").unlink()
    assert "50 pictures and 90 cameras" in problem()
    text = (small / "captions.txt").read_text()
    (small / "captions.txt").write_text(text.replace("Room_2/0000_0076", "Room_2/0000_0099"))
    shutil.rmtree(tmp_path / "out" / "Room_2")
    assert "a caption ends at frame 100, the video has 90" in problem()
    (small / "captions.txt").write_text(text.replace("Room_2/", "Room_9/"))
    assert "says nothing about Room_2" in problem()
    (small / "captions.txt").write_text("Room_0 0000_0076 without a tab\n")
    assert "line 1 is not" in problem()
    (small / "captions.txt").unlink()
    assert "captions.txt is missing" in problem()
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UserError, match="50 pictures and 90 cameras"):
        import_paper(small, tmp_path / "out", captions=False, progress=False)
    assert list_episodes(tmp_path / "out")[0].captions() == []
    with pytest.raises(UserError, match="no whole zip"):
        Layout(tmp_path / "paper" / "jsons" / "Room_0.json")
    with pytest.raises(UserError, match="holds no jsons"):
        Layout(tmp_path)
    with pytest.raises(UserError, match="no data set"):
        Layout(tmp_path / "nowhere")
    assert not list((tmp_path / "out").glob(".*")), "nothing half-written"


def test_labels_are_compared_with_our_rule(source, episodes, capsys):
    found = compare_labels(episodes, source, every=2)
    assert (found.videos, found.frames) == (5, 20)
    assert found.labelled_and_ours / found.labelled > 0.9, "neighbours in time nearly always pass"
    assert found.labelled < 0.3 * found.ours, "frames seen on a return pass too, but these labels do not name them"
    assert main(["check", str(episodes), "--labels", str(source)]) == 0
    assert "of the frames that labels name" in capsys.readouterr().out
    with pytest.raises(UserError, match="no overlap_labels"):
        shutil.rmtree(source / "overlap_labels")
        compare_labels(episodes, source)


def test_the_command_imports_and_tells_about_the_licence(small, tmp_path, capsys):
    assert main(["import", "paper", str(small), "--out", str(tmp_path / "out"), "--size", "64x48"]) == 0
    told = capsys.readouterr().out
    assert "3 episodes written" in told and "licence" in told and "not published" in told
    assert main(["import", "paper", str(small), "--out", str(tmp_path / "out"), "--size", "wide"]) == 2
    assert "--size" in capsys.readouterr().err
