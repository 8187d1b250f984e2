"""Benchmarks of others on made-up cases, one per layout: what is read, what is left, and that the gate can say no."""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import tiny
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli.bench import Name
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.evaluation.bench import HARNESSES, echo, mind, wrbench
from context_as_memory.evaluation.bench.harness import BenchRequest
from context_as_memory.evaluation.bench.run import Outcome, run_bench
from context_as_memory.formats.cameras import read_cameras
from context_as_memory.formats.paths import WBENCH_LATENTS
from context_as_memory.formats.pictures import read_image, write_image
from context_as_memory.formats.video import VideoWriter, measure_video, read_video
from context_as_memory.retrieval import RetrievalConfig

SIZE = (tiny.ROOM_WIDTH, tiny.ROOM_HEIGHT)


class Painter:
    """A system that paints the room of `tiny` as it is commanded: it comes back to what it saw."""

    chunk_frames, rule, size = 4, RetrievalConfig(max_context=3), SIZE

    def __init__(self) -> None:
        self.walks = 0

    def walk(self, start_u8: np.ndarray, start: Cameras, path: Cameras, rule: object, seed: int) -> np.ndarray:
        assert start_u8.shape[1:3] == SIZE[::-1] and len(start_u8) == len(start)
        assert (path.width, path.height) == SIZE
        self.walks += 1
        return tiny.paint_room(path)

    def generate(self, *_: Any) -> np.ndarray:
        raise AssertionError("benchmarks walk")

    def identity(self) -> dict[str, Any]:
        return {"name": "painter", "sha256": "0"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenCV and LPIPS, whose measures have tests of their own; short chunks and paths."""
    from context_as_memory.evaluation import foreign
    from context_as_memory.evaluation.bench import run

    for module in (run, foreign):
        monkeypatch.setattr(module, "has_opencv", lambda: False)
    monkeypatch.setattr(run, "fetched", lambda: [])
    monkeypatch.setattr(mind, "fetched", lambda: [])
    monkeypatch.setattr(echo, "CHUNK", 9)
    monkeypatch.setattr(wrbench, "FRAMES", 17)
    monkeypatch.setattr(mind, "PATHS", ("w-9", "j-9"))


def picture(path: Path, width: int = 80, height: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, tiny.paint_room(look([0, 0, 0], 0.0, pinhole(90, width, height), width, height))[0])
    return path


def run(name: str, inputs: Path, out: Path, **changes: Any) -> tuple[Outcome, Painter]:
    system = Painter()
    limits = {key: changes.pop(key) for key in ("limit", "shard") if key in changes}
    asked = BenchRequest(**{"inputs": inputs, "out": out, "size": SIZE, "model": "ours", "fps": 2.0, **changes})
    return run_bench(system, name, asked, **limits), system


def test_the_command_knows_every_benchmark():
    assert set(get_args(Name)) == {*HARNESSES, "edits"}  # edits needs a world, not only its videos


# -- ours --------------------------------------------------------------------------------------------------------------


def test_closure_mirror_and_control_take_any_pictures(tmp_path):
    picture(tmp_path / "in" / "attic.png")
    done, system = run("closure", tmp_path / "in", tmp_path / "closure")
    assert done.wrong == [] and system.walks == 2
    assert (tmp_path / "closure" / "attic_yaw45" / "video.mp4").exists()
    cameras = read_cameras(tmp_path / "closure" / "attic_yaw90", width=SIZE[0], height=SIZE[1])
    turn = np.degrees(np.arccos(np.clip(cameras.forward @ cameras.forward[0], -1, 1)))
    assert turn.max() == pytest.approx(90, abs=1e-3) and turn[-1] == pytest.approx(0, abs=1e-3)
    assert done.report.summary["closure.psnr_db"] is not None and done.report.summary["gate_passed"] is True
    mirrored, _ = run("mirror", tmp_path / "in", tmp_path / "mirror")
    assert len(mirrored.report.having("mirror.psnr_db")) == 4, "every path there comes back"
    assert len(run("control", tmp_path / "in", tmp_path / "control")[0].report.clips) == 9
    page = (tmp_path / "closure" / "report.md").read_text()
    assert "closure" in page and "cam evaluate --videos" in page


def test_a_run_goes_on_where_it_ended_and_says_what_is_left(tmp_path):
    picture(tmp_path / "in" / "attic.png")
    done, system = run("closure", tmp_path / "in", tmp_path / "out", limit=1)
    assert (system.walks, done.missing) == (1, 1) and done.wrong == ["attic_yaw90/video.mp4 is missing"]
    done, system = run("closure", tmp_path / "in", tmp_path / "out")
    assert (system.walks, done.missing, done.wrong) == (1, 0, [])
    with pytest.raises(UserError, match="other settings"):
        run("closure", tmp_path / "in", tmp_path / "out", model="another")
    picture(tmp_path / "in" / "cellar.png")
    with pytest.raises(UserError, match="other settings"):
        run("closure", tmp_path / "in", tmp_path / "out")


def test_shards_share_the_work(tmp_path):
    picture(tmp_path / "in" / "attic.png")
    for number in range(2):
        assert run("closure", tmp_path / "in", tmp_path / "out", shard=(number, 2))[1].walks == 1
    done, system = run("closure", tmp_path / "in", tmp_path / "out")
    assert system.walks == 0 and len(done.report.clips) == 2 and done.wrong == []


@pytest.mark.parametrize("name", sorted(HARNESSES))
def test_inputs_of_another_layout_are_refused_in_one_sentence(name, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        run(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"give|put") as caught:
        run(name, tmp_path / "empty", tmp_path / "out")
    assert "\n" not in str(caught.value)


# -- Echo-Memory -------------------------------------------------------------------------------------------------------


def test_echo_leaves_what_its_first_stage_leaves(tmp_path):
    picture(tmp_path / "in" / "bear 1.png")
    done, system = run("echo", tmp_path / "in", tmp_path / "out")
    assert done.wrong == [] and system.walks == len(echo.MODES)
    case = tmp_path / "out" / "stage1" / "ours" / "ood" / "ood_00000_bear 1" / "right45_return_2chunk"
    told = json.loads((case / "stage1_metrics.json").read_text())
    assert told["num_chunks"] == 2 and told["mode"] == "right45_return_2chunk" and told["closure_psnr"] > 0
    assert [Path(path).name for path in told["revisit_tail_paths"]] == [f"revisit_tail_{i:02d}.png" for i in range(4)]
    frames = read_video(case / "revisit_gen_only.mp4")
    assert len(frames) == 18
    assert np.abs(read_image(case / "stage1_frames" / "first_00.png").astype(int) - frames[0]).mean() < 12
    cameras = read_cameras(case / "revisit_gen_only.npy", width=SIZE[0], height=SIZE[1])
    assert cameras.forward[8] @ cameras.right[0] == pytest.approx(np.sin(np.radians(45)), abs=1e-9), "to the right"
    theirs = read_cameras_of_actions(case / "actions")
    np.testing.assert_allclose(
        np.linalg.inv(theirs.c2w[0]) @ theirs.c2w, np.linalg.inv(cameras.c2w[0]) @ cameras.c2w, atol=1e-9
    )
    (case / "stage1_frames" / "revisit_tail_00.png").unlink()
    assert any(
        "revisit_tail_00.png" in sentence for sentence in run("echo", tmp_path / "in", tmp_path / "out")[0].wrong
    )
    assert "qwen_vlm_score.py" in done.then


def read_cameras_of_actions(folder: Path) -> Cameras:
    from context_as_memory.formats.cameras import read_track

    return read_track(folder, hfov_deg=90.0).cameras


def test_echo_reads_the_manifest_that_it_prepares(tmp_path):
    image = picture(tmp_path / "elsewhere" / "bear.png")
    sample = {"sample_id": "ood_00003_bear", "domain": "ood", "prompt": "A bear.", "first_frame_image": str(image)}
    train = {"sample_id": "train_00000_x", "domain": "train", "first_frame_image": "missing.png"}
    (tmp_path / "manifest.json").write_text(json.dumps({"ckpts": [], "samples": [train, sample]}))
    done, _ = run("echo", tmp_path / "manifest.json", tmp_path / "out")
    assert {name.split("/")[1] for name in done.report.clips} == {"ood_00003_bear"}


# -- WorldMark ---------------------------------------------------------------------------------------------------------


def arena(folder: Path) -> Path:
    """Two pictures of one split, with actions of one and of two keys."""
    view = folder / "first_view"
    for number in range(2):
        picture(view / "real" / f"{number:03d}.jpg", 120, 80)
        lens = np.array([60, 60, 59.5, 39.5], np.float32)
        (view / "real_intrinsics").mkdir(exist_ok=True)
        np.save(view / "real_intrinsics" / f"{number:03d}_intrinsics.npy", lens)
    (view / "real_action.txt").write_text("1, 7\n5")
    (folder / "action_protocol.txt").write_text("Keys: W=forward\n 1: W      (forward)\n 5: R\n 7: LR     (turns)\n")
    return folder


def test_worldmark_holds_every_key_for_twenty_seconds(tmp_path):
    done, _ = run("worldmark", arena(tmp_path / "arena_inputs"), tmp_path / "out")
    assert done.wrong == []
    folder = tmp_path / "out" / "real" / "first" / "OURS"
    assert sorted(path.name for path in folder.glob("*.mp4")) == ["000_001.mp4", "000_007.mp4", "001_005.mp4"]
    assert [measure_video(folder / name).num_frames for name in ("000_001.mp4", "000_007.mp4")] == [40, 80]
    cameras = read_cameras(folder / "000_007.npy", width=SIZE[0], height=SIZE[1])
    assert cameras.forward[10] @ cameras.right[0] < 0 < cameras.forward[10] @ -cameras.right[0], "L turns to the left"
    np.testing.assert_allclose(cameras.c2w[79], cameras.c2w[1], atol=1e-9)
    assert cameras.K[0, 0] == pytest.approx(60 * SIZE[1] / 80), "the lens is scaled and cropped as the picture is"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert rows[1]["segments"] == [{"keys": "L", "frames": [0, 40]}, {"keys": "R", "frames": [40, 80]}]
    assert rows[1]["achieved"]["sec"] == 40.0 and rows[1]["requested"] == {"segments": 2, "target_sec": 40.0}


def test_worldmarks_gate_refuses_what_is_missing_too_much_or_too_short(tmp_path):
    run("worldmark", arena(tmp_path / "arena_inputs"), tmp_path / "out")
    folder = tmp_path / "out" / "real" / "first" / "OURS"
    with VideoWriter(folder / "000_001.mp4", 16, 8, 2.0, pix_fmt="yuv420p") as writer:
        writer.write(np.zeros((40, 8, 16, 3), np.uint8))
    (folder / "001_005.mp4").rename(folder / "001_006.mp4")
    with VideoWriter(folder / "000_007.mp4", *SIZE, 2.0, pix_fmt="yuv420p") as writer:
        writer.write(np.zeros((30, SIZE[1], SIZE[0], 3), np.uint8))
    told = " ".join(run("worldmark", tmp_path / "arena_inputs", tmp_path / "out")[0].wrong)
    for words in ("001_005.mp4 is missing", "001_006.mp4 was not asked for", "15.0 s instead of 40", "several sizes"):
        assert words in told


def test_worldmarks_own_gate_is_asked_where_it_is_there(tmp_path):
    script = tmp_path / "generation" / "check_delivery.py"
    script.parent.mkdir()
    script.write_text("import sys\nprint('REJECTED', sys.argv[sys.argv.index('--view') + 1])\nsys.exit(1)\n")
    done, _ = run("worldmark", arena(tmp_path / "arena_inputs"), tmp_path / "out")
    assert done.wrong == ["their gate refuses first_view/real: REJECTED first_view"]


# -- WRBench -----------------------------------------------------------------------------------------------------------


def natural25(folder: Path) -> Path:
    picture(folder / "first_frames" / "bedroom_cat.png", 129, 71)
    rows = [
        {
            "variant_id": f"bedroom_cat__{tier}__{gap}",
            "family_id": "bedroom_cat",
            "oov_gap": gap,
            "reasoning_tier": tier,
        }
        for tier in ("T0", "T1")
        for gap in ("none", "long")
    ]
    (folder / "variants.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_wrbench_walks_every_camera_once_and_names_it_for_every_event(tmp_path):
    done, system = run("wrbench", natural25(tmp_path / "natural25"), tmp_path / "out")
    assert done.wrong == [] and system.walks == len(wrbench.CAMERAS)
    folder = tmp_path / "out" / "ours" / "videos"
    assert len(list(folder.glob("*.mp4"))) == 2 * len(wrbench.CAMERAS)
    video = folder / "bedroom_cat__T1__none__yaw_LR_60.mp4"
    target = np.load(folder / f"{video.name}.target_c2w.npy")
    yaw = np.degrees(np.arctan2(target[:, 0, 2], target[:, 0, 0]))
    assert yaw.min() == pytest.approx(-60, abs=1e-3) and yaw[0] == yaw[-1] == 0, "left first, and back"
    assert yaw[7] == yaw[8] == pytest.approx(-60, abs=1e-3), "eight frames there, nine back"
    rows = {row["video_id"]: row for row in json.loads((tmp_path / "out" / "videos.json").read_text())}
    row = rows["bedroom_cat__T1__none__yaw_LR_60"]
    assert Path(row["path"]) == video.resolve() and row["camera_type"] == "yaw_LR" and row["yaw_peak_deg"] == 60
    assert row["control_profile"] == "canonical_60deg" and row["target_coordinate_convention"] == "opencv_c2w"
    assert rows["bedroom_cat__T0__none__static"]["control_family"] == "static"
    (folder / f"{video.name}.target_c2w.npy").unlink()
    assert len(run("wrbench", tmp_path / "natural25", tmp_path / "out")[0].wrong) == 1


# -- MIND --------------------------------------------------------------------------------------------------------------


def mind_data(folder: Path, mark: int = 6, total: int = 12) -> Path:
    """A walk ahead along Unreal's x while it turns to the right, painted as it is."""
    place = folder / "1st_data" / "test" / "mem_test" / "data-26"
    place.mkdir(parents=True)
    frames = [
        {
            **{"time": t, "ws": 0, "actor_pos": {"x": 15.0 * t, "y": 0.0, "z": 0.0}},
            "actor_rpy": {"x": 0.0, "y": 0.0, "z": 3.0 * t},
        }
        for t in range(total)
    ]
    (place / "action.json").write_text(json.dumps({"mark_time": mark, "total_time": total, "data": frames[::-1]}))
    poses, _ = mind.recorded_walk(place)
    cameras = Cameras(poses, np.array([40.0, 40, 40, 30]), 80, 60)
    with VideoWriter(place / "video.mp4", 80, 60, 24.0, crf=4, pix_fmt="yuv444p") as writer:
        writer.write(tiny.paint_room(cameras))
    return folder


def test_mind_goes_on_from_the_given_part_and_mirrors_ten_paths(tmp_path):
    done, _ = run("mind", mind_data(tmp_path / "MIND-Data"), tmp_path / "out", model="m")
    assert done.wrong == []
    rest = tmp_path / "out" / "m" / "1st_data" / "mem_test" / "data-26"
    assert measure_video(rest / "video.mp4").num_frames == 6
    assert done.report.summary["mind_lcm.psnr_db"] > 20, "painted from the recorded cameras, it is nearly the recording"
    poses = np.load(rest / "poses.npy")
    assert poses[0, 0, 3] == pytest.approx(0.15 * 6) and np.degrees(np.arctan2(-poses[0, 1, 2], poses[0, 0, 2])) > 0
    mirror = tmp_path / "out" / "m" / "1st_data" / "mirror_test" / "data-26"
    assert [path.name for path in sorted(mirror.glob("*.mp4"))] == ["path-1.mp4", "path-2.mp4"]
    walked = np.load(mirror / "path-1.npy")
    assert len(walked) == 18
    np.testing.assert_array_equal(walked[:9], walked[:8:-1])
    assert len(done.report.having("mirror.psnr_db")) == 2 and not done.report.having("closure.psnr_db")


def test_mind_needs_its_mark(tmp_path):
    folder = mind_data(tmp_path / "MIND-Data") / "1st_data" / "test" / "mem_test" / "data-26"
    data = json.loads((folder / "action.json").read_text()) | {"mark_time": 99}
    (folder / "action.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="mark_time is 99"):
        run("mind", tmp_path / "MIND-Data", tmp_path / "out")


# -- WBench ------------------------------------------------------------------------------------------------------------


def test_wbench_walks_its_navigation_cases(tmp_path):
    data = tmp_path / "data"
    picture(data / "images" / "case_7.jpg")
    (data / "cases").mkdir()
    first = {"settings": {"perspective": "first_person"}}
    cases = {"7": ("W", "left"), "8": ("W", "open the door")}
    for number, actions in cases.items():
        turns = [{"type": "navigation", "action": action} for action in actions]
        (data / "cases" / f"case_{number}.json").write_text(json.dumps({"id": number, "interactions": turns} | first))
    done, _ = run("wbench", data, tmp_path / "out")
    folder = tmp_path / "out" / "work_dirs" / "ours" / "videos"
    assert done.wrong == [] and [path.name for path in folder.glob("*.mp4")] == ["case_7_combined.mp4"]
    latents = 2 * WBENCH_LATENTS
    assert measure_video(folder / "case_7_combined.mp4").num_frames == 4 * (latents - 1) + 1
    poses = json.loads((folder / "case_7_combined_poses.json").read_text())
    assert len(poses) == latents and np.allclose(poses["0"]["extrinsic"], np.eye(4))
    last = np.array(poses[str(latents - 1)]["extrinsic"])
    assert last[0, 2] < 0 < last[2, 3], "ahead, then turned to the left"
    (folder / "case_9_combined.mp4").write_bytes(b"")
    assert any("belongs to no" in sentence for sentence in run("wbench", data, tmp_path / "out")[0].wrong)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_walks_with_real_networks(tmp_path, weights, capsys):
    picture(tmp_path / "in" / "attic.png")
    words = ["bench", "closure", "--inputs", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--threads", "1"]
    assert main([*words, "--weights", str(weights), "--model", "tiny", "--limit", "1"]) == 0
    told = capsys.readouterr().out
    assert "1 videos are left" in told and "next: cam evaluate --videos" in told
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["suite"] == "bench-closure" and report["metrics"]["closure.psnr_db"]["protocol"] == "closure"
    assert main([*words, "--weights", str(weights), "--fps", "0"]) == 2
    assert main([*words, "--weights", str(weights), "--model", "a/b"]) == 2
    assert sys.getsizeof(capsys.readouterr().err) > 0
