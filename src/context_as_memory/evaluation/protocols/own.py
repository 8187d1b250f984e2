"""Walks on own frames from one picture: protocols `mirror`, `closure` and `still`."""

from collections.abc import Mapping, Sequence

import numpy as np

from context_as_memory.camera import Cameras, MotionSpeed
from context_as_memory.evaluation.metrics import psnr
from context_as_memory.evaluation.protocols.control import control_of
from context_as_memory.evaluation.protocols.scenes import StartView
from context_as_memory.evaluation.returns import find_returns
from context_as_memory.evaluation.suite.result import Measured, Scores
from context_as_memory.evaluation.suite.system import Rule, System

THERE = 48  # recorded frames of a walk out along the recorded path
AWAY = 30  # frames of 3 degrees: a turn by 90 degrees
STILL, STILL_END = 200, 10  # frames without moving; so many last ones are judged
EARLY = 40  # frames after which a still picture is looked at as well
SWAY_TURNS, SWAY_FRAMES = 10, 4  # turns by 10 degrees and back; frames of one way
BOTH = {"coverage": "coverage", "recent": "recent"}


def walk(system: System, start: StartView, path: Cameras, rule: str | Rule, seed: int) -> np.ndarray:
    """The given picture and the frames along a path of N cameras, uint8 [1 + N, H, W, 3]."""
    return np.concatenate([start.frame[None], system.walk(start.frame[None], start.camera, path, rule, seed)])


# -- mirror ------------------------------------------------------------------------------------------------------------


def turn_and_back(start: StartView, rng: np.random.Generator) -> Cameras:
    """A turn on the spot by 90 to 180 degrees and back, 3 degrees a frame."""
    turn = int(rng.integers(30, 61))
    away, back = ("j", "l") if rng.random() < 0.5 else ("l", "j")
    return start.path(f"{away}-{turn},{back}-{turn}")


def there_and_back(cameras: Cameras) -> Cameras:
    """Along cameras [n >= 2] and back to the first of them, which is the start and no part of the path."""
    there = np.arange(1, len(cameras))
    return cameras[np.concatenate([there, there[-2::-1], [0]])]


def mirrored(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame numbers int64 [n] of a walk out and back, start frame included: those of the way back, and their
    mirrors."""
    half = frames // 2
    return np.arange(frames - 1, half, -1), np.arange(half)


def measure_mirror(
    system: System,
    start: StartView,
    path: Cameras,
    rules: Mapping[str, str | Rule],
    seed: int,
    networks: bool,
    kind: str,
) -> Measured:
    """One walk out and back under every rule: `mirror_<rule>`, every frame of the way back against its mirror, and
    `history_<rule>` and `history_<kind>_<rule>`, only frames whose view was left in between (`find_returns`). And
    `control.*` of the walk with memory, if OpenCV is there."""
    back, out = mirrored(1 + len(path))
    cameras = Cameras.concat([start.camera, path])
    pairs = find_returns(cameras)
    scores = Scores(networks)
    row = [(start.frame, start.name)]
    films = []
    for name, rule in rules.items():
        video = walk(system, start, path, rule, seed)
        films.append(video)
        scores.add(f"mirror_{name}", video[back], video[out])
        if rule == "coverage":
            scores.note(control_of(video, cameras))
        if len(pairs):
            for prefix in ("history", f"history_{kind}"):
                scores.add(f"{prefix}_{name}", video[pairs[:, 1]], video[pairs[:, 0]])
            first, last = pairs[len(pairs) // 2]
            row += [(video[first], f"{name} {first}"), (video[last], f"return {last}")]
    scores.gain("hc_gain_db", "history_coverage", "history_recent")
    scores.gain("mirror_gain_db", "mirror_coverage", "mirror_recent")
    return Measured(scores.clip(), [row], {"film": np.concatenate(films, axis=2)})


# -- closure and stillness ---------------------------------------------------------------------------------------------


def measure_closure(system: System, start: StartView, seed: int, networks: bool) -> Measured:
    """Turn 90 degrees away from the given picture and back: the given picture against the last frame."""
    away, back = ("j", "l") if seed % 2 else ("l", "j")
    path = start.path(f"{away}-{AWAY},{back}-{AWAY}")
    video = walk(system, start, path, "coverage", seed)
    scores = Scores(networks)
    scores.add("closure", video[-1:], start.frame[None])
    scores.note(control_of(video, Cameras.concat([start.camera, path])))
    decibels = float(psnr(video[-1], start.frame))
    row = [(start.frame, "given"), (video[AWAY], "90 degrees away"), (video[-1], f"return {decibels:.1f} dB")]
    return Measured(scores.clip(), [row], {"film": video})


def sway(start: StartView) -> Cameras:
    """Turns on the spot by 10 degrees and back, `SWAY_TURNS` times, `SWAY_FRAMES` frames each way."""
    speed = MotionSpeed(turn_rad=float(np.radians(10.0)) / SWAY_FRAMES)
    return start.path(",".join([f"j-{SWAY_FRAMES},l-{SWAY_FRAMES}"] * SWAY_TURNS), speed)


def measure_still(system: System, start: StartView, seed: int, networks: bool) -> Measured:
    """Stand still, and sway by 10 degrees: frames from the given camera against the given picture. `still`: the last
    `STILL_END` of `STILL` frames; `still_early`: frame `EARLY`; `sway`: the last return of the swaying."""
    still = walk(system, start, start.path(f"none-{STILL}"), "coverage", seed)
    swayed = walk(system, start, sway(start), "coverage", seed)
    scores = Scores(networks)

    def add(name: str, frames: np.ndarray) -> None:
        scores.add(name, frames, np.broadcast_to(start.frame, frames.shape))

    add("still", still[-STILL_END:])
    add("still_early", still[[EARLY]])
    add("sway", swayed[-1:])
    shown: Sequence[tuple[np.ndarray, str]] = [
        (start.frame, "given"),
        (still[EARLY], f"still {EARLY}"),
        (still[-1], f"still {STILL}"),
        (swayed[-1], f"after {SWAY_TURNS} turns"),
    ]
    return Measured(scores.clip(), [list(shown)])
