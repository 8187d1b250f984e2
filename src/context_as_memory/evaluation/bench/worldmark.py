"""WorldMark: 25 pictures in each of two views and two domains, five key sequences each, 20 seconds a key.

Public pages: AlayaLab/WorldMark, `arena_inputs/README.txt`, `action_protocol.txt`, the output specification of its
adapter skill, and `generation/check_delivery.py`. Inputs are their `arena_inputs`. `gate` asks what their own gate asks
(names, completeness, duration within 10 %, one size and rate), and runs theirs too where it lies beside the inputs.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.evaluation.bench.harness import (
    BenchRequest,
    BenchWalk,
    Given,
    Harness,
    picture_start,
    videos_missing,
    write_rows,
)
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.files import read_array, read_text
from context_as_memory.formats.video import measure_video

VIEWS, DOMAINS = ("first_view", "third_view"), ("real", "style")
SECONDS, TOLERANCE = 20.0, 0.1  # of a key, and how far a video may be off
KEYS = {"W": "w", "S": "s", "A": "a", "D": "d", "L": "j", "R": "l"}  # theirs -> ours; L and R turn


def protocol(inputs: Path) -> dict[int, str]:
    """Key sequences by action number, such as {13: "WRW"}. `UserError` for a folder that is no `arena_inputs`."""
    path = inputs / "action_protocol.txt"
    if not path.exists():
        raise UserError(f"{path} is missing; give --inputs WorldMark's arena_inputs folder")
    lines = (re.match(r"\s*(\d+):\s*([WSADLR]+)\b", line) for line in read_text(path).splitlines())
    found = {int(line[1]): line[2] for line in lines if line}
    if not found:
        raise UserError(f"{path} names no actions; unpack arena_inputs again")
    return found


def assigned(inputs: Path, view: str, domain: str) -> list[tuple[int, int]]:
    """(picture, action) of a split; empty if the split is not there."""
    path = inputs / view / f"{domain}_action.txt"
    if not path.exists():
        return []
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    return [(row, int(word)) for row, line in enumerate(lines) for word in re.findall(r"\d+", line)]


def _delivery(asked: BenchRequest, view: str, domain: str) -> Path:
    return Path(domain, view.removesuffix("_view"), asked.model.upper())


def _walks(asked: BenchRequest) -> list[BenchWalk]:
    keys_of = protocol(asked.inputs)
    walks = []
    for view in VIEWS:
        for domain in DOMAINS:
            for picture, action in assigned(asked.inputs, view, domain):
                name = f"{picture:03d}_{action:03d}"
                about = {"view": view, "domain": domain, "image": f"{picture:03d}", "action_id": action}
                walks.append(
                    BenchWalk(
                        name=f"{view}/{domain}/{name}",
                        video=_delivery(asked, view, domain) / f"{name}.mp4",
                        begin=partial(_begin, asked, view, domain, picture, keys_of[action]),
                        fps=asked.fps,
                        about=about | {"keys": keys_of[action]},
                    )
                )
    if not walks:
        raise UserError(f"{asked.inputs} holds no first_view/real_action.txt or the like; unpack arena_inputs again")
    return walks


def _begin(asked: BenchRequest, view: str, domain: str, picture: int, keys: str) -> Given:
    folder = asked.inputs / view
    found = sorted((folder / domain).glob(f"{picture:03d}.*"))
    if not found:
        raise UserError(f"{folder / domain} holds no picture {picture:03d}; unpack arena_inputs again")
    K = read_array(folder / f"{domain}_intrinsics" / f"{picture:03d}_intrinsics.npy")
    frames, camera = picture_start(asked, found[0], K)
    each = max(1, round(SECONDS * asked.fps))
    path = cameras_from_actions(camera, ",".join(f"{KEYS[key]}-{each}" for key in keys))
    return Given(frames, camera, path[: len(keys) * each - 1])  # the given picture is the first frame


def _finish(asked: BenchRequest, walks: Sequence[BenchWalk]) -> None:
    """manifest.jsonl of every split: what was asked for and what came out, measured."""
    rows: dict[Path, list[dict[str, object]]] = {}
    for walk in walks:
        video = asked.out / walk.video
        if not video.exists():
            continue
        facts = measure_video(video)
        count = len(walk.about["keys"])
        cuts = [round(i * facts.num_frames / count) for i in range(count + 1)]
        row: dict[str, object] = {"model": asked.model.upper(), "video": walk.video.as_posix(), **walk.about}
        row["requested"] = {"segments": count, "target_sec": SECONDS * count}
        row["achieved"] = {
            **{"width": facts.width, "height": facts.height, "fps": walk.fps, "fps_source": "writer_call"},
            **{"frames": facts.num_frames, "sec": round(facts.num_frames / walk.fps, 3), "measured": True},
        }
        row["segments"] = [{"keys": k, "frames": cuts[i : i + 2]} for i, k in enumerate(walk.about["keys"])]
        row["intrinsics"] = {"supplied": True, "transform": f"scale and centre crop to {facts.width}x{facts.height}"}
        row["prompt"] = {"source": None}
        rows.setdefault(video.parent, []).append(row)
    for folder, listed in rows.items():
        write_rows(folder / "manifest.jsonl", listed)


def _gate(asked: BenchRequest, walks: Sequence[BenchWalk]) -> list[str]:
    wrong = videos_missing(asked, walks)
    expected = {asked.out / walk.video: walk for walk in walks}
    for folder in sorted({path.parent for path in expected}):
        found = sorted(folder.glob("*.mp4"))
        wrong += [f"{path} was not asked for" for path in found if path not in expected]
        sizes = set()
        for path in (path for path in found if path in expected):
            facts = measure_video(path)
            sizes.add((facts.width, facts.height))
            target = SECONDS * len(expected[path].about["keys"])
            seconds = facts.num_frames / expected[path].fps
            if abs(seconds - target) > TOLERANCE * target:
                wrong.append(f"{path} lasts {seconds:.1f} s instead of {target:.0f} s")
        wrong += [f"{folder} holds videos of several sizes: {sorted(sizes)}"] if len(sizes) > 1 else []
    return wrong + _their_gate(asked)


def _their_gate(asked: BenchRequest) -> list[str]:
    """What `check_delivery.py` says, where it lies beside the inputs as in their repository."""
    script = asked.inputs.resolve().parent / "generation" / "check_delivery.py"
    if not script.exists():
        return []
    wrong = []
    for view in VIEWS:
        for domain in DOMAINS:
            if not assigned(asked.inputs, view, domain):
                continue
            command = [sys.executable, str(script), "--arena", str(asked.inputs), "--view", view, "--domain", domain]
            command += ["--delivery", str(asked.out / _delivery(asked, view, domain))]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode:
                told = (ran.stdout + ran.stderr).strip().splitlines()
                wrong.append(f"their gate refuses {view}/{domain}: {told[-1].strip() if told else ran.returncode}")
    return wrong


def _then(asked: BenchRequest) -> str:
    there = asked.out.resolve() / "real" / "first"
    return (
        f"cd evaluation && WORLDMARK_VIDEOS={there} WORLDMARK_RESULTS=scores EVAL_SUFFIX=_real_first bash run_eval.sh"
        "   # in WorldMark, one run a split; its nine scores need SEA-RAFT, Depth Anything 3, DINOv2, VGGT and Q-Align"
    )


WORLDMARK = Harness(title="WorldMark", walks=_walks, finish=_finish, gate=_gate, then=_then)
