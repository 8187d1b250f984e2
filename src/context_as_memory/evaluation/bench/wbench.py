"""WBench, its navigation cases: a picture and turns of four seconds each, at 24 frames a second.

Public pages: meituan-longcat/WBench, README, `src/models/navigation.py`, `src/models/camera/poses.py`, and the layout
of its data set (`cases/case_ID.json`, `images/case_ID.jpg`). Inputs are their `data` folder. Cases with a turn that is
no navigation ask for text and are left out.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.evaluation.bench.harness import (
    BenchRequest,
    BenchWalk,
    Given,
    Harness,
    Made,
    from_first,
    picture_start,
    videos_missing,
)
from context_as_memory.evaluation.suite.result import Clip
from context_as_memory.formats.documents import natural
from context_as_memory.formats.files import read_json, reading, write_text
from context_as_memory.formats.paths import (
    LATENT_FRAMES,
    WBENCH_LENS,
    denser,
    is_wbench_case,
    read_wbench_case,
    wbench_turns,
)
from context_as_memory.formats.pictures import PICTURES

FPS, LENS_SIZE = 24.0, (1920, 1080)


def cases_in(inputs: Path) -> dict[str, dict[str, Any]]:
    """The navigation cases by id. `UserError` for a folder of another layout."""
    folder = inputs / "cases" if (inputs / "cases").is_dir() else inputs
    files = sorted(folder.glob("case_*.json"), key=lambda path: natural(path.name))
    if not files:
        raise UserError(f"{folder} holds no case_*.json; give --inputs WBench's data folder")
    found = {}
    for path in files:
        data: Any = read_json(path)
        with reading(path):
            if not isinstance(data, dict) or not is_wbench_case(data):
                raise UserError('no "interactions"; give a case of WBench')
            if None not in wbench_turns(data):
                found[str(data["id"])] = data
    return found


def picture_of(inputs: Path, case: dict[str, Any]) -> Path:
    """The picture of a case: the one it names, or that of its number."""
    named = [case.get(key) for key in ("initial_image", "image", "first_frame")]
    places = [inputs / str(name) for name in named if name]
    places += [inputs / "images" / f"case_{case['id']}{suffix}" for suffix in PICTURES]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"{inputs / 'images'} holds no picture of case {case['id']}; add case_{case['id']}.jpg")


def _walks(asked: BenchRequest) -> list[BenchWalk]:
    return [
        BenchWalk(
            name=f"case_{number}",
            video=Path("work_dirs", asked.model, "videos", f"case_{number}_combined.mp4"),
            begin=partial(_begin, asked, case),
            fps=FPS,
            about={"turns": len(case["interactions"])},
        )
        for number, case in cases_in(asked.inputs).items()
    ]


def _begin(asked: BenchRequest, case: dict[str, Any]) -> Given:
    found = read_wbench_case(case)
    fx, fy, cx, cy = WBENCH_LENS
    hfov = float(np.degrees(2 * np.arctan(cx / fx)))
    frames, camera = picture_start(replace(asked, hfov_deg=hfov), picture_of(asked.inputs, case))
    relative = np.linalg.inv(found.poses[0]) @ found.poses
    return Given(frames, camera, denser(from_first(camera, relative))[1:])


def _leave(asked: BenchRequest, made: Made) -> Clip:
    """The path in their pose layout, one camera a latent."""
    rows = np.arange(0, len(made.frames), LATENT_FRAMES)
    fx, fy, cx, cy = WBENCH_LENS
    lens = [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
    relative = np.linalg.inv(made.cameras.c2w[0]) @ made.cameras.c2w[rows]
    poses = {str(i): {"extrinsic": pose.tolist(), "K": lens} for i, pose in enumerate(relative)}
    video = asked.out / made.walk.video
    write_text(video.with_name(f"{video.stem}_poses.json"), json.dumps(poses) + "\n")
    return {}


def _gate(asked: BenchRequest, walks: Sequence[BenchWalk]) -> list[str]:
    wrong = videos_missing(asked, walks)
    folder = asked.out / "work_dirs" / asked.model / "videos"
    named = {walk.video.name for walk in walks}
    return wrong + [f"{path} belongs to no navigation case" for path in folder.glob("*.mp4") if path.name not in named]


def _then(asked: BenchRequest) -> str:
    return (
        f"python main.py --model {asked.model}   # in WBench, with {asked.out.resolve() / 'work_dirs'} in its place; "
        "needs MegaSAM, SAM 2, Depth Anything 3, HPSv3 and a language model's address"
    )


WBENCH = Harness(title="WBench, navigation cases", walks=_walks, leave=_leave, gate=_gate, then=_then)
