"""The yardstick for weights: how good are the pictures, and does memory make them right? Maps the weights never saw.

    python benchmarks/quality.py --data episodes [--weights runs/world/world] [--json FILE] [--sheet PNG]

Six test maps (`cam render --worlds freedoom --maps test --out episodes`), or others by --data and --split. Measured:

    codec    recorded frames, encoded and decoded
    all      ground-truth protocol: recorded memory, chunks anywhere on the recorded path
    returns  the same, where the view was seen long ago and not in the last frames; every retrieval strategy with the
             same number of context frames, the nearest retrieved frame copied, and memory swapped for frames of the
             same video that show nothing of the target
    history  own generated frames: turn away and back, walk away and back, against the first visit
    drift    600 generated frames: sharpness (variance of the Laplacian) and colours of the last 60 against the first
             60; and the style distance of both to recorded frames of all maps, beside that of the recorded frames of
             the same stretch (fog and stripes cannot fool it as they fool sharpness)

PSNR, SSIM and LPIPS (`cam fetch metrics`), means over clips with 95 % bootstrap intervals (episodes resampled first,
then clips within them). One command, CPU, under 15 minutes on two cores.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from context_as_memory import weights
from context_as_memory.camera import Cameras, cameras_from_actions
from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.evaluation.ground_truth import COPY, Task, choose_tasks, nearest, remember
from context_as_memory.evaluation.metric_networks import LPIPS_VARIANT, load_lpips, lpips, style_distance
from context_as_memory.evaluation.metrics import mean_interval, psnr, ssim
from context_as_memory.evaluation.report import contact_sheet, environment, write_json
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.evaluation.suite.proof import sharpness, swapped
from context_as_memory.video import to_frames, to_video, write_image
from context_as_memory.world import World

STRATEGIES = ("coverage", "paper", "random", "recent")
SWAP = "swap"
DRIFT_FRAMES, DRIFT_WINDOW = 600, 60


class Scores:
    """Per-clip values by name, and their means with intervals as flat keys."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.groups: dict[str, list[str]] = {}  # the episode of every value

    def add(self, name: str, frames_u8: np.ndarray, truth: np.ndarray, episode: Episode) -> None:
        """One clip of an episode: its frames against the true ones, uint8 [T, H, W, 3]."""
        for metric, values in (("psnr_db", psnr), ("ssim", ssim), ("lpips", lpips)):
            self.values.setdefault(f"{name}_{metric}", []).append(float(values(frames_u8, truth).mean()))
            self.groups.setdefault(f"{name}_{metric}", []).append(episode.name)

    def gain(self, name: str, a: str, b: str) -> None:
        """The clip-by-clip difference of two keys, as a key of its own."""
        self.values[name] = list(np.subtract(self.values[a], self.values[b]))
        self.groups[name] = self.groups[a]

    def flat(self) -> dict[str, float]:
        found = {}
        for name, values in self.values.items():
            interval = mean_interval(np.array(values), self.groups[name])
            found |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return found


def codec_scores(world: World, episodes: Sequence[Episode], scores: Scores) -> None:
    for episode in episodes:
        frames = episode.frames()[::50]
        with torch.inference_mode():
            latents = world.codec.encode_frames(to_video(frames).to(world.device))
            scores.add("codec", to_frames(world.codec.decode(latents)), frames, episode)


def ground_truth(world: World, tasks: Sequence[Task], methods: Sequence[str], name: str, scores: Scores) -> list:
    """Generate each task with each method on recorded memory. Returns rows of pictures for the sheet."""
    rows, frames, cameras, episode = [], np.empty(0), None, None
    for task in tasks:
        if task.episode is not episode:
            episode, frames, cameras = task.episode, task.episode.frames(), task.episode.cameras()
        assert cameras is not None
        remember(world, frames[: task.now], cameras[: task.now])
        chunk = slice(task.start, task.start + world.chunk_frames)
        truth, made = frames[chunk], {}
        rule = world.config.retrieval
        step = world.step(cameras[chunk], retrieval=replace(rule, strategy="coverage"), commit=False)
        made["coverage"], found = step.frames_u8, step.retrieval
        for method in methods:
            if method in STRATEGIES and method not in made:
                settings = replace(rule, strategy=method)
                made[method] = world.step(cameras[chunk], retrieval=settings, commit=False).frames_u8
            elif method == SWAP:
                wrong = swapped(found, task.now, task.start)
                made[method] = world.step(cameras[chunk], retrieval=wrong, commit=False).frames_u8
            elif method == COPY:
                made[method] = frames[nearest(cameras, found.indices, cameras[chunk])]
        for method in methods:
            scores.add(f"{name}_{method}", made[method], truth, task.episode)
        row = [(truth[-1], f"{task.episode.name} {task.start}")]
        row += [(made[m][-1], f"{float(psnr(made[m][-1], truth[-1])):.1f} dB") for m in methods]
        row += [(frames[i], f"frame {i}") for i in found.indices[:4]]
        rows.append(row)
    return rows


