"""WRBench, Natural-25: 25 first frames, four events each, five cameras: still, and yaw by 30 and 60 degrees and back.

Public pages: JinPLu/WRBench, `src/wrbench/data/natural25`, `docs/eval/README.md`, and
`scripts/run_natural25_generation.py`.
Inputs are their `natural25` folder, or the repository. Our model takes no text, so the four events of a first frame are
the same walk; it is made once and stands under all four names.
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
    read_rows,
    turned,
    videos_missing,
)
from context_as_memory.evaluation.suite.result import Clip
from context_as_memory.formats.files import read_array, write_array, write_text

FRAMES, FPS, HFOV_DEG = 81, 16.0, 60.0
CAMERAS = {  # their labels: preset, degrees to the left of the first half
    "static": ("static", 0.0),
    "yaw_LR_30": ("yaw_LR", 30.0),
    "yaw_RL_30": ("yaw_RL", -30.0),
    "yaw_LR_60": ("yaw_LR", 60.0),
    "yaw_RL_60": ("yaw_RL", -60.0),
}
_VARIANTS = ("releases/paper_main_20260608/variants.local_ti2v_tv2v.jsonl", "variants.jsonl")
_FIELDS = ("variant_id", "family_id", "reasoning_tier", "event_delta", "divergence_id", "oov_gap")
_TEXTS = ("world_state_prompt", "expected_state", "ti2v_prompt")


def _folder(inputs: Path) -> Path:
    for folder in (inputs, inputs / "natural25", inputs / "src" / "wrbench" / "data" / "natural25"):
        if (folder / "first_frames").is_dir():
            return folder
    raise UserError(f"{inputs} holds no first_frames; give --inputs WRBench's natural25 folder, or its repository")


def _variants(folder: Path) -> list[dict[str, Any]]:
    path = next((folder / name for name in _VARIANTS if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"{folder} holds no variants.jsonl; give --inputs WRBench's natural25 folder")
    return [row for row in read_rows(path) if row.get("oov_gap") == "none"]


def yaw_path(yaw_deg: float) -> np.ndarray:
    """Radians to the left of every frame, float64 [FRAMES]: evenly there in the first half, evenly back in the
    second."""
    half = FRAMES // 2
    there, back = np.linspace(0, 1, half), np.linspace(1, 0, FRAMES - half)
    return np.asarray(np.radians(yaw_deg) * np.concatenate([there, back]))


def _walks(asked: BenchRequest) -> list[BenchWalk]:
    folder = _folder(asked.inputs)
    walks, first_of = [], dict[tuple[str, str], Path]()
    for row in _variants(folder):
        for label, (preset, yaw) in CAMERAS.items():
            name = f"{row['variant_id']}__{label}"
            video = Path(asked.model, "videos", f"{name}.mp4")
            twin = first_of.setdefault((row["family_id"], label), video)
            picture = folder / "first_frames" / f"{row['family_id']}.png"
            about = {"row": row, "camera": label, "preset": preset, "yaw": yaw, "twin": None if twin == video else twin}
            begin = partial(_begin, asked, picture, yaw)
            walks.append(BenchWalk(name=name, video=video, begin=begin, fps=FPS, about=about))
    return walks


def _begin(asked: BenchRequest, picture: Path, yaw: float) -> Given:
    if not picture.exists():
        raise UserError(f"{picture} is missing; WRBench has a first frame for every family")
    frames, camera = picture_start(replace(asked, hfov_deg=HFOV_DEG), picture)
    return Given(frames, camera, from_first(camera, turned(-yaw_path(yaw)))[1:])


def _leave(asked: BenchRequest, made: Made) -> Clip:
    """The target path and the sidecar that their first dimension reads."""
    video = asked.out / made.walk.video
    target = video.with_name(f"{video.name}.target_c2w.npy")
    relative = np.linalg.inv(made.cameras.c2w[0]) @ made.cameras.c2w
    write_array(target, relative.astype(np.float32))
    yaw = abs(made.walk.about["yaw"])
    family = "rotation" if yaw else "static"
    profile = "canonical_static" if not yaw else "canonical_60deg" if yaw == 60 else f"diagnostic_{yaw:g}deg"
    sidecar = {
        **{"target_pose_path": str(target), "trajectory_c2w_path": str(target)},
        **{"target_coordinate_convention": "opencv_c2w", "target_role": "benchmark_intended_control"},
        **{"control_family": family, "control_direction": made.walk.about["preset"], "control_profile": profile},
        **{"camera_type": made.walk.about["preset"], "yaw_peak_deg": yaw, "evidence_level": "benchmark_intent"},
        **{"num_frames": len(made.frames), "fps": FPS, "fov": HFOV_DEG, "image_size": list(asked.size)},
    }
    write_text(video.with_name(f"{video.name}.camera.json"), json.dumps(sidecar, indent=2) + "\n")
    return {}


def _finish(asked: BenchRequest, walks: Sequence[BenchWalk]) -> None:
    """videos.json: one row a video, for `wrbench eval run`."""
    rows = []
    for walk in walks:
        video = (asked.out / walk.video).resolve()
        sidecar = video.with_name(f"{video.name}.camera.json")
        if not sidecar.exists():
            continue
        told, row = json.loads(sidecar.read_text()), walk.about["row"]
        rows.append(
            {
                **{name: row.get(name) for name in (*_FIELDS, *_TEXTS)},
                **{"model": asked.model, "video_id": walk.name, "path": str(video), "video_path": str(video)},
                **{"camera": walk.about["camera"], "camera_type": walk.about["preset"], "model_input": "TI2V"},
                **{"input_kind": "image", "status": "ok", "camera_sidecar_path": str(sidecar), **told},
            }
        )
    write_text(asked.out / "videos.json", json.dumps(rows, indent=1) + "\n")


def _gate(asked: BenchRequest, walks: Sequence[BenchWalk]) -> list[str]:
    wrong = videos_missing(asked, walks)
    for walk in walks:
        target = asked.out / walk.video.with_name(f"{walk.video.name}.target_c2w.npy")
        shape = read_array(target).shape if target.exists() else None
        if shape != (FRAMES, 4, 4):
            wrong.append(f"{target} is {'missing' if shape is None else f'of shape {list(shape)}'}")
    return wrong


def _then(asked: BenchRequest) -> str:
    return (
        f"wrbench eval run --manifest {asked.out.resolve() / 'videos.json'} --out-dir scores   # in WRBench; its six "
        "dimensions need VGGT-Omega, DINOv2 and Qwen"
    )


WRBENCH = Harness(title="WRBench, Natural-25", walks=_walks, leave=_leave, finish=_finish, gate=_gate, then=_then)
