"""`cam evaluate`: run a suite on weights, and write report.json, report.md and report.html."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.camera import Cameras, cameras_from_actions, look, pinhole
from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.foreign import MEASURES, conclude, score_video, settings_of
from context_as_memory.evaluation.ground_truth import Task, choose_tasks
from context_as_memory.evaluation.importers import import_videos
from context_as_memory.evaluation.metric_networks import cache_folder
from context_as_memory.evaluation.report import contact_sheet, write_json
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.evaluation.start import start_frame, start_names
from context_as_memory.evaluation.suite import page, paper, proof
from context_as_memory.evaluation.suite.result import (
    Clip,
    ClipStore,
    Report,
    cell,
    have_networks,
    markdown_table,
    picture_scores,
    write_text,
)
from context_as_memory.evaluation.suite.system import System, WorldSystem
from context_as_memory.video import fit_frame, read_image, write_image

PICTURES, FILMS = 12, 6  # at most so many in a page


def evaluate(config: EvaluateConfig) -> Report:
    """Run the suite that the settings name; returns what it found."""
    if config.clips < 1 or config.walks < 0 or config.drift_frames < 0:
        raise UserError("--clips must be at least 1, --walks and --drift-frames at least 0")
    if (config.suite is None) == (config.videos is None):
        raise UserError("give either --suite, or --videos")
    if config.videos is None and (config.cameras is not None or config.truth is not None):
        raise UserError("--cameras and --truth belong to --videos; give the videos too, or leave them out")
    if config.videos is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        return run_videos(config.videos, config)
    system = open_system(config)
    config.out.mkdir(parents=True, exist_ok=True)
    if config.suite == "revisit":
        return run_revisit(system, config)
    run = run_paper if config.suite == "paper" else run_proof
    return run(system, test_episodes(config.data, config.split), config)


def open_system(config: EvaluateConfig) -> WorldSystem:
    """The weights of the settings as a system."""
    import torch

    from context_as_memory import weights
    from context_as_memory.world import World

    if config.threads is not None:
        if config.threads < 1:
            raise UserError(f"--threads is {config.threads}; give at least 1")
        torch.set_num_threads(config.threads)
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


# -- proof -------------------------------------------------------------------------------------------------------------


def run_proof(system: System, episodes: Sequence[Episode], config: EvaluateConfig) -> Report:
    """The suite `proof` on episodes; see `proof` for what is measured."""
    networks = have_networks()
    settings = proof.settings_of(
        system,
        clips=config.clips,
        walks=config.walks,
        seed=config.seed,
        split=config.split,
        episodes=[episode.name for episode in episodes],
        networks=networks,
    )
    identity = dict(system.identity())
    store = ClipStore(config.out, settings | {"weights": identity.get("sha256")}, parse_shard(config.shard))
    tasks = choose_tasks(episodes, system.chunk_frames, config.clips, config.seed)
    walks = proof.choose_walks(episodes, config.walks, config.seed)
    pictures, films = config.out / "pictures", config.out / "films"
    pictures.mkdir(exist_ok=True)
    films.mkdir(exist_ok=True)

    def one_return(row: int) -> Clip:
        task = tasks[row]
        others = [episode for episode in episodes if episode.folder != task.episode.folder] or [task.episode]
        clip, shown = proof.measure_return(system, task, others[row % len(others)], config.seed + row, networks)
        labels = [(frame, name.replace("_", " ")) for name, frame in shown.items()]
        write_image(pictures / f"{row:04d}.png", contact_sheet([labels], ["" for _ in labels]))
        return clip

    def one_walk(row: int) -> Clip:
        clip, videos = proof.measure_walk(system, walks[row], config.seed + row, networks)
        np.savez_compressed(films / f"{row:04d}.npz", film=np.concatenate(list(videos.values()), axis=2))
        return clip

    report = Report("proof", settings | {"drift_frames": config.drift_frames}, identity)
    names = [f"return/{task.episode.name}/{task.start}" for task in tasks]
    report.clips |= store.run(names, one_return, "returns")
    names = [f"walk/{walk.episode.name}/{walk.first}-{walk.back}" for walk in walks]
    report.clips |= store.run(names, one_walk, "walks")
    if not walks:
        report.notes.append("no recorded path comes back to a pose after 40 to 200 frames: the gate was not tested")
    if not networks:
        report.notes.append("metric networks were not fetched (`cam fetch metrics`): no LPIPS, no style distance")
    if config.drift_frames >= 60:
        report.parts["drift"] = proof.drift(system, episodes[0], config.drift_frames, config.seed, networks)
    report.parts["cost"] = proof.cost(system, episodes[0])
    proof.conclude(report)
    write_proof(report, config.out)
    return report


def write_proof(report: Report, out: Path) -> None:
    """report.json, report.md and report.html of a proof."""
    write_json(out / "report.json", report.json())
    contexts = ["right", *proof.CONTROLS, *proof.SWAPS]
    rows = [
        [
            name.replace("_", " "),
            cell(report.interval(f"{name}.psnr_db")),
            cell(report.interval(f"{name}.ssim"), 3),
            cell(report.interval(f"{name}.lpips"), 3),
            cell(report.interval(f"gain_db.{name}")) if name != "none" else "0",
        ]
        for name in contexts
    ]
    headings = ["context", "PSNR, dB", "SSIM", "LPIPS", "gain over none, dB"]
    verdict = "Memory is used." if report.summary["proven"] else "NOT proven: see the table."
    facts = [[key.replace("_", " "), _number(value)] for key, value in report.summary.items()]
    text = [
        f"# Proof that memory is used: {report.weights.get('name')}\n",
        f"**{verdict}**\n",
        markdown_table(headings, rows),
        markdown_table(["summary", "value"], facts),
        *(f"Note: {note}\n" for note in report.notes),
        f"Weights {report.weights.get('sha256', '')}; settings: {report.settings}\n",
    ]
    write_text(out / "report.md", "\n".join(text))
    gains = {name: report.interval(f"gain_db.{name}") for name in contexts if name != "none"}
    known = {name: interval for name, interval in gains.items() if interval is not None}
    mark = "yes" if report.summary["proven"] else "no"
    sections = [
        ("Verdict", f'<p class="verdict {mark}">{verdict}</p>' + "".join(f"<p>{note}</p>" for note in report.notes)),
        ("Gain over the most recent frame alone", page.bars(known, "dB", ["right"]) if known else ""),
        ("Returns by context", page.table(headings, rows)),
        ("Summary", page.table(["", ""], facts)),
    ]
    drift = report.parts.get("drift") or []
    for keys, heading in (
        (("style", "style_recorded"), "Drift: style distance to recorded frames"),
        (("sharpness_ratio",), "Drift: sharpness as a share of the recorded one"),
    ):
        series = {key: [(row["frame"], row[key]) for row in drift if key in row] for key in keys}
        if any(series.values()):
            sections.append((heading, page.lines({k: v for k, v in series.items() if v}, "frame")))
    costs = report.parts.get("cost") or []
    if costs:
        line = [(row["history_frames"], row["seconds_per_chunk"]) for row in costs]
        sections.append(("Seconds per chunk against remembered frames", page.lines({"seconds": line}, "frames")))
    strips = sorted((out / "pictures").glob("*.png"))
    picked = strips[:: max(1, len(strips) // PICTURES)][:PICTURES]
    shown = "".join(page.picture(read_image(path)) for path in picked)
    sections.append(("Returns: truth, every context, retrieved frames", shown))
    films = [np.load(path)["film"] for path in sorted((out / "films").glob("*.npz"))[:FILMS]]
    caption = "recorded, with memory, with recent frames only: from the first visit to the return"
    sections.append(("Walks that leave and come back", "".join(page.film(film, caption) for film in films)))
    write_text(out / "report.html", page.page(f"Proof: {report.weights.get('name')}", sections))


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


# -- paper -------------------------------------------------------------------------------------------------------------


def run_paper(system: System, episodes: Sequence[Episode], config: EvaluateConfig) -> Report:
    """The suite `paper` on episodes: the paper's three tables; see `paper` for what is measured."""
    networks = have_networks()
    settings = proof.settings_of(
        system,
        clips=config.clips,
        walks=config.walks,
        seed=config.seed,
        seeds=config.seeds,
        split=config.split,
        episodes=[episode.name for episode in episodes],
        networks=networks,
    )
    identity = dict(system.identity())
    store = ClipStore(config.out, settings | {"weights": identity.get("sha256")}, parse_shard(config.shard))
    seeds = [config.seed + number for number in range(config.seeds)]
    tasks = anywhere(episodes, system.chunk_frames, config.clips, config.seed)
    rng = np.random.default_rng(config.seed)
    around = [episodes[number % len(episodes)] for number in range(config.walks)]
    turns = [(episode, int(rng.integers(episode.num_frames))) for episode in around]
    frames = config.out / "frames"
    frames.mkdir(exist_ok=True)

    def one_chunk(row: int) -> Clip:
        clip, made = paper.measure_chunk(system, tasks[row], seeds, networks)
        np.savez_compressed(frames / f"chunk-{row:04d}.npz", **made)  # type: ignore[arg-type]
        return clip

    def one_turn(row: int) -> Clip:
        episode, start = turns[row]
        clip, made = paper.measure_history(system, episode, start, seeds, networks)
        np.savez_compressed(frames / f"turn-{row:04d}.npz", **made)  # type: ignore[arg-type]
        return clip

    report = Report("paper", settings, identity)
    report.clips |= store.run([f"chunk/{t.episode.name}/{t.start}" for t in tasks], one_chunk, "ground truth")
    report.clips |= store.run([f"turn/{e.name}/{start}" for e, start in turns], one_turn, "history")
    if networks:
        report.parts |= paper.distribution_distances(frames)
    for name in ("coverage", "paper", "recent"):
        for kind in ("", "history_"):
            interval = report.interval(f"{kind}{name}.psnr_db")
            report.summary[f"{kind}{name}.psnr_db"] = None if interval is None else interval.mean
    write_paper(report, config.out)
    return report


