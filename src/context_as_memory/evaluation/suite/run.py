"""`cam evaluate`: run a suite on weights, clip by clip; `write` makes the reports."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras, cameras_from_actions, look, pinhole
from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.foreign import conclude, empty_report, score_video
from context_as_memory.evaluation.ground_truth import Task, choose_tasks
from context_as_memory.evaluation.metric_networks import cache_folder
from context_as_memory.evaluation.report import contact_sheet
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.evaluation.suite import paper, proof
from context_as_memory.evaluation.suite.result import (
    Clip,
    ClipStore,
    Report,
    digest,
    episode_digest,
    fetched,
    missing_note,
    picture_scores,
    write_arrays,
)
from context_as_memory.evaluation.suite.system import System, WorldSystem
from context_as_memory.evaluation.suite.write import write_paper, write_proof, write_revisit, write_videos
from context_as_memory.formats.importers import import_videos
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.pictures import fit_frame, read_image, write_image
from context_as_memory.formats.places import start_frame, start_names


def evaluate(config: EvaluateConfig) -> Report:
    """Run the suite that the settings name; returns what it found."""
    if min(config.clips, config.seeds) < 1 or min(config.num_walks, config.num_drift_frames) < 0:
        raise UserError("--clips and --seeds must be at least 1, --walks and --drift-frames at least 0")
    if (config.suite is None) == (config.videos is None):
        raise UserError("give either --suite, or --videos")
    if config.videos is None and (config.cameras is not None or config.truth is not None):
        raise UserError("--cameras and --truth belong to --videos; give the videos too, or leave them out")
    if config.hfov_deg is not None and config.videos is None and config.image is None:
        raise UserError("--hfov-deg is for --image or --videos; leave it away")
    if config.videos is None and config.poses != PoseOptions():
        raise UserError("--axes, --w2c, --unit, --up, --width and --height are for the cameras of --videos")
    if config.videos is not None:
        config.folder.mkdir(parents=True, exist_ok=True)
        return run_videos(config.videos, config)
    system = open_system(config)
    config.folder.mkdir(parents=True, exist_ok=True)
    if config.suite == "revisit":
        return run_revisit(system, config)
    run = run_paper if config.suite == "paper" else run_proof
    return run(system, test_episodes(config.data, config.split), config)


def open_system(config: EvaluateConfig) -> WorldSystem:
    """The weights of the settings as a system."""
    from context_as_memory import weights
    from context_as_memory.compute import use_threads
    from context_as_memory.world import World

    use_threads(config.threads)
    world = World.from_pretrained(config.weights, seed=config.seed)
    return WorldSystem(world, config.weights, weights.fingerprint(weights.resolve(config.weights)))


def test_episodes(data: str, split: str) -> list[Episode]:
    """Episodes of a folder; `test` (when there is no such folder) renders the six test maps once, into the cache."""
    folder = Path(data)
    if data == "test" and not folder.exists():
        from context_as_memory.data.render import render_dataset

        folder = cache_folder().parent / "episodes-test"
        render_dataset(folder, maps="test", videos_per_map=1)
    return list_episodes(folder, split)


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` as two numbers."""
    number, _, shards = text.partition("/")
    if not (number.isdigit() and shards.isdigit()):
        raise UserError(f"--shard is {text!r}; give i/n, for example 0/2")
    return int(number), int(shards)


def start_run(
    suite: str,
    system: System,
    config: EvaluateConfig,
    networks: Sequence[str],
    settings: dict[str, object],
) -> tuple[Report, ClipStore]:
    """An empty report and the folder of its clips, which is stamped with everything that determines them."""
    identity = dict(system.identity())
    everything = proof.settings_of(system, seed=config.seed, **settings)
    stamp = everything | {"weights": identity, "networks": list(networks)}
    return Report(suite, everything, identity, networks), ClipStore(config.folder, stamp, parse_shard(config.shard))


