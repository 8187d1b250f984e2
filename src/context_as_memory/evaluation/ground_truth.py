"""Does memory help where only memory can? Returns in recorded videos, judged against the recorded frames.

The protocol (the paper's ground-truth comparison, section 4.1, restricted to returns): the model is given the recorded
frames up to a moment, is asked for a chunk whose view it has seen long before but hardly shows in its last four frames
(`returns.return_tasks`), and its frames are compared with the recorded ones. All strategies choose from the same
frames, have the same number of context frames and start from the same noise. "copy" shows the retrieved frame with the
closest pose instead of generating: what memory alone is worth, without a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import GroundTruthConfig
from context_as_memory.evaluation.metrics import Interval, mean_interval, psnr, ssim
from context_as_memory.evaluation.report import contact_sheet, environment, interval_json, write_json
from context_as_memory.evaluation.returns import pose_distance, return_tasks
from context_as_memory.retrieval import Retrieval
from context_as_memory.video import write_image

if TYPE_CHECKING:
    from context_as_memory.world import World

STRATEGIES = ("coverage", "paper", "random", "recent")
COPY = "copy"
SHEET_ROWS = 10
SHEET_CONTEXT = 5


@dataclass(frozen=True)
class Task:
    """One return: remember frames [0, now) of an episode, generate those from `start` on."""

    episode: Episode
    now: int
    start: int


@dataclass(frozen=True)
class Result:
    """What came of one task. generated: frames uint8 [t, H, W, 3] by method; context: frames shown to `coverage`."""

    task: Task
    truth: np.ndarray
    generated: dict[str, np.ndarray]
    retrieval: Retrieval
    context: np.ndarray


def choose_tasks(
    episodes: Sequence[Episode], chunk_frames: int, clips: int, seed: int, max_withheld: int = 64
) -> list[Task]:
    """Draw `clips` returns, as evenly over the episodes as they allow, at least two chunks apart. Sorted by episode,
    time.

    Raises `UserError` when the episodes hold no return at all; fewer than `clips` is no error.
    """
    rng = np.random.default_rng(seed)
    queues: list[list[Task]] = []
    for episode in episodes:
        found = return_tasks(episode.cameras(), chunk_frames, max_withheld=max_withheld)
        queues.append([Task(episode, int(now), int(start)) for now, start in rng.permutation(found)])
    chosen: list[Task] = []
    while any(queues) and len(chosen) < clips:
        for queue in queues:
            while queue and len(chosen) < clips:
                task = queue.pop()
                own = [other.start for other in chosen if other.episode is task.episode]
                if all(abs(task.start - start) >= 2 * chunk_frames for start in own):
                    chosen.append(task)
                    break
    if not chosen:
        raise UserError("no camera in these episodes returns to a view; render longer ones with --frames-per-video")
    order = {id(episode): number for number, episode in enumerate(episodes)}
    return sorted(chosen, key=lambda task: (order[id(task.episode)], task.start))


def run_tasks(world: "World", tasks: Sequence[Task], strategies: Sequence[str] = STRATEGIES) -> list[Result]:
    """Generate every task with every strategy, with a progress bar. The world's own retrieval settings give the
    rest."""
    from rich.console import Console
    from rich.progress import track

    results: list[Result] = []
    frames, cameras, episode = np.empty(0), None, None
    for task in track(tasks, "returns", console=Console(stderr=True)):
        if task.episode is not episode:
            episode, frames, cameras = task.episode, task.episode.frames(), task.episode.cameras()
        assert cameras is not None
        remember(world, frames[: task.now], cameras[: task.now])
        chunk = slice(task.start, task.start + world.chunk_frames)
        generated: dict[str, np.ndarray] = {}
        retrieval = None
        for strategy in strategies:
            settings = replace(world.config.retrieval, strategy=strategy)
            step = world.step(cameras[chunk], retrieval=settings, commit=False)
            generated[strategy] = step.frames_u8
            if retrieval is None:
                retrieval = step.retrieval
        assert retrieval is not None
        generated[COPY] = frames[nearest(cameras, retrieval.indices, cameras[chunk])]
        results.append(Result(task, frames[chunk], generated, retrieval, frames[retrieval.indices]))
    return results


def remember(world: "World", frames_u8: np.ndarray, cameras: Cameras) -> None:
    """Make the world's memory hold exactly these recorded frames; what it holds of them already is not encoded
    again."""
    held = len(world.bank)
    known = 0 < held <= len(cameras) and np.array_equal(world.bank.cameras.c2w, cameras.c2w[:held])
    if not (known and np.array_equal(world.bank.frames_u8(held - 1)[0], frames_u8[held - 1])):
        world.reset(frames_u8, cameras)
        return
    world.remember(frames_u8[held:], cameras[held:])


def nearest(cameras: Cameras, among: np.ndarray, targets: Cameras) -> np.ndarray:
    """For each target the frame number in `among` with the closest pose, int64 [T]; 0.2 m weigh as much as 5
    degrees."""
    metres, radians = pose_distance(targets.c2w, cameras.c2w[among])
    return among[np.argmin(metres / 0.2 + radians / np.radians(5.0), axis=1)]


def score(results: Sequence[Result], seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Mean PSNR and SSIM by method over returns, and what memory gains (coverage minus recent, return by return).

    Keys: method or "gain", then "psnr" or "ssim". Each return counts once (mean over its frames); 95 % bootstrap.
    """
    table: dict[str, dict[str, np.ndarray]] = {}
    for method in results[0].generated:
        pairs = [(result.generated[method], result.truth) for result in results]
        table[method] = {
            "psnr": np.array([psnr(a, b).mean() for a, b in pairs]),
            "ssim": np.array([ssim(a, b).mean() for a, b in pairs]),
        }
    if {"coverage", "recent"} <= set(table):
        table["gain"] = {name: table["coverage"][name] - table["recent"][name] for name in ("psnr", "ssim")}
    return {
        method: {name: mean_interval(values, seed=seed) for name, values in row.items()}
        for method, row in table.items()
    }


