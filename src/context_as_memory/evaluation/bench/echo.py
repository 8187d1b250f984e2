"""Echo-Memory's revisit suite, its open-domain part: pictures, turned away and back in chunks of 81 frames.

Public pages: Echo-Team-Joy-Future-Academy-JD/Echo-Memory, `eval/v2/revisit_suite` (README, `prepare_eval_manifest.py`,
`run_revisit_stage1.py`). Inputs are a folder of pictures (theirs: `assets/opendomain_revisit`) or the manifest.json
that they prepare. What is left is what their first stage leaves, so that their judge can go on from it.
"""

import json
from collections.abc import Sequence
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
    pictures_in,
    turned,
    videos_missing,
)
from context_as_memory.evaluation.metrics import psnr, ssim
from context_as_memory.evaluation.report import write_json
from context_as_memory.evaluation.suite.result import Clip
from context_as_memory.formats.files import read_json, write_text
from context_as_memory.formats.pictures import write_image

CHUNK, FPS, TAIL = 81, 15.0, 4  # frames of a chunk, of a second, and of the end that the judge is shown
MODES = {  # degrees to the left of every chunk
    "right45_return_2chunk": (-45.0, 45.0),
    "rot180_4chunk": (45.0, 45.0, -45.0, -45.0),
    "rot360_8chunk": (45.0,) * 8,
}
PROMPT = "A toy bear in the same static scene."


def _samples(inputs: Path) -> list[dict[str, Any]]:
    """Their samples: of a manifest, or made of the pictures of a folder as they do it."""
    if inputs.suffix == ".json" or (inputs / "manifest.json").exists():
        data = read_json(inputs if inputs.suffix == ".json" else inputs / "manifest.json")
        samples = data.get("samples") if isinstance(data, dict) else None
        if not isinstance(samples, list):
            raise UserError(f'{inputs}: no list of "samples"; give a manifest of prepare_eval_manifest.py')
        return [sample for sample in samples if sample.get("domain") == "ood"]
    return [
        {
            "sample_id": f"ood_{number:05d}_{path.stem}",
            "domain": "ood",
            "prompt": PROMPT,
            "first_frame_image": str(path),
        }
        for number, path in enumerate(pictures_in(inputs))
    ]


def _walks(asked: BenchRequest) -> list[BenchWalk]:
    walks = []
    for sample in _samples(asked.inputs):
        for mode, yaws in MODES.items():
            folder = Path("stage1", asked.model, sample["domain"], sample["sample_id"], mode)
            walks.append(
                BenchWalk(
                    name=f"{sample['sample_id']}/{mode}",
                    video=folder / "revisit_gen_only.mp4",
                    begin=partial(_begin, asked, Path(sample["first_frame_image"]), yaws),
                    fps=FPS,
                    about={"sample": sample, "mode": mode},
                )
            )
    return walks


def yaw_path(yaws_deg: tuple[float, ...]) -> np.ndarray:
    """Radians to the left of every frame, float64 [T]: each chunk turns evenly, and begins where the one before it
    ended."""
    chunks, before = [], 0.0
    for yaw in yaws_deg:
        chunks.append(np.radians(before + yaw * np.arange(CHUNK) / (CHUNK - 1)))
        before += yaw
    return np.concatenate(chunks)


def _begin(asked: BenchRequest, picture: Path, yaws: tuple[float, ...]) -> Given:
    frames, camera = picture_start(asked, picture)
    return Given(frames, camera, from_first(camera, turned(-yaw_path(yaws)))[1:])


def _leave(asked: BenchRequest, made: Made) -> Clip:
    """The first picture and the last ones, their actions, and `stage1_metrics.json` with their three measures."""
    video = asked.out / made.walk.video
    stage = video.with_name("stage1_frames")
    stage.mkdir(parents=True, exist_ok=True)
    first, tail = stage / "first_00.png", [stage / f"revisit_tail_{i:02d}.png" for i in range(TAIL)]
    write_image(first, made.given.frames[-1])
    for path, frame in zip(tail, made.frames[-TAIL:], strict=True):
        write_image(path, frame)
    mode = made.walk.about["mode"]
    for number, yaw in enumerate(MODES[mode]):
        write_text(video.parent / "actions" / f"chunk{number:02d}_{mode}.json", json.dumps(_action(yaw), indent=2))
    given, last = made.given.frames[-1], made.frames[-1]
    closure = {
        "closure_mse": float(np.mean((given.astype(float) - last) ** 2)),
        "closure_psnr": min(100.0, float(psnr(last, given))),
        "closure_ssim": float(ssim(last[None], given[None])[0]),
    }
    told = {"ckpt": asked.model, "run_id": asked.model, "sample": made.walk.about["sample"], "mode": mode, "rank": 0}
    told |= {"num_chunks": len(MODES[mode]), "video_path": str(video)} | closure
    told |= {"first_frame_paths": [str(first)], "revisit_tail_paths": [str(path) for path in tail]}
    write_json(video.with_name("stage1_metrics.json"), told)
    return {"echo.closure_psnr": closure["closure_psnr"], "echo.closure_ssim": closure["closure_ssim"]}


def _action(yaw_deg: float) -> dict[str, list[float]]:
    """One chunk in their action layout: no translation, a rotation by rows, positive to the left."""
    found = {}
    for i, angle in enumerate(np.radians(yaw_deg * np.arange(CHUNK) / (CHUNK - 1))):
        sin, cos = float(np.sin(angle)), float(np.cos(angle))
        found[str(i)] = [0.0, 0.0, 0.0, cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0]
    return found


def _gate(asked: BenchRequest, walks: Sequence[BenchWalk]) -> list[str]:
    wrong = videos_missing(asked, walks)
    for walk in walks:
        note = (asked.out / walk.video).with_name("stage1_metrics.json")
        told = read_json(note) if note.exists() else {}
        named = [*told.get("first_frame_paths", []), *told.get("revisit_tail_paths", [])]
        wrong += [f"{note} is missing"] if not told else []
        wrong += [f"{path} is missing" for path in named if not Path(path).exists()]
    return wrong


def _then(asked: BenchRequest) -> str:
    return (
        f"python eval/v2/revisit_suite/qwen_vlm_score.py --stage1-root {asked.out.resolve() / 'stage1'} "
        "--api-base URL --model NAME   # in Echo-Memory; its judge is a network"
    )


ECHO = Harness(title="Echo-Memory, open-domain revisits", walks=_walks, leave=_leave, gate=_gate, then=_then)