def history_paths(episode: Episode, seed: int) -> list[tuple[int, Cameras]]:
    """(start frame, path) of two walks that come back: turning by 90 to 180 degrees, and along the recorded path."""
    rng = np.random.default_rng(seed)
    cameras = episode.cameras()
    start = int(rng.integers(0, len(cameras) - 60))
    turn = int(rng.integers(30, 61))  # frames of 3 degrees
    away, back = ("j", "l") if rng.random() < 0.5 else ("l", "j")
    turning = cameras_from_actions(cameras[[start]], f"{away}-{turn},none-8,{back}-{turn}")
    there = cameras[start + 1 : start + 49]
    return [(start, turning), (start, Cameras.concat([there, there[[47] * 8], there[np.arange(46, -1, -1)]]))]


def history(world: World, episodes: Sequence[Episode], seed: int, scores: Scores) -> list:
    """Own frames only: each return against the first visit, with and without memory. Returns rows for the sheet."""
    rows = []
    for episode in episodes:
        frames = episode.frames()
        for number, (start, path) in enumerate(history_paths(episode, seed)):
            camera = episode.cameras()[[start]]
            found = visits(find_returns(Cameras.concat([camera, path])))
            if not found:
                continue
            row = [(frames[start], f"{episode.name} {start}")]
            for strategy in ("coverage", "recent"):
                rule = replace(world.config.retrieval, strategy=strategy)
                walker = World(world.model, world.codec, replace(world.config, retrieval=rule))
                walker.reset(frames[start : start + 1], camera)
                made = np.concatenate([frames[start : start + 1], *(chunk.frames_u8 for chunk in walker.rollout(path))])
                last = np.concatenate([visit.frames for visit in found])
                first = np.concatenate([visit.firsts for visit in found])
                scores.add(f"history_{('turn', 'walk')[number]}_{strategy}", made[last], made[first], episode)
                scores.add(f"history_{strategy}", made[last], made[first], episode)
                middle = len(last) // 2
                row += [(made[first[middle]], f"{strategy}: frame {first[middle]}")]
                row += [(made[last[middle]], f"{strategy}: frame {last[middle]}")]
            rows.append(row)
    return rows


def drift(world: World, episodes: Sequence[Episode], all_episodes: Sequence[Episode]) -> tuple[dict[str, float], list]:
    """A long walk on own frames. Returns flat figures and a row of pictures per walk."""
    recorded = np.concatenate([episode.frames()[::25] for episode in all_episodes])
    styles: dict[str, list[float]] = {"first": [], "last": [], "recorded_last": []}
    ratios, truth_ratios, colours, frames_per_second, rows = [], [], [], [], []
    for episode in episodes:
        frames, cameras = episode.frames()[: DRIFT_FRAMES + 1], episode.cameras()[: DRIFT_FRAMES + 1]
        walker = World(world.model, world.codec, world.config)
        walker.reset(frames[:1], cameras[:1])
        began = time.perf_counter()
        made = np.concatenate([chunk.frames_u8 for chunk in walker.rollout(cameras[1:])])
        frames_per_second.append(len(made) / (time.perf_counter() - began))
        early, late = made[:DRIFT_WINDOW], made[-DRIFT_WINDOW:]
        ratios.append(sharpness(late) / sharpness(early))
        truth_ratios.append(sharpness(frames[-DRIFT_WINDOW:]) / sharpness(frames[1 : DRIFT_WINDOW + 1]))
        colours.append(np.abs(late.mean(axis=(0, 1, 2)) - frames[-DRIFT_WINDOW:].mean(axis=(0, 1, 2))).mean())
        for key, part in (("first", early), ("last", late), ("recorded_last", frames[-DRIFT_WINDOW:])):
            styles[key].append(style_distance(part[::2], recorded))
        shown = np.linspace(0, len(made) - 1, 8).round().astype(int)
        rows.append([(frames[0], episode.name)] + [(made[i], f"frame {i + 1}") for i in shown])
    return {f"style_{key}": float(np.mean(values)) for key, values in styles.items()} | {
        "sharpness_ratio": float(np.mean(ratios)),
        "sharpness_ratio_recorded": float(np.mean(truth_ratios)),
        "colour_shift_255": float(np.mean(colours)),
        "fps": float(np.mean(frames_per_second)),
    }, rows


