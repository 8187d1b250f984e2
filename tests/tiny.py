"""Tiny real components shared by tests: a random world of 32x16 pictures that takes milliseconds."""

import numpy as np
import torch

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli import recipes
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.transformer import WorldTransformer
from context_as_memory.world import World, WorldConfig

WIDTH, HEIGHT = 32, 16


def walk(frames: int, seed: int = 0, box_m: float = 3.0) -> Cameras:
    """A random walk in a small box, so that the same places are seen again and again."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0, 0.15, frames))
    steps = 0.15 * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    position = np.zeros((frames, 3))
    for i in range(1, frames):
        position[i, :2] = np.clip(position[i - 1, :2] + steps[i], -box_m, box_m)
    return look(position, yaw, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)


def pictures(frames: int, seed: int = 0) -> np.ndarray:
    """Random frames, uint8 [T, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)


def model(seed: int = 0, **changes: object) -> WorldTransformer:
    """The tiny denoiser with random weights everywhere, also where training starts from zero."""
    torch.manual_seed(seed)
    config = recipes.world_tiny().model
    built = WorldTransformer(type(config)(**{**vars(config), **changes})).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(0, 0.1)
    return built


def codec(seed: int = 0) -> ImageAutoencoder:
    torch.manual_seed(seed)
    return ImageAutoencoder(recipes.codec_tiny().model).eval()


def world(
    seed: int = 0, networks: tuple[WorldTransformer, ImageAutoencoder] | None = None, **changes: object
) -> World:
    settings = {
        "width": WIDTH,
        "height": HEIGHT,
        "chunk_latents": 2,
        "num_steps": 2,
        "retrieval": RetrievalConfig(max_context=4),
        "engine": "plain",  # the others are held to it in test_engine.py
    }
    denoiser, autoencoder = networks or (model(), codec())
    return World(denoiser, autoencoder, WorldConfig(**{**settings, "seed": seed, **changes}), device="cpu")
