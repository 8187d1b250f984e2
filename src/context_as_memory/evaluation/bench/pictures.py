"""Three protocols of ours on a folder of any pictures: closure, mirror and control. No benchmark is behind them.

`closure` takes the turns by 0-45-0 and 0-90-0 degrees of Echo-Memory's open-domain probe and of the harness on the card
of MemoryTax-Res-world-model-mem; `mirror` the idea of MIND's scene consistency; `control` is one walk for every key.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from context_as_memory.evaluation.bench.harness import (
    BenchRequest,
    BenchWalk,
    Given,
    Harness,
    picture_start,
    pictures_in,
)
from context_as_memory.formats.actions import cameras_from_actions

TURNS = {"yaw45": "l-15,j-15", "yaw90": "l-30,j-30"}  # 3 degrees a frame
WAYS = {"turn": "l-40,j-40", "walk": "w-40,s-40", "aside": "d-24,a-24", "curve": "wl-20,sj-20"}
KEYS = {"ahead": "w-24", "back": "s-24", "left": "a-24", "right": "d-24", "turn-left": "j-24", "turn-right": "l-24"}
BOTH = {"walk-turn-left": "wj-24", "walk-turn-right": "wl-24", "still": "none-24"}


def _walks(paths: Mapping[str, str], asked: BenchRequest) -> list[BenchWalk]:
    walks = []
    for picture in pictures_in(asked.inputs):
        for name, actions in paths.items():
            walk = f"{picture.stem}_{name}"
            begin = partial(_begin, asked, picture, actions)
            walks.append(BenchWalk(name=walk, video=Path(walk, "video.mp4"), begin=begin, fps=asked.fps))
    return walks


def _begin(asked: BenchRequest, picture: Path, actions: str) -> Given:
    frames, camera = picture_start(asked, picture)
    return Given(frames, camera, cameras_from_actions(camera, actions))


def _then(asked: BenchRequest) -> str:
    return f"cam evaluate --videos {asked.out} --out {asked.out / 'returns'}   # the same measures, and returns"


CLOSURE = Harness(title="The given picture after turns away and back", walks=partial(_walks, TURNS), then=_then)
MIRROR = Harness(title="Paths out and back", walks=partial(_walks, WAYS), then=_then)
CONTROL = Harness(title="Does the picture move as commanded?", walks=partial(_walks, KEYS | BOTH), then=_then)