def anywhere(episodes: Sequence[Episode], chunk_frames: int, clips: int, seed: int) -> list[Task]:
    """Chunks anywhere on the recorded paths, after the first 100 frames, evenly over the episodes."""
    rng = np.random.default_rng(seed)
    tasks = []
    for episode in episodes:
        starts = rng.integers(100, episode.num_frames - chunk_frames, -(-clips // len(episodes)))
        tasks += [Task(episode, int(start), int(start)) for start in np.sort(starts)]
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--clips", type=int, default=48, help="clips of each ground-truth protocol")
    parser.add_argument("--steps", type=int, help="denoising steps, as stored with the weights if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of ground truth, memory on, memory off and retrieved frames")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_lpips()
    began = time.perf_counter()
    world = World.from_pretrained(options.weights, seed=options.seed, device="cpu")
    if options.steps:
        world.config = replace(world.config, num_steps=options.steps)
    episodes = list_episodes(options.data, options.split)
    scores = Scores()

    def done(what: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {what}", flush=True)

    codec_scores(world, episodes, scores)
    done("codec")
    ground_truth(
        world, anywhere(episodes, world.chunk_frames, options.clips, options.seed), ["coverage"], "all", scores
    )
    done("ground truth, all chunks")
    methods = [*STRATEGIES, SWAP, COPY]
    tasks = choose_tasks(episodes, world.chunk_frames, options.clips, options.seed)
    return_rows = ground_truth(world, tasks, methods, "returns", scores)
    done("ground truth, returns")
    history_rows = history(world, episodes, options.seed, scores)
    done("history")
    long, drift_rows = drift(world, episodes[:3], episodes)
    done("drift")

    scores.gain("gt_gain_db", "returns_coverage_psnr_db", "returns_recent_psnr_db")
    scores.gain("hc_gain_db", "history_coverage_psnr_db", "history_recent_psnr_db")
    scores.gain("copy_margin_db", "returns_coverage_psnr_db", f"returns_{COPY}_psnr_db")
    scores.gain("paper_margin_db", "returns_coverage_psnr_db", "returns_paper_psnr_db")
    scores.gain("swap_gain_db", f"returns_{SWAP}_psnr_db", "returns_recent_psnr_db")
    figures = scores.flat() | long
    lost = 1 - figures["swap_gain_db"] / figures["gt_gain_db"] if figures["gt_gain_db"] > 0 else 0.0
    folder = weights.resolve(options.weights)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    figures |= {
        "gt_psnr_db": figures["all_coverage_psnr_db"],
        "gt_lpips": figures["all_coverage_lpips"],
        "swap_gain_lost": float(np.clip(lost, 0, 1)),
        "weights_mb": size / 1e6,
        "clips": len(tasks),
        "minutes": (time.perf_counter() - began) / 60,
    }
    for name, value in figures.items():
        if not name.endswith(("_low", "_high")):
            low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
            print(f"{name:34s} {value:9.4f}" + ("" if low is None else f"   [{low:.4f}, {high:.4f}]"))
    if options.json:
        identity = {"weights": str(options.weights), "sha256": weights.fingerprint(folder), "lpips": LPIPS_VARIANT}
        write_json(options.json, figures | identity | {f"environment_{k}": v for k, v in environment().items()})
    if options.sheet:
        picked = return_rows[:: max(1, len(return_rows) // 12)][:12]
        headings = ["ground truth", *methods, "retrieved"]
        write_image(options.sheet, contact_sheet(picked, headings))
        for name, rows, heads in (
            ("history", history_rows, ["start", "memory: first", "return", "recent: first", "return"]),
            ("drift", drift_rows, ["start", "generated, memory on"]),
        ):
            path = options.sheet.with_name(f"{options.sheet.stem}_{name}{options.sheet.suffix}")
            write_image(path, contact_sheet(rows, heads))


if __name__ == "__main__":
    main()