def recordings(episodes: Sequence[Episode], split: str) -> dict[str, object]:
    """What episodes are measured on, as settings."""
    content = {episode.name: episode_digest(episode) for episode in episodes}
    return {"split": split, "episodes": [episode.name for episode in episodes], "content": content}


# -- proof -------------------------------------------------------------------------------------------------------------


def run_proof(system: System, episodes: Sequence[Episode], config: EvaluateConfig) -> Report:
    """The suite `proof` on episodes; see `proof` for what is measured."""
    networks = fetched()
    lpips = "lpips" in networks
    tasks = choose_tasks(episodes, system.chunk_frames, config.clips, config.seed)
    walks = proof.choose_walks(episodes, config.num_walks, config.seed)
    counts = {"clips": len(tasks), "walks": len(walks)}
    report, store = start_run("proof", system, config, networks, counts | recordings(episodes, config.split))
    pictures, films = config.folder / "pictures", config.folder / "films"
    pictures.mkdir(exist_ok=True)
    films.mkdir(exist_ok=True)

    def one_return(row: int) -> Clip:
        task = tasks[row]
        others = [episode for episode in episodes if episode.folder != task.episode.folder]
        other = others[row % len(others)] if others else None
        clip, shown = proof.measure_return(system, task, other, config.seed + row, lpips)
        rows: list[list[tuple[np.ndarray, str]]] = [[], []]  # the frames of every context, and the retrieved ones
        for name, frame in shown.items():
            rows[name.startswith("retrieved")].append((frame, name.replace("_", " ")))
        write_image(pictures / f"{row:04d}.png", contact_sheet(rows, [], scale=1))
        return clip

    def one_walk(row: int) -> Clip:
        walk = walks[row]
        clip, videos = proof.measure_walk(system, walk, config.seed + row, lpips)
        write_arrays(films / f"{row:04d}.npz", {"film": proof.walk_film(videos, walk.away - walk.first)})
        return clip

    names = [f"return/{task.episode.name}/{task.start}" for task in tasks]
    report.groups |= dict(zip(names, [task.episode.name for task in tasks], strict=True))
    report.clips |= store.run(names, one_return, "returns")
    names = [f"walk/{walk.episode.name}/{walk.first}-{walk.back}" for walk in walks]
    report.groups |= dict(zip(names, [walk.episode.name for walk in walks], strict=True))
    report.clips |= store.run(names, one_walk, "walks")
    if store.is_shard:
        return report
    if len(episodes) < 2:
        report.notes.append("there is one episode only: the swap for another scene was left out")
    if not walks:
        report.notes.append("no recorded path comes back to a pose after 40 to 200 frames: the gate was not tested")
    report.notes += missing_note(["lpips"], networks)
    length = config.num_drift_frames
    report.settings["drift_frames"] = length
    if length >= 60:
        report.parts["drift"] = {
            episode.name: store.keep(
                f"drift_{episode.name}_{length}",
                lambda episode=episode: proof.drift(system, episode, length, config.seed, lpips),  # type: ignore[misc]
            )
            for episode in proof.drift_episodes(episodes)
        }
    report.parts["cost"] = store.keep("cost", lambda: proof.cost(system, episodes[0]))
    proof.conclude(report)
    write_proof(report, config.folder)
    return report


# -- paper -------------------------------------------------------------------------------------------------------------


