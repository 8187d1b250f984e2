"""`cam evaluate`: run a suite on weights, clip by clip."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.metric_networks import networks_folder
from context_as_memory.evaluation.protocols.control import has_opencv
from context_as_memory.evaluation.protocols.scenes import StartView, picture_starts
from context_as_memory.evaluation.suite import paper, proof, quality, revisit
from context_as_memory.evaluation.suite.result import ClipStore, Report, fetched, missing_note
from context_as_memory.evaluation.suite.setup import Setup, Suite
from context_as_memory.evaluation.suite.system import System, WorldSystem
from context_as_memory.evaluation.suite.videos import run_videos
from context_as_memory.formats.options import PoseOptions

SUITES: dict[str, Suite] = {
    "proof": proof.SUITE,
    "paper": paper.SUITE,
    "returns": quality.RETURNS,
    "quality": quality.SUITE,
    "revisit": revisit.SUITE,
}


def evaluate(config: EvaluateConfig) -> Report:
    """Run the suite that the settings name; returns what it found."""
    config.check()
    if config.hfov_deg is not None and config.videos is None and config.image is None:
        raise UserError("--hfov-deg is for --image or --videos; leave it away")
    if config.videos is None and config.poses != PoseOptions():
        raise UserError("--axes, --w2c, --unit, --up, --width and --height are for the cameras of --videos")
    if config.videos is not None and config.suite is None:
        config.folder.mkdir(parents=True, exist_ok=True)
        return run_videos(config.videos, config)
    if config.suite is None or config.videos is not None:
        raise UserError("give either --suite, or --videos")
    if config.cameras is not None or config.truth is not None:
        raise UserError("--cameras and --truth belong to --videos; give the videos too, or leave them out")
    system = open_system(config)
    episodes: Sequence[Episode] = ()
    starts: Sequence[StartView] = ()
    if config.suite == "revisit":
        starts = picture_starts(config.image, config.hfov_deg, system.size)
    else:
        episodes = test_episodes(config.data, config.split)
    config.folder.mkdir(parents=True, exist_ok=True)
    return run_suite(config.suite, system, config, episodes, starts)


def run_suite(
    name: str,
    system: System,
    config: EvaluateConfig,
    episodes: Sequence[Episode] = (),
    starts: Sequence[StartView] = (),
) -> Report:
    """Measure the clips of a suite and write its reports; a shard measures only. `UserError` for episodes of another
    size than the system makes."""
    for episode in episodes:
        found = int(episode.meta["width"]), int(episode.meta["height"])
        if found != system.size:
            raise UserError(
                f"episode {episode.name} is {found[0]}x{found[1]}, these weights make {system.size[0]}x"
                f"{system.size[1]}; render it in that size"
            )
    suite, networks = SUITES[name], fetched(SUITES[name].wanted)
    setup = Setup(system, config, networks, episodes, starts)
    settings: dict[str, Any] = {"chunk_frames": system.chunk_frames, "max_context": system.rule.max_context}
    settings |= config.measured | {"content": setup.content}
    settings |= {"episodes": [episode.name for episode in episodes], "starts": [start.name for start in starts]}
    identity = dict(system.identity())
    measured_with = {"networks": list(networks), "opencv": has_opencv()}
    store = ClipStore(config.folder, settings | {"weights": identity} | measured_with, config.shards)
    cases = suite.cases(setup)
    report = Report(name, settings, identity, networks, groups={case.name: case.group for case in cases})
    report.clips |= store.run(cases)
    if store.is_shard:
        return report
    suite.conclude(report, setup, store)
    report.notes += missing_note(suite.wanted, networks)
    suite.write(report, store, config.folder)
    return report


def open_system(config: EvaluateConfig) -> WorldSystem:
    """The weights of the settings as a system."""
    from context_as_memory.compute import use_threads
    from context_as_memory.world import World

    use_threads(config.threads)
    world = World.from_pretrained(config.weights, seed=config.seed, device=config.device)
    stored = world.config.retrieval
    world.config = replace(
        world.config,
        num_steps=config.steps or world.config.num_steps,
        retrieval=replace(stored, max_context=config.max_context or stored.max_context),
    )
    return WorldSystem(world, config.weights, world.weights_sha256 or "")


def test_episodes(data: str, split: str) -> list[Episode]:
    """Episodes of a folder; `test` (when there is no such folder) renders the six test maps once, into the cache."""
    folder = Path(data)
    if data == "test" and not folder.exists():
        from context_as_memory.data.render import render_dataset

        folder = networks_folder().parent / "episodes-test"
        render_dataset(folder, maps="test", videos_per_map=1)
    return list_episodes(folder, split)
