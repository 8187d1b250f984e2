"""Chunks generated from recorded frames, under any contexts: protocols `chunk`, `return` and `swap` (the paper's
ground-truth comparison, section 4.1). All contexts of a clip have the same targets and the same noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.metrics import psnr
from context_as_memory.evaluation.protocols import contexts
from context_as_memory.evaluation.protocols.scenes import Task, recorded
from context_as_memory.evaluation.protocols.visibility import retrieval_scores
from context_as_memory.evaluation.suite.result import Measured, Scores
from context_as_memory.evaluation.suite.system import System
from context_as_memory.retrieval import retrieve
from context_as_memory.seeds import draw_seed

Given = np.ndarray | tuple[np.ndarray, Cameras]  # frame numbers of the memory, or pictures with their cameras
RULES = ("coverage", "paper", "random", "recent")
SWAP, COPY = "swap", "copy"


@dataclass(frozen=True)
class Moment:
    """A chunk to generate and all that is known of it."""

    task: Task
    chunk_frames: int

    @cached_property
    def frames(self) -> np.ndarray:
        """All recorded frames of the episode, uint8 [T, H, W, 3]."""
        return recorded(self.task.episode)[0]

    @property
    def cameras(self) -> Cameras:
        """All recorded cameras of the episode."""
        return recorded(self.task.episode)[1]

    @property
    def memory(self) -> Cameras:
        """Cameras of what is remembered."""
        return self.cameras[: self.task.now]

    @property
    def targets(self) -> Cameras:
        """Cameras of the chunk."""
        return self.cameras[self.task.start : self.task.start + self.chunk_frames]

    @property
    def truth(self) -> np.ndarray:
        """The recorded chunk, uint8 [chunk_frames, H, W, 3]."""
        return self.frames[self.task.start : self.task.start + self.chunk_frames]


def generated(system: System, moment: Moment, given: Mapping[str, Given], seed: int) -> dict[str, np.ndarray]:
    """The chunk under every context, uint8 [chunk_frames, H, W, 3] by name; equal contexts are generated once."""
    made: dict[object, np.ndarray] = {}
    keys = {name: name if isinstance(context, tuple) else tuple(context.tolist()) for name, context in given.items()}
    for name, context in given.items():
        if keys[name] not in made:
            pictures, cameras = (
                context if isinstance(context, tuple) else (moment.frames[context], moment.cameras[context])
            )
            made[keys[name]] = system.generate(pictures, cameras, moment.targets, seed)
    return {name: made[keys[name]] for name in given}


def measure_rules(
    system: System, task: Task, rules: Sequence[str], seed: int, networks: bool, prefix: str = ""
) -> Measured:
    """A chunk under rules of retrieval, under `SWAP` (frames of the same walk that show something else) and as `COPY`
    (the retrieved frame with the closest pose, without a model). Values begin with `prefix`."""
    moment = Moment(task, system.chunk_frames)
    size, draw = system.rule.max_context, draw_seed(seed, 0)
    choose = contexts.choices(system.rule)
    given: dict[str, Given] = {
        name: choose[name](moment.memory, moment.targets, size, draw, None) for name in rules if name in choose
    }
    now = task.now
    coverage = replace(system.rule, strategy="coverage")
    found = retrieve(moment.memory, moment.targets, coverage, recent=now - 1, seed=draw)
    if SWAP in rules:
        given[SWAP] = contexts.swapped(found, now, task.start).frame_ids
    made = generated(system, moment, given, seed)
    if COPY in rules:
        made[COPY] = moment.frames[contexts.nearest(moment.cameras, found.frame_ids, moment.targets)]
    scores = Scores(networks)
    for name in rules:
        scores.add(f"{prefix}{name}", made[name], moment.truth)
    base = f"{prefix}coverage"
    scores.gain("gt_gain_db", base, f"{prefix}recent")
    scores.gain("paper_margin_db", base, f"{prefix}paper")
    scores.gain("copy_margin_db", base, f"{prefix}{COPY}")
    scores.gain("swap_gain_db", f"{prefix}{SWAP}", f"{prefix}recent")
    truth = moment.truth[-1]
    row = [(truth, f"truth {task.start + len(moment.truth) - 1}")]
    row += [(made[name][-1], f"{name} {float(psnr(made[name][-1], truth)):.1f} dB") for name in rules]
    row += [(moment.frames[number], f"retrieved {number}") for number in found.frame_ids[:4]]
    return Measured(scores.clip(), [row])


def measure_controls(system: System, task: Task, other: Episode | None, seed: int, networks: bool) -> Measured:
    """A return with the right memory, matched controls and swapped memory; and its retrieval against true visibility.
    other: an episode of another scene; None: there is none, and that swap is left out."""
    moment = Moment(task, system.chunk_frames)
    chosen = contexts.matched(moment.memory, moment.targets, system.rule, seed)
    right = chosen["right"]
    given: dict[str, Given] = dict(chosen)
    if other is not None:
        strange = contexts.other_scene(right, moment.frames, recorded(other)[0], seed)
        given["other_scene"] = (strange, moment.cameras[right])
    made = generated(system, moment, given, seed)
    scores = Scores(networks)
    scores.note({"context_frames": float(len(right))})
    for name, pictures in made.items():
        scores.add(name, pictures, moment.truth)
    for name in made.keys() - {"none"}:
        scores.gain(f"gain_db.{name}", name, "none")
    values = scores.clip()
    for kind, rows in (("retrieval", right), ("retrieval_random", chosen["random"])):
        values |= {f"{kind}.{name}": value for name, value in retrieval_scores(task, rows).items()}
    shown = [(moment.truth[-1], "truth"), *((pictures[-1], name.replace("_", " ")) for name, pictures in made.items())]
    return Measured(values, [shown, [(moment.frames[row], f"retrieved {row}") for row in right[:3]]])