def run_paper(system: System, episodes: Sequence[Episode], config: EvaluateConfig) -> Report:
    """The suite `paper` on episodes: the paper's three tables; see `paper` for what is measured."""
    wanted = ("lpips", "fid", "fvd")
    networks = fetched(wanted)
    lpips = "lpips" in networks
    seeds = [config.seed + number for number in range(config.seeds)]
    tasks = anywhere(episodes, system.chunk_frames, config.clips, config.seed)
    turns = anywhere(episodes, 1, config.num_walks, config.seed + 1, earliest=0)
    counts = {"clips": len(tasks), "walks": len(turns), "seeds": len(seeds)}
    report, store = start_run("paper", system, config, networks, counts | recordings(episodes, config.split))
    folder = config.folder / "frames"
    folder.mkdir(exist_ok=True)
    chunk_files = [folder / f"chunk-{row:04d}.npz" for row in range(len(tasks))]
    turn_files = [folder / f"turn-{row:04d}.npz" for row in range(len(turns))]

    def one_chunk(row: int) -> Clip:
        clip, made = paper.measure_chunk(system, tasks[row], seeds, lpips)
        write_arrays(chunk_files[row], made)
        return clip

    def one_turn(row: int) -> Clip:
        clip, made = paper.measure_history(system, turns[row].episode, turns[row].start, seeds, lpips)
        write_arrays(turn_files[row], made)
        return clip

    for kind, chosen, measure in (("chunk", tasks, one_chunk), ("turn", turns, one_turn)):
        names = [f"{kind}/{task.episode.name}/{task.start}" for task in chosen]
        report.groups |= dict(zip(names, [task.episode.name for task in chosen], strict=True))
        report.clips |= store.run(names, measure, {"chunk": "ground truth", "turn": "history"}[kind])
    if store.is_shard:
        return report
    report.numbers |= store.keep(
        "distances", lambda: paper.distribution_distances(chunk_files, turn_files, episodes, networks)
    )
    for name in ("coverage", "paper", "recent"):
        for kind in ("", "history_"):
            interval = report.interval(f"{kind}{name}.psnr_db")
            report.summary[f"{kind}{name}.psnr_db"] = None if interval is None else interval.mean
    report.notes += paper_notes(report, turns, networks) + missing_note(wanted, networks)
    write_paper(report, config.folder)
    return report


def paper_notes(report: Report, turns: Sequence[Task], networks: Sequence[str]) -> list[str]:
    """What a reader of the three tables must know about them."""
    limit = int(report.settings["max_context"])
    means = {name: report.interval(f"{name}.context_frames") for name in paper.rows_of(limit)}
    early = {
        name: f"{name} {interval.mean:.1f} of {size}"
        for (name, (_, size)), interval in zip(paper.rows_of(limit).items(), means.values(), strict=True)
        if interval is not None and interval.mean < size - 0.05 and name != "first"
    }
    notes = [
        "the row `first` has the first frame and the most recent one, so its budget is smaller by its nature",
        "`framepack` reads two pictures, and has no history comparison: a walk on own frames has no packed pictures",
        f"no FVD on recorded frames: chunks of {report.settings['chunk_frames']} frames are too short for it",
        "no row for the strategies `visible` and `frustum`: depth profiles are not known here, and these cameras stay "
        "on the ground, where `frustum` is `coverage` by samples",
        "FID and FVD of so few pictures are large and biased; compare values of equally many only (n : recorded ones)",
    ]
    if early:
        notes.append(f"mean frames used on recorded memory where rules stop early: {', '.join(early.values())}")
    if "fvd" in networks and len(turns) > 0 and "history_fvd.coverage" not in report.numbers:
        notes.append(
            "no FVD on own frames: it needs two walks, and two recorded clips that turn on the spot as they do"
        )
    return notes


