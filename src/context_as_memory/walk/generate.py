"""`cam generate`: one picture and a camera path in; a video, a comparison, an inspector picture and a report out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.evaluation.report import environment, peak_memory_mib, write_json
from context_as_memory.formats.files import sha256_of
from context_as_memory.progress import ProgressBar
from context_as_memory.signals import StopOnSignal
from context_as_memory.walk.config import GenerateConfig
from context_as_memory.walk.look import look_report
from context_as_memory.walk.recorder import OUTPUTS, Recorder, prepare_folder
from context_as_memory.walk.request import Request, lens_report, read_request
from context_as_memory.walk.terminal import note, say_stop

if TYPE_CHECKING:
    from context_as_memory.world import World


def generate(config: GenerateConfig) -> dict[str, Any]:
    """Generate a video and everything around it into `config.out`; returns the report (see `report.json`).

    Ctrl-C, SIGTERM and SIGHUP stop after the current chunk and still write every file, a second one stops at once; the
    report then says `"interrupted": true`. Raises `UserError` for bad input, as far as possible before the model is
    loaded.
    """
    request = read_request(config)
    prepare_folder(config.out)
    began = time.perf_counter()
    with open_worlds(config, request) as worlds, StopOnSignal(say_stop) as stop:
        for name in OUTPUTS:  # a later failure must not leave old results that look like new ones
            (config.out / name).unlink(missing_ok=True)
        memory = worlds["with_memory"]
        walk = request.fitted(memory.config.width, memory.config.height)
        if not walk.start.past:
            for world in worlds.values():
                world.reset(walk.start.frame[None], walk.start.camera)
        recorder = Recorder(config.out, worlds, walk.path, config.fps)
        with recorder, ProgressBar("generating", len(walk.path), unit="frames", rate="fps") as bar:
            try:
                for chunks in zip(*(world.rollout(walk.path) for world in worlds.values()), strict=True):
                    recorder.add(chunks)
                    bar.advance(len(chunks[0].frames_u8))
                    if stop.requested:
                        break
            except KeyboardInterrupt:  # asked a second time
                pass
        report = describe(config, request, memory) | recorder.report(config.seed)
        report["look"] = None if config.image is None else look_report(memory, memory.bank.frames_u8(0)[0])
        # The numbers are written before pictures of them are drawn, so that nothing in drawing can lose them.
        write_json(config.out / "report.json", report)
        recorder.draw(request.start.name)
        report["files"] = recorder.files()
        report["sha256"] = {name: sha256_of(config.out / name) for name in ("video.mp4", "poses.npy")}
        report |= {"wall_seconds": round(time.perf_counter() - began, 2), "peak_memory_mib": peak_memory_mib()}
        write_json(config.out / "report.json", report)
    return report


@contextmanager
def open_worlds(config: GenerateConfig, request: Request) -> Iterator[dict[str, "World"]]:
    """The worlds to walk in by name, sharing one set of weights: with the chosen memory and, for comparison, with
    recent frames only. A world file is closed in the end."""
    from context_as_memory.compute import use_threads
    from context_as_memory.storage import open_world

    use_threads(config.threads)
    depth = None
    if config.depth is not None:  # before a world file is made, which an error would leave behind
        from context_as_memory.adapters.depth import DepthEstimator

        depth = DepthEstimator.from_pretrained(config.depth, up=request.start.up)
    if config.world is not None and request.start.past:
        note("the world's own settings are used: seed, memory, steps; there is nothing to compare with")
        weights = None if config.weights == "default" else config.weights
        world = open_world(config.world, config.branch, weights=weights)
        worlds = {"with_memory": world}
        world.prompt, world.guidance = tell(config, world, world.prompt, world.guidance)
    else:
        worlds = _new_worlds(config, request.start.up)
    worlds["with_memory"].depth = depth
    try:
        yield worlds
    finally:
        worlds["with_memory"].close()


def _new_worlds(config: GenerateConfig, up: np.ndarray) -> dict[str, "World"]:
    from context_as_memory.storage import create_world
    from context_as_memory.world import World

    base = World.from_pretrained(config.weights)
    stored = base.config
    rule = replace(
        stored.retrieval,
        strategy=config.strategy,
        max_context=config.max_context or stored.retrieval.max_context,
    )
    prompt, guidance = tell(config, base, stored.prompt, stored.guidance)
    changes: dict[str, Any] = {"num_steps": config.steps or stored.num_steps, "seed": config.seed, "retrieval": rule}
    changes |= {"prompt": prompt, "guidance": guidance}
    settings = replace(stored, **changes)

    def fresh(settings: Any) -> World:
        world = World(base.model, base.codec, settings)
        world.weights_sha256 = base.weights_sha256
        return world

    if config.world is None:
        worlds = {"with_memory": fresh(settings)}
    else:
        worlds = {"with_memory": create_world(config.world, config.weights, networks=base, up=up, **changes)}
    if config.compare and config.strategy == "recent":
        note("--strategy recent is what a comparison would compare with; comparison.mp4 is left out")
    elif config.compare:
        worlds["without_memory"] = fresh(replace(settings, retrieval=replace(rule, strategy="recent")))
    return worlds


def tell(config: GenerateConfig, world: "World", prompt: str, guidance: float) -> tuple[str, float]:
    """The prompt and guidance that are asked for, else the given ones; `UserError` if the weights cannot take them."""
    from context_as_memory.adapters.text import check

    check(world.model.words, world.config.guidance, config.prompt, config.guidance)
    return (
        prompt if config.prompt is None else config.prompt,
        guidance if config.guidance is None else config.guidance,
    )


def describe(config: GenerateConfig, request: Request, world: "World") -> dict[str, Any]:
    """What was asked for, and of what, for the report."""
    height, width = request.start.frame.shape[:2]
    size = world.config.width, world.config.height
    weights = {"name": config.weights, "sha256": world.weights_sha256}
    from context_as_memory.storage import file_of

    file = file_of(world)
    if file is not None:
        weights = {"name": file.settings["weights"], "sha256": file.settings["weights_sha256"]}
    return {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()},
        "world": asdict(world.config) | {"chunk_frames": world.chunk_frames},
        "start": {"name": request.start.name, "width": width, "height": height, "resized": (width, height) != size},
        "lens": lens_report(request),
        "cameras": None if request.track is None else request.track.report(),
        "up": (np.round(request.start.up, 6) + 0.0).tolist(),
        "seed": config.seed,
        "weights": weights,
        "environment": environment(),
    }
