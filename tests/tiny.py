"""The one fixture of the tests: tiny real components with random weights, in memory or saved, and a painted room.

A world in memory makes pictures of 32x16 in milliseconds. A saved one makes 64x48, as the painted room has them: its
pictures are exact functions of the pose.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.training import recipes
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import save_pretrained
from context_as_memory.world import World, WorldConfig

if TYPE_CHECKING:
    from context_as_memory.server.protocol import Event

WIDTH, HEIGHT = 32, 16
ROOM_WIDTH, ROOM_HEIGHT = 64, 48


def walk(frames: int, seed: int = 0, box_m: float = 3.0) -> Cameras:
    """A random walk in a small box, so that the same places are seen again and again."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0, 0.15, frames))
    steps = 0.15 * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    position = np.zeros((frames, 3))
    for i in range(1, frames):
        position[i, :2] = np.clip(position[i - 1, :2] + steps[i], -box_m, box_m)
    return look(position, yaw, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)


def transformed(cameras: Cameras, rigid: np.ndarray) -> Cameras:
    """The cameras after the whole world moves by a rotation and translation [4, 4]."""
    return Cameras(rigid @ cameras.c2w, cameras.K, cameras.width, cameras.height)


def pictures(frames: int, seed: int = 0) -> np.ndarray:
    """Random frames, uint8 [T, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)


def model(seed: int = 0, **changes: Any) -> WorldTransformer:
    """The tiny denoiser with random weights everywhere, also where training starts from zero."""
    torch.manual_seed(seed)
    config = recipes.denoiser_tiny().model
    built = WorldTransformer(type(config)(**{**vars(config), **changes})).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(0, 0.1)
    return built


def codec(seed: int = 0) -> ImageAutoencoder:
    torch.manual_seed(seed)
    return ImageAutoencoder(recipes.codec_tiny().model).eval()


def world(seed: int = 0, networks: tuple[WorldTransformer, ImageAutoencoder] | None = None, **changes: Any) -> World:
    settings: dict[str, Any] = {
        "width": WIDTH,
        "height": HEIGHT,
        "chunk_latents": 2,
        "num_steps": 2,
        "retrieval": RetrievalConfig(max_context=4),
        "engine": "plain",  # the others are held to it in test_engine.py
    }
    denoiser, autoencoder = networks or (model(), codec())
    return World(denoiser, autoencoder, WorldConfig(**{**settings, "seed": seed, **changes}), device="cpu")


def save_model(folder: Path, seed: int = 0) -> Path:
    """Write the same networks as a folder for `--weights`: one step, four frames a chunk, three context frames."""
    save_pretrained(codec(seed), folder / "vae")
    save_pretrained(model(seed), folder / "transformer")
    config = WorldConfig(
        width=ROOM_WIDTH,
        height=ROOM_HEIGHT,
        num_steps=1,
        retrieval=RetrievalConfig(max_context=3),
        engine="plain",
    )
    (folder / "model.json").write_text(json.dumps(asdict(config)))
    return folder


def walls_of_a_box(
    cameras: Cameras, low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each camera inside a box, the rays of its pixels [H, W, 3], the axis of the wall that each meets [H, W], and
    where, [H, W, 3]."""
    u, v = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
    for i in range(len(cameras)):
        fx, fy, cx, cy = cameras.K[i]
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ cameras.c2w[i, :3, :3].T
        rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        place = cameras.position[i]
        depth = np.where(rays > 0, (high - place) / rays, (low - place) / rays)
        yield rays, depth.argmin(-1), place + depth.min(-1, keepdims=True) * rays


def paint_room(cameras: Cameras) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of a chequered room of 22 x 18 x 3 metres around the origin, by ray casting."""
    frames = []
    for _, wall, point in walls_of_a_box(cameras, np.array([-9.0, -9.0, -1.4]), np.array([13.0, 9.0, 1.6])):
        chequer = np.floor(point + 1e-6).sum(-1) % 2
        colour = np.array([[200, 120, 70], [70, 130, 190], [120, 120, 110]])[wall]
        frames.append((colour * (0.6 + 0.4 * chequer[..., None])).astype(np.uint8))
    return np.stack(frames)


class PaintedWorld(World):
    """A world whose pictures are painted: the same from everywhere one comes back to. Only decoding differs."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.engine = replace(self.engine, pictures=_Brush(self))
        self.path = look([0, 0, 0], 0.0, pinhole(90, ROOM_WIDTH, ROOM_HEIGHT), ROOM_WIDTH, ROOM_HEIGHT)

    def _padded(self, cameras: Cameras) -> Cameras:
        self.path = super()._padded(cameras)
        return self.path


class _Brush:
    """Pictures of a world: encoded as ever, but painted along the path of the chunk instead of decoded."""

    def __init__(self, world: PaintedWorld) -> None:
        self.world, self.encode = world, world.engine.pictures.encode

    def decode(self, recent: torch.Tensor, latents: torch.Tensor) -> np.ndarray:
        return paint_room(self.world.path)


def hold(keys: str, event_id: int | None = None) -> "Event":
    """The explorer's message for the keys that are held from now on."""
    from context_as_memory.server.protocol import Event

    payload = {"mode": "state", "transitions": [{"actions": list(keys), "client_ts_ms": 1}]}
    return Event(kind="camera_actions", event_id=event_id, payload=payload)