def anywhere(episodes: Sequence[Episode], chunk_frames: int, clips: int, seed: int, earliest: int = 100) -> list[Task]:
    """Chunks anywhere on the recorded paths, after the first `earliest` frames, as evenly over the episodes as can be;
    as many as asked for, as long as there are so many starts."""
    rng = np.random.default_rng(seed)
    tasks = []
    for number, episode in enumerate(episodes):
        first = min(earliest, episode.num_frames // 2)
        share = clips // len(episodes) + (number < clips % len(episodes))
        starts = rng.permutation(np.arange(first, episode.num_frames - chunk_frames + 1))[:share]
        tasks += [Task(episode, int(start), int(start)) for start in np.sort(starts)]
    return tasks


# -- videos of others --------------------------------------------------------------------------------------------------


def run_videos(videos: Path, config: EvaluateConfig) -> Report:
    """Score the returns in videos of another system, see `foreign`."""
    imported = import_videos(videos, config.cameras, config.truth, config.poses, config.hfov_deg)
    for video in imported:
        if video.track is not None:
            print(f"{video.name}: lens {video.track.lens}")
        for told in video.report()["notes"]:
            print(f"{video.name}: {told}")
    networks = bool(fetched())
    report = empty_report(imported, networks, str(videos))
    stamp = report.settings | {"networks": list(report.networks)}
    store = ClipStore(config.folder, stamp, parse_shard(config.shard))
    report.clips |= store.run(report.settings["videos"], lambda row: score_video(imported[row], networks), "videos")
    if not store.is_shard:
        conclude(report)
        write_videos(report, config.folder)
    return report


# -- revisit -----------------------------------------------------------------------------------------------------------


def run_revisit(system: System, config: EvaluateConfig) -> Report:
    """Any start picture: turn away by 90 to 180 degrees and back, walk away and back, on own frames, with memory and
    with recent frames only; every frame of the way back against its counterpart of the way out (the mirror protocol of
    the history comparison, arXiv 2506.03141 section 4.1)."""
    networks = fetched()
    width, height = picture_size(system)
    starts = {}
    if config.image is not None:
        frame = read_image(config.image)
        side, tall = frame.shape[1], frame.shape[0]
        camera = look((0.0, 0.0, 0.0), 0.0, pinhole(config.hfov_deg or 90.0, side, tall), side, tall)
        starts[config.image.stem] = (fit_frame(frame, width, height)[0], camera.resized(width, height))
    else:
        for name in start_names():
            start = start_frame(name)
            starts[name] = (fit_frame(start.frame, width, height)[0], start.camera.resized(width, height))
    rng = np.random.default_rng(config.seed)
    cases = []
    for name, (frame, camera) in starts.items():
        turn = int(rng.integers(30, 61))
        for kind, actions in (("turn", f"j-{turn},none-8,l-{turn}"), ("walk", "w-40,none-8,s-40")):
            cases.append((f"{kind}/{name}", frame, camera, cameras_from_actions(camera, actions)))
    cases = cases[: config.clips]
    content = {name: digest(frame, camera.c2w, camera.K) for name, (frame, camera) in starts.items()}
    settings = {"clips": len(cases), "starts": list(starts), "content": content}
    report, store = start_run("revisit", system, config, networks, settings)
    films = config.folder / "films"
    films.mkdir(exist_ok=True)

    def one(row: int) -> Clip:
        _, frame, camera, path = cases[row]
        found = visits(find_returns(Cameras.concat([camera, path])))
        clip: Clip = {}
        videos = []
        for strategy in ("coverage", "recent"):
            made = np.concatenate([frame[None], system.walk(frame[None], camera, path, strategy, config.seed)])
            videos.append(made)
            if found:
                last = np.concatenate([visit.frames for visit in found])
                first = np.concatenate([visit.firsts for visit in found])
                clip |= picture_scores(f"revisit_{strategy}", made[last], made[first], "lpips" in networks)
        if found:
            clip["gain_db"] = (clip["revisit_coverage.psnr_db"] or 0.0) - (clip["revisit_recent.psnr_db"] or 0.0)
        write_arrays(films / f"{row:04d}.npz", {"film": np.concatenate(videos, axis=2)})
        return clip

    report.groups |= {name: name.partition("/")[2] for name, *_ in cases}
    report.clips |= store.run([case[0] for case in cases], one, "revisits")
    if store.is_shard:
        return report
    gain = report.interval("gain_db")
    report.summary["gain_db"] = None if gain is None else gain.mean
    report.notes.append("a foggy picture that stays foggy scores well here: look at the videos")
    report.notes += missing_note(["lpips"], networks)
    write_revisit(report, config.folder)
    return report


def picture_size(system: System) -> tuple[int, int]:
    """Width and height that a system makes."""
    if isinstance(system, WorldSystem):
        return system.world.config.width, system.world.config.height
    raise UserError("revisit needs weights of ours, whose picture size is known")
