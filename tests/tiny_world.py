"""A real but tiny world with random weights, and a painted room whose pictures are exact functions of the pose."""

import json
from pathlib import Path

import numpy as np

from context_as_memory.camera import Cameras

WIDTH, HEIGHT = 64, 48


def save_tiny_world(folder: Path, seed: int = 0) -> Path:
    """Write a world folder for `--weights`: one layer, one step, three context frames."""
    from dataclasses import asdict

    import torch

    from context_as_memory.codec import ImageAutoencoder, ImageAutoencoderConfig
    from context_as_memory.retrieval import RetrievalConfig
    from context_as_memory.transformer import TransformerConfig, WorldTransformer
    from context_as_memory.weights import save_pretrained
    from context_as_memory.world import WorldConfig

    torch.manual_seed(seed)
    widths, blocks = (4, 4, 4), (1, 1, 1)
    codec = ImageAutoencoder(
        ImageAutoencoderConfig(
            latent_channels=4,
            encoder_widths=widths,
            decoder_widths=widths,
            encoder_blocks=blocks,
            decoder_blocks=blocks,
        )
    )
    model = WorldTransformer(
        TransformerConfig(
            num_attention_heads=1,
            attention_head_dim=48,
            in_channels=4,
            out_channels=4,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
        )
    )
    for part in (codec, model):
        for weight in part.parameters():
            if not weight.any():  # layers that start at zero would make every picture the same
                torch.nn.init.normal_(weight, std=0.2)
    save_pretrained(codec, folder / "vae")
    save_pretrained(model, folder / "transformer")
    config = WorldConfig(width=WIDTH, height=HEIGHT, num_steps=1, retrieval=RetrievalConfig(max_context=3))
    (folder / "world.json").write_text(json.dumps(asdict(config)))
    return folder


def paint_room(cameras: Cameras) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of a chequered room of 22 x 18 x 3 metres around the origin, by ray casting."""
    low, high = np.array([-9.0, -9.0, -1.4]), np.array([13.0, 9.0, 1.6])
    u, v = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
    frames = []
    for i in range(len(cameras)):
        fx, fy, cx, cy = cameras.K[i]
        rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ cameras.c2w[i, :3, :3].T
        rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        place = cameras.position[i]
        depth = np.where(rays > 0, (high - place) / rays, (low - place) / rays)
        wall = depth.argmin(-1)
        point = place + depth.min(-1, keepdims=True) * rays
        chequer = np.floor(point + 1e-6).sum(-1) % 2
        colour = np.array([[200, 120, 70], [70, 130, 190], [120, 120, 110]])[wall]
        frames.append((colour * (0.6 + 0.4 * chequer[..., None])).astype(np.uint8))
    return np.stack(frames)
