"""`cam retrieve`: what it prints, what it writes, and what it refuses."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.camera import look, pinhole
from context_as_memory.cli.retrieve import Retrieve, retrieve_command
from context_as_memory.errors import UserError
from context_as_memory.formats.cameras import read_cameras
from context_as_memory.formats.write import write_poses, write_realestate10k, write_unreal_json
from context_as_memory.retrieval import STRATEGIES

FRAMES = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A camera that turns on the spot twice, 12 degrees a frame."""
    K = pinhole(90, 160, 96)
    write_poses(look([1.0, 2.0, 1.5], np.radians(12.0) * np.arange(FRAMES), K, 160, 96), tmp_path)
    return tmp_path


def run(cameras: Path, query: int = 30, strategy: str = "coverage", **options: object) -> str:
    out = io.StringIO()
    asked = {"cameras": cameras, "query": query, "strategy": strategy, "max_context": 4} | options
    assert retrieve_command(Retrieve(**asked), out) == 0  # type: ignore[arg-type]
    return out.getvalue()


def test_json_report(folder: Path) -> None:
    report = json.loads(run(folder, query=40, strategy="first", json=True))
    assert report["selected"] == [0, 1, 2, 39] and len(report["scores"]) == 4
    assert report["candidates"] == [i for i in range(FRAMES) if i != 40]
    assert report["query"] == 40 and report["strategy"] == "first" and report["num_frames"] == FRAMES
    assert report["hfov_deg"] == pytest.approx(90)
    assert report["settings"]["max_context"] == 4 and report["settings"]["past_only"] is False


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_query_is_never_its_own_memory_and_past_only_keeps_to_the_past(folder: Path, strategy: str) -> None:
    for query in (0, 1, 30, FRAMES - 1):
        both = json.loads(run(folder, query, strategy, json=True))
        past = json.loads(run(folder, query, strategy, json=True, past_only=True))
        assert query not in both["candidates"] + both["selected"]
        assert all(i < query for i in past["candidates"] + past["selected"])
        if query:
            assert both["selected"][-1] == past["selected"][-1] == query - 1


def test_the_same_view_of_the_turn_before_is_remembered(folder: Path) -> None:
    report = json.loads(run(folder, query=50, json=True, past_only=True))
    assert report["selected"][0] in (20, 21)  # 360 degrees earlier, or the neighbour on the side that is new


def test_text_names_the_frames(folder: Path) -> None:
    lines = run(folder, query=2, strategy="recent", past_only=True).splitlines()
    assert len(lines) == 3 and "2 selected" in lines[0] and "90.00 degrees" in lines[0]
    assert lines[1].split()[:3] == ["1", "frame", "0"] and lines[1].endswith("2 frames earlier")
    assert lines[2].split()[:3] == ["2", "frame", "1"] and lines[2].endswith("most recent")


@pytest.mark.parametrize(
    ("query", "strategy", "max_context"), [(30, "paper", 20), (0, "coverage", 1), (45, "random", 8)]
)
def test_picture_is_written_whole(folder: Path, query: int, strategy: str, max_context: int) -> None:
    from PIL import Image

    plot = folder / "pictures" / "map.png"
    run(folder, query, strategy, plot=plot, max_context=max_context)
    picture = np.asarray(Image.open(plot).convert("RGB")).astype(int)
    orange = (abs(picture - (0xE8, 0x59, 0x0C)).sum(-1) < 30).sum()
    assert picture.shape[1] > 1000 and orange > 500  # the query is there
    assert [p.name for p in plot.parent.iterdir()] == ["map.png"]


def test_any_camera_file_will_do(folder: Path) -> None:
    cameras = read_cameras(folder)
    write_unreal_json(cameras, folder / "unreal.json")
    write_realestate10k(cameras, folder / "path.txt")
    (folder / "intrinsics.npy").unlink()
    for name, hfov in (("unreal.json", 52.67), ("path.txt", 90.0), ("poses.npy", 52.67), ("", 52.67)):
        report = json.loads(run(folder / name, json=True))
        assert report["hfov_deg"] == pytest.approx(hfov, abs=1e-3) and report["num_frames"] == FRAMES


def test_refusals_name_the_mistake(folder: Path) -> None:
    with pytest.raises(UserError, match="frame 60 .* 0 to 59"):
        run(folder, query=60)
    with pytest.raises(UserError, match="frame -1"):
        run(folder, query=-1)
    with pytest.raises(UserError, match="coverage, visible, frustum, paper"):
        run(folder, strategy="newest")
    with pytest.raises(UserError, match="max_context"):
        run(folder, max_context=0)
    for name, content in (("empty.json", b""), ("none.json", b'{"CineCameraActor": {}}'), ("bad.npy", b"\x93NUMPY?")):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError):
            run(folder / name)
    with pytest.raises(UserError):
        run(folder / "missing.json")
    (folder / "none").mkdir()
    np.save(folder / "none" / "poses.npy", np.zeros((0, 4, 4)))
    with pytest.raises(UserError, match="no cameras"):
        run(folder / "none")
