"""What the loop itself costs: every generated frame is decoded, encoded again, and is memory from then on.

    python benchmarks/loop.py --data episodes [--split val] [--weights runs/denoiser/model] [--json FILE] [--sheet PNG]

    codecK   recorded frames, K = 1, 2, 5 and 10 times encoded and decoded, 8-bit in between: no denoiser at all
    stillN   one recorded frame, then N frames from the same camera: LPIPS against that frame
    turns    one recorded frame, then turns by 10 degrees and back, ten times: LPIPS of each return against that frame
    walk     one recorded frame, then 80 frames along the recorded path: LPIPS against the recorded frames, and the
             style excess of frames 41 to 80: style distance to recorded frames of all episodes, less that of the
             recorded frames of the same stretch

Any weights of any size and any episodes (`cam render`). LPIPS needs `cam fetch metrics`. Means over episodes; walks of
few episodes differ by about .01 by chance.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from context_as_memory.camera import Cameras, MotionSpeed
from context_as_memory.data.episode import Episode, list_episodes
from context_as_memory.evaluation.metric_networks import LPIPS_VARIANT, load_lpips, lpips, style_distance
from context_as_memory.evaluation.metrics import psnr
from context_as_memory.evaluation.report import environment, write_json
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.pictures import fit_frame, write_image
from context_as_memory.formats.video import to_frames, to_video
from context_as_memory.pictures.sheets import contact_sheet
from context_as_memory.weights import fingerprint, resolve
from context_as_memory.world import World, WorldConfig

ROUNDS = (1, 2, 5, 10)
STILL_FRAMES, TURNS, WALK_FRAMES = 40, 10, 80
SHOWN = (0, 4, 10, 20, 40, 60, 80)  # frames of a walk in the sheet


def recorded(episode: Episode, config: WorldConfig, rows: np.ndarray) -> tuple[np.ndarray, Cameras]:
    """Frames uint8 [T, H, W, 3] and cameras of an episode, in the size that the weights make."""
    size = (config.width, config.height)
    frames, cameras = episode.frames()[rows], episode.cameras()[rows]
    if (cameras.width, cameras.height) != size:
        frames, cameras = np.stack([fit_frame(frame, *size)[0] for frame in frames]), cameras.resized(*size)
    return frames, cameras


@torch.inference_mode()
def codec_rounds(world: World, frames_u8: np.ndarray) -> dict[str, float]:
    """Frames uint8 [T, H, W, 3] through the codec again and again, each alone, as memory is."""
    figures, made = {}, frames_u8
    for number in range(1, max(ROUNDS) + 1):
        latents = world.codec.encode_frames(to_video(made, world.device))
        made = np.concatenate([to_frames(world.codec.decode(one)) for one in latents.split(1, dim=2)])
        if number in ROUNDS:
            figures[f"codec{number}_psnr_db"] = float(psnr(made, frames_u8).mean())
            figures[f"codec{number}_lpips"] = float(lpips(made, frames_u8).mean())
    return figures


def walked(world: World, frame: np.ndarray, camera: Cameras, path: Cameras) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of a walk on own frames from one picture [1, H, W, 3]; T cameras."""
    walker = World(world.model, world.codec, world.config, str(world.device))
    walker.reset(frame, camera)
    return np.concatenate([chunk.frames_u8 for chunk in walker.rollout(path)])


def still(world: World, frame: np.ndarray, camera: Cameras) -> dict[str, float]:
    made = walked(world, frame, camera, camera[np.zeros(STILL_FRAMES, int)])
    return {f"still{number}_lpips": float(lpips(made[[number - 1]], frame)[0]) for number in (4, 16, STILL_FRAMES)}


def turns(world: World, frame: np.ndarray, camera: Cameras) -> dict[str, float]:
    """A chunk to turn in, and a chunk to turn back in."""
    each = world.chunk_frames
    there = cameras_from_actions(camera, f"j-{each}", MotionSpeed(turn_rad=np.radians(10.0) / each))
    path = Cameras.concat([there, there[np.arange(each - 1)[::-1]], camera])
    made = walked(world, frame, camera, path[np.tile(np.arange(len(path)), TURNS)])
    back = made[len(path) - 1 :: len(path)]
    return {"turns_lpips": float(lpips(back, np.repeat(frame, TURNS, axis=0)).mean())}


def walk(
    world: World, frames_u8: np.ndarray, cameras: Cameras, all_recorded: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    began = time.perf_counter()
    made = walked(world, frames_u8[:1], cameras[:1], cameras[1:])
    seconds = time.perf_counter() - began
    truth = frames_u8[1:]
    error = lpips(made, truth)
    style, own = style_distance(made[40:], all_recorded), style_distance(truth[40:], all_recorded)
    return {
        "walk_lpips_5_20": float(error[4:20].mean()),
        "walk_lpips_21_40": float(error[20:40].mean()),
        "walk_lpips": float(error[40:].mean()),
        "walk_psnr_db": float(psnr(made[4:40], truth[4:40]).mean()),
        "style": style,
        "style_recorded": own,
        "style_excess": style - own,
        "fps": len(made) / seconds,
    }, made


def measure(world: World, episodes: Sequence[Episode]) -> tuple[dict[str, float], list]:
    """Means over episodes as flat figures, and a row of pictures for each."""
    found: list[dict[str, float]] = []
    rows = []
    every = [np.arange(0, episode.num_frames, 25) for episode in episodes]
    all_recorded = np.concatenate([recorded(e, world.config, part)[0] for e, part in zip(episodes, every, strict=True)])
    for episode in episodes:
        start = episode.num_frames // 3
        frames, cameras = recorded(episode, world.config, start + np.arange(WALK_FRAMES + 1))
        figures = codec_rounds(world, frames[::10]) | still(world, frames[:1], cameras[:1])
        figures |= turns(world, frames[:1], cameras[:1])
        walk_figures, made = walk(world, frames, cameras, all_recorded)
        found.append(figures | walk_figures)
        print(episode.name, {key: round(value, 3) for key, value in found[-1].items()}, flush=True)
        rows.append([(frames[i], f"{episode.name} {start + i}") for i in SHOWN])
        rows.append([(frames[0], "start"), *((made[i - 1], f"frame {i}") for i in SHOWN[1:])])
    return {key: float(np.mean([figures[key] for figures in found])) for key in found[0]}, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--episodes", type=int, default=5, help="the first so many")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of each walk beside the recorded one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_lpips()
    world = World.from_pretrained(options.weights, seed=options.seed, device="cpu")
    episodes = list_episodes(options.data, options.split)[: options.episodes]
    figures, rows = measure(world, episodes)
    for name, value in figures.items():
        print(f"{name:20s} {value:9.4f}")
    if options.json:
        identity: dict[str, object] = {"weights": str(options.weights), "sha256": fingerprint(resolve(options.weights))}
        identity |= {"episodes": len(episodes), "lpips": LPIPS_VARIANT}
        write_json(options.json, figures | identity | {f"environment_{k}": v for k, v in environment().items()})
    if options.sheet:
        write_image(options.sheet, contact_sheet(rows, []))


if __name__ == "__main__":
    main()
