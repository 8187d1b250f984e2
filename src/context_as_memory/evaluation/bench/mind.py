"""MIND: given the first part of a recorded walk, the rest; and ten paths out and back from where that part ends.

Public page: the README of CSU-JPG/MIND. Inputs are `MIND-Data`: `1st_data/test/{mem_test,action_space_test}/NAME` with
`action.json` and `video.mp4` each. Left are videos in the order that their `src/process.py` reads. Two of their metrics
need no network but LPIPS and are computed here: LCM, the rest against the recorded one, and GSC, the way back against
the way out (`mirror`). Third-person data is left out: nobody is followed by our model.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras, pinhole
from context_as_memory.errors import UserError
from context_as_memory.evaluation.bench.harness import BenchRequest, BenchWalk, Given, Harness, Made, videos_missing
from context_as_memory.evaluation.suite.result import Clip, fetched, picture_scores
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.documents import unreal_poses
from context_as_memory.formats.files import read_json, reading
from context_as_memory.formats.pictures import fit_frame
from context_as_memory.formats.video import measure_video, read_frames

FPS = 24.0
TESTS = ("mem_test", "action_space_test")
CONTEXT = 200  # recorded frames that are remembered at most, evenly over the given part, the last ones among them
OUT = 60  # frames of a path out
PATHS = ("w-60", "s-60", "a-60", "d-60", "j-60", "l-60", "w-30,j-30", "w-30,l-30", "wj-60", "wl-60")


def _folders(inputs: Path) -> list[Path]:
    root = inputs / "1st_data" / "test"
    found = [path.parent for test in TESTS for path in sorted((root / test).glob("*/action.json"))]
    if not found:
        raise UserError(f"{root} holds no mem_test/NAME/action.json; give --inputs the folder of MIND-Data")
    return found


def recorded_walk(folder: Path) -> tuple[np.ndarray, int]:
    """Camera-to-world poses [T, 4, 4] of a recorded walk (OpenCV axes, metres, z up) and its mark: the first frame to
    be made. Unreal's centimetres and degrees; the actor's place is taken for the camera's."""
    path = folder / "action.json"
    data: Any = read_json(path)
    with reading(path):
        frames = sorted(data["data"], key=lambda frame: frame["time"])
        place = np.array([[frame["actor_pos"][axis] for axis in "xyz"] for frame in frames], np.float64) / 100
        angles = np.array([[frame["actor_rpy"][axis] for axis in "xyz"] for frame in frames], np.float64)
        mark = int(data["mark_time"])
        if not 0 < mark < len(frames):
            raise UserError(f"mark_time is {mark} of {len(frames)} frames; write it between them")
        return unreal_poses(place, angles), mark


def _walks(asked: BenchRequest) -> list[BenchWalk]:
    walks = []
    for folder in _folders(asked.inputs):
        test, name = folder.parent.name, folder.name
        place = Path(asked.model, "1st_data", test, name, "video.mp4")
        begin = partial(_begin_rest, asked, folder)
        kind = {"test": test, "name": name}
        walks.append(BenchWalk(name=f"{test}/{name}", video=place, begin=begin, fps=FPS, from_start=False, about=kind))
    for folder in (folder for folder in _folders(asked.inputs) if folder.parent.name == "mem_test"):
        for number, actions in enumerate(PATHS, start=1):
            place = Path(asked.model, "1st_data", "mirror_test", folder.name, f"path-{number}.mp4")
            begin = partial(_begin_mirror, asked, folder, actions)
            kind = {"test": "mirror_test", "name": folder.name}
            name = f"mirror_test/{folder.name}/path-{number}"
            walks.append(BenchWalk(name=name, video=place, begin=begin, fps=FPS, from_start=False, about=kind))
    return walks


def _context(asked: BenchRequest, folder: Path) -> tuple[np.ndarray, Cameras, Cameras, int]:
    """What is remembered of the given part: frames and cameras; all cameras of the walk; its mark."""
    poses, mark = recorded_walk(folder)
    video = folder / "video.mp4"
    facts = measure_video(video)
    K = pinhole(asked.hfov_deg, facts.width, facts.height)
    cameras = Cameras(poses, K, facts.width, facts.height).resized(*asked.size)
    rows = np.unique(np.linspace(0, mark - 1, min(mark, CONTEXT)).round().astype(int))
    frames = [fit_frame(frame, *asked.size)[0] for frame in read_frames(video, rows, facts)]
    return np.stack(frames), cameras[rows], cameras, mark


def _begin_rest(asked: BenchRequest, folder: Path) -> Given:
    frames, seen, cameras, mark = _context(asked, folder)
    video = folder / "video.mp4"
    facts = measure_video(video)
    rest = np.arange(mark, min(len(cameras), facts.num_frames))
    truth = np.stack([fit_frame(frame, *asked.size)[0] for frame in read_frames(video, rest, facts)])
    return Given(frames, seen, cameras[rest], truth)


def _begin_mirror(asked: BenchRequest, folder: Path, actions: str) -> Given:
    frames, seen, _, _ = _context(asked, folder)
    out = cameras_from_actions(seen[[-1]], actions, up=(0.0, 0.0, 1.0))
    return Given(frames, seen, Cameras.concat([out, out[np.arange(len(out) - 1, -1, -1)]]))


def _leave(asked: BenchRequest, made: Made) -> Clip:
    if made.given.truth is None:
        return {}
    return picture_scores("mind_lcm", made.frames, made.given.truth, "lpips" in fetched())


def _gate(asked: BenchRequest, walks: Sequence[BenchWalk]) -> list[str]:
    wrong = videos_missing(asked, walks)
    for walk in walks:
        video = asked.out / walk.video
        if video.exists() and walk.about["test"] == "mirror_test" and measure_video(video).num_frames % 2:
            wrong.append(f"{walk.video} has an odd number of frames; a path and its mirror are equally long")
    return wrong


def _then(asked: BenchRequest) -> str:
    return (
        f"python src/process.py --gt_root {asked.inputs.resolve()} --test_root {asked.out.resolve() / asked.model} "
        "--metrics lcm,visual,dino,action,gsc   # in MIND; needs ViPE, DINOv3 and others"
    )


MIND = Harness(title="MIND, first person", walks=_walks, leave=_leave, gate=_gate, then=_then)