def anywhere(episodes: Sequence[Episode], chunk_frames: int, clips: int, seed: int) -> list[Task]:
    """Chunks anywhere on the recorded paths, after the first 100 frames, evenly over the episodes."""
    rng = np.random.default_rng(seed)
    tasks = []
    for episode in episodes:
        first = min(100, episode.num_frames // 2)
        starts = rng.integers(first, episode.num_frames - chunk_frames, -(-clips // len(episodes)))
        tasks += [Task(episode, int(start), int(start)) for start in np.unique(starts)]
    return tasks


def write_paper(report: Report, out: Path) -> None:
    """report.json, report.md and report.html with the paper's tables."""
    write_json(out / "report.json", report.json())

    def row(name: str, title: str, kinds: Sequence[str] = ("",)) -> list[str]:
        found = [title]
        for kind in kinds:
            found += [cell(report.interval(f"{kind}{name}.{m}"), d) for m, d in (("psnr_db", 2), ("lpips", 3))]
        return found

    both = ["context", "GT PSNR", "GT LPIPS", "HC PSNR", "HC LPIPS"]
    history = {"first_random": "random"}  # what comes closest to that row among the strategies of walks
    table1 = [
        row(name, name.replace("_", " "))
        + [
            cell(report.interval(f"history_{history.get(name, name)}.{m}"), d)
            for m, d in (("psnr_db", 2), ("lpips", 3))
        ]
        for name in paper.ROWS
    ]
    fid, fvd = report.parts.get("fid", {}), report.parts.get("fvd", {})
    if fid:
        both += ["GT FID", "HC FVD"]
        for method, cells in zip(paper.ROWS, table1, strict=True):
            cells += [_number(fid.get(method, "-")), _number(fvd.get(history.get(method, method), "-"))]
    table2 = [row(f"coverage@{size}", str(size)) for size in paper.SIZES]
    table3 = [row(name, name.replace("_", " ")) for name in paper.ABLATION]
    tables = [
        ("Methods (the paper's table 1)", both, table1),
        ("Context size (table 2), coverage", ["frames", "GT PSNR", "GT LPIPS"], table2),
        ("Retrieval (table 3)", ["retrieval", "GT PSNR", "GT LPIPS"], table3),
    ]
    name = report.weights.get("name")
    text = [f"# The paper's tables: {name}\n"]
    text += [f"## {heading}\n\n{markdown_table(head, rows)}" for heading, head, rows in tables]
    write_text(out / "report.md", "\n".join(text))
    sections = [(heading, page.table(head, rows)) for heading, head, rows in tables]
    films = []
    for path in sorted((out / "frames").glob("turn-*.npz"))[:FILMS]:
        with np.load(path) as made:
            films.append(page.film(np.concatenate([made[s] for s in ("coverage", "recent")], axis=2)))
    sections.append(("Turn and return: with memory, with recent frames only", "".join(films)))
    write_text(out / "report.html", page.page(f"The paper's tables: {name}", sections))


# -- videos of others --------------------------------------------------------------------------------------------------


def run_videos(videos: Path, config: EvaluateConfig) -> Report:
    """Score the returns in videos of another system, see `foreign`."""
    imported = import_videos(videos, config.cameras, config.truth)
    networks = have_networks()
    settings = settings_of(imported, networks)
    store = ClipStore(config.out, settings, parse_shard(config.shard))
    report = Report("videos", settings, {"name": str(videos), "sha256": None})
    report.clips |= store.run(settings["videos"], lambda row: score_video(imported[row], networks), "videos")
    conclude(report)
    columns = ["returns", *_of("return", MEASURES)]
    headings = ["video", "returns", "PSNR, dB", "SSIM", "LPIPS"]
    if settings["truth"]:
        columns += _of("return_truth", MEASURES)
        headings += ["PSNR to truth, dB", "SSIM to truth", "LPIPS to truth"]
    write_json(config.out / "report.json", report.json())
    rows = [
        [name, *("-" if clip.get(key) is None else f"{clip[key]:.3f}" for key in columns)]
        for name, clip in report.clips.items()
    ]
    write_text(config.out / "report.md", f"# Returns in {videos}\n\n" + markdown_table(headings, rows))
    sections = [("Returns against first visits", page.table(headings, rows) + f"<p>{report.notes[0]}</p>")]
    write_text(config.out / "report.html", page.page(f"Returns in {videos}", sections))
    return report


def _of(name: str, measures: Sequence[str]) -> list[str]:
    return [f"{name}.{measure}" for measure in measures]


# -- revisit -----------------------------------------------------------------------------------------------------------


def run_revisit(system: System, config: EvaluateConfig) -> Report:
    """Any start picture: turn away by 90 to 180 degrees and back, walk away and back, on own frames, with memory and
    with recent frames only; every frame of the way back against its counterpart of the way out (the mirror protocol of
    the history comparison, arXiv 2506.03141 section 4.1)."""
    networks = have_networks()
    width, height = picture_size(system)
    starts = {}
    if config.image is not None:
        frame = read_image(config.image)
        side, tall = frame.shape[1], frame.shape[0]
        camera = look((0.0, 0.0, 0.0), 0.0, pinhole(config.hfov_deg, side, tall), side, tall)
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
    settings = proof.settings_of(system, seed=config.seed, starts=list(starts), networks=networks)
    identity = dict(system.identity())
    store = ClipStore(config.out, settings | {"weights": identity.get("sha256")}, parse_shard(config.shard))
    films = config.out / "films"
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
                clip |= picture_scores(f"revisit_{strategy}", made[last], made[first], networks)
        if found:
            clip["gain_db"] = (clip["revisit_coverage.psnr_db"] or 0.0) - (clip["revisit_recent.psnr_db"] or 0.0)
        np.savez_compressed(films / f"{row:04d}.npz", film=np.concatenate(videos, axis=2))
        return clip

    report = Report("revisit", settings, identity)
    report.clips |= store.run([case[0] for case in cases], one, "revisits")
    gain = report.interval("gain_db")
    report.summary["gain_db"] = None if gain is None else gain.mean
    report.notes.append("a foggy picture that stays foggy scores well here: look at the videos")
    write_json(config.out / "report.json", report.json())
    measures = ("psnr_db", "ssim", "lpips")
    rows = [
        [name, *(cell(report.interval(f"revisit_{name}.{measure}"), 3) for measure in measures)]
        for name in ("coverage", "recent")
    ]
    headings = ["memory", "PSNR, dB", "SSIM", "LPIPS"]
    write_text(config.out / "report.md", f"# Revisits: {identity.get('name')}\n\n" + markdown_table(headings, rows))
    shown = [np.load(path)["film"] for path in sorted(films.glob("*.npz"))[:FILMS]]
    sections = [("Returns against first visits", page.table(headings, rows) + f"<p>{report.notes[0]}</p>")]
    sections.append(("With memory, with recent frames only", "".join(page.film(film) for film in shown)))
    write_text(config.out / "report.html", page.page(f"Revisits: {identity.get('name')}", sections))
    return report


def picture_size(system: System) -> tuple[int, int]:
    """Width and height that a system makes."""
    if isinstance(system, WorldSystem):
        return system.world.config.width, system.world.config.height
    raise UserError("revisit needs weights of ours, whose picture size is known")