def make_sheet(results: Sequence[Result], max_rows: int = SHEET_ROWS) -> np.ndarray:
    """Contact sheet uint8 [H, W, 3]: truth, memory on, memory off and retrieved frames, one row per return."""
    rows: list[list[tuple[np.ndarray, str]]] = []
    labels: list[str] = []
    picks = np.unique(np.linspace(0, len(results) - 1, min(max_rows, len(results))).round().astype(int))
    for result in (results[i] for i in picks):
        middle = len(result.truth) // 2
        truth = result.truth[middle]
        row = [(truth, f"{result.task.episode.name}, frame {result.task.start + middle}")]
        for method in ("coverage", "recent"):
            frame = result.generated[method][middle]
            row.append((frame, f"{float(psnr(frame, truth)):.1f} dB"))
        shown = list(zip(result.context, result.retrieval.indices, result.retrieval.scores, strict=True))
        for frame, index, value in [*shown[:-1][:SHEET_CONTEXT], shown[-1]]:
            caption = f"frame {index}" + (", most recent" if index == shown[-1][1] else f", score {value:.2f}")
            row.append((frame, caption))
        rows.append(row)
        labels.append(chr(ord("A") + len(labels)))
    headings = ("ground truth", "memory on", "memory off", "given to the model with memory on")
    return contact_sheet(rows, headings, row_labels=labels)


def evaluate_ground_truth(config: GroundTruthConfig) -> dict[str, Any]:
    """The function behind `cam evaluate-returns`; prints a table, writes JSON and sheet if asked, returns the JSON
    content.

    Keys are flat: `coverage.psnr`, `coverage.psnr.low`, `coverage.psnr.high`, ..., `gain.psnr`, and the settings.
    """
    if config.clips < 1 or (config.steps is not None and config.steps < 1) or config.max_context < 2:
        raise UserError("--clips and --steps must be at least 1, --max-context at least 2")
    for path in (config.json, config.sheet):
        if path is not None and not path.resolve().parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    episodes = list_episodes(config.data, config.split)
    world, identity = _open(config)
    size = (world.config.width, world.config.height)
    for episode in episodes:
        if (episode.meta["width"], episode.meta["height"]) != size:
            found = f"{episode.meta['width']}x{episode.meta['height']}"
            raise UserError(
                f"episode {episode.name} is {found}, these weights make {size[0]}x{size[1]}; render it in that size"
            )
    tasks = choose_tasks(episodes, world.chunk_frames, config.clips, config.seed, config.max_withheld)
    results = run_tasks(world, tasks)
    scores = score(results, config.seed)
    print_table(scores, len(results), len({task.episode.name for task in tasks}))
    report: dict[str, Any] = {"clips": len(results), "episodes": len({task.episode.name for task in tasks})}
    report |= {"split": config.split, "seed": config.seed, "max_context": config.max_context}
    report |= {
        "num_steps": world.config.num_steps,
        "chunk_frames": world.chunk_frames,
        "max_withheld": config.max_withheld,
    }
    report |= {f"weights.{key}": value for key, value in identity.items()}
    for method, row in scores.items():
        for name, interval in row.items():
            value = interval_json(interval)
            report[f"{method}.{name}"] = value["mean"]
            report |= {f"{method}.{name}.{end}": value[end] for end in ("low", "high")}
    report |= {f"environment.{key}": value for key, value in environment().items()}
    if config.json is not None:
        write_json(config.json, report)
    if config.sheet is not None:
        write_image(config.sheet, make_sheet(results))
    return report


def print_table(scores: dict[str, dict[str, Interval]], returns: int, episodes: int) -> None:
    """The table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{returns} returns in {episodes} episodes, mean and 95 % interval")
    for heading in ("context", "PSNR dB", "SSIM"):
        table.add_column(heading, justify="left" if heading == "context" else "right")
    names = {COPY: "copy of the nearest retrieved frame", "gain": "gain of coverage over recent"}
    for method, row in scores.items():
        s = row["ssim"]
        table.add_row(names.get(method, method), str(row["psnr"]), f"{s.mean:.3f} [{s.low:.3f}, {s.high:.3f}]")
    Console().print(table)


def _open(config: GroundTruthConfig) -> tuple["World", dict[str, str]]:
    from context_as_memory import weights
    from context_as_memory.compute import use_threads
    from context_as_memory.world import World

    use_threads(config.threads)
    base = World.from_pretrained(config.weights, seed=config.seed)
    retrieval = replace(base.config.retrieval, max_context=config.max_context)
    settings = replace(base.config, retrieval=retrieval, num_steps=config.steps or base.config.num_steps)
    identity = {"name": config.weights, "sha256": weights.fingerprint(weights.resolve(config.weights))}
    return World(base.model, base.codec, settings), identity
