"""Positions and cameras inside attention: where a token stands in its frame, and its frame in time and space.

Everything here is geometry: it has no weights and no gradients, and is computed in fp32.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from context_as_memory.shapes import Complex, Float
from context_as_memory.tokens import CameraTensors
from context_as_memory.transformer.config import TransformerConfig

PIXEL_OCTAVES = 4
RAY_FRAME_PAIRS = 2  # channel pairs of the ray code that carry the frame position
RAY_FINEST = 40.0  # the finest code turns 40 times in a full circle: once in 9 degrees, a token of the default model


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept tables may meet training later, where inference tensors are refused
def rotary_table(
    frames: tuple[int, ...], height: int, width: int, dim: int, device: torch.device
) -> Complex[Tensor, "f n 1 pairs"]:
    """Unit complex numbers [F, n, 1, dim / 2] of the rotary code over frame, row and column, split as in Wan."""
    row_dim = 2 * (dim // 6)
    axes = ((torch.tensor(frames), dim - 2 * row_dim), (torch.arange(height), row_dim), (torch.arange(width), row_dim))
    angles = []
    for axis, (positions, axis_dim) in enumerate(axes):
        frequencies = 10000.0 ** (-torch.arange(0, axis_dim, 2, dtype=torch.float64) / axis_dim)
        shape = [1, 1, 1, -1]
        shape[axis] = len(positions)
        angle = (positions.double()[:, None] * frequencies).view(shape)
        angles.append(angle.expand(len(frames), height, width, -1))
    angle = torch.cat(angles, dim=-1).flatten(1, 2).unsqueeze(2)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(device)


def ray_angles(
    config: TransformerConfig,
    frames: tuple[int, ...],
    grid: tuple[int, int],
    device: torch.device,
    cameras: CameraTensors | None,
) -> Float[Tensor, "b f n heads pairs"]:
    """Angles [B, F, n, heads, pairs] of the rotary code over frame, and yaw and pitch of ray points.

    Two tokens show the same thing where their rays meet the same surface. Its depth is not known, so every head
    supposes another one (`ray_depths_m`, log-spaced): the point at that depth along the token's ray, seen from the
    chunk's first target camera, gives yaw and pitch. Where a head's depth is right, a target and the memory of it have
    equal codes, and attention finds one from the other as it finds a neighbour in a picture. Values are turned along,
    so that what arrives at a query tells how far it lies from it. RayRoPE (arXiv 2601.15275) predicts a depth per token
    instead. Without cameras every frame is seen by itself, through a lens of 90 degrees.
    """
    y, x = token_centres(grid).to(device, non_blocking=True).unbind(-1)
    if cameras is None:
        c2w = torch.eye(4, device=device).expand(1, len(frames), 4, 4)
        K = torch.tensor([1.0, grid[1] / grid[0], 0.0, 0.0]).to(device, non_blocking=True).expand(1, len(frames), 4)
    else:
        c2w, K = cameras.c2w.float(), cameras.K.float()
    fx, fy, cx, cy = K.unsqueeze(-2).unbind(-1)
    direction = torch.stack(torch.broadcast_tensors((x - cx) / fx, (y - cy) / fy, torch.ones_like(x)), dim=-1)  # type: ignore[no-untyped-call]
    direction = nn.functional.normalize(direction, dim=-1) @ c2w[..., :3, :3].mT
    near, far = config.ray_depths_m
    heads = config.camera_heads or config.num_attention_heads
    depth = near * (far / near) ** torch.linspace(0, 1, heads, device=device)
    point = c2w[..., None, None, :3, 3] + depth.view(-1, 1) * direction.unsqueeze(-2)  # [B, F, n, heads, 3]
    yaw = torch.atan2(point[..., 0], point[..., 2])
    pitch = torch.atan2(point[..., 1], torch.hypot(point[..., 0], point[..., 2]))
    pairs = config.rotary_dim // 2
    count = (pairs - RAY_FRAME_PAIRS) // 2
    # Whole numbers: the code is the same after a full turn.
    frequency = (RAY_FINEST ** torch.linspace(0, 1, count, device=device)).round()
    rate = 4.0 ** -torch.arange(pairs - 2 * count, device=device, dtype=torch.float32)
    frame = torch.tensor(frames, dtype=torch.float32).to(device, non_blocking=True).view(-1, 1, 1, 1) * rate
    parts = (yaw.unsqueeze(-1) * frequency, pitch.unsqueeze(-1) * frequency)
    return torch.cat((frame.expand(*yaw.shape, -1), *parts), dim=-1)


def projections(
    cameras: CameraTensors, scale_m: float
) -> tuple[Float[Tensor, "*batch 4 4"], Float[Tensor, "*batch 4 4"]]:
    """World-to-image transforms [..., 4, 4] and their inverses, in closed form, fp32; lengths in units of `scale_m`."""
    c2w = cameras.c2w.float().clone()
    c2w[..., :3, 3] /= scale_m
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3:]
    w2c = torch.zeros_like(c2w)
    w2c[..., :3, :3] = rotation.mT
    w2c[..., :3, 3:] = -rotation.mT @ position
    w2c[..., 3, 3] = 1
    fx, fy, cx, cy = cameras.K.float().unbind(-1)
    lens, unlens = torch.zeros_like(c2w), torch.zeros_like(c2w)
    lens[..., 0, 0], lens[..., 1, 1], lens[..., 0, 2], lens[..., 1, 2] = fx, fy, cx, cy
    lens[..., 2, 2] = lens[..., 3, 3] = 1
    unlens[..., 0, 0], unlens[..., 1, 1], unlens[..., 0, 2], unlens[..., 1, 2] = 1 / fx, 1 / fy, -cx / fx, -cy / fy
    unlens[..., 2, 2] = unlens[..., 3, 3] = 1
    return lens @ w2c, c2w @ unlens


class Place(torch.autograd.Function):
    """Put q, k, v or an output in its place: the first `split` channels of each head go through 4x4 matrices, in fours,
    the others turn in pairs. Computes in fp32, whatever comes in. One function instead of a dozen small ones, forwards
    and backwards: on CPUs those cost as much as the matrix products of the model. Geometry has no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor | None, table: Tensor | None, split: int) -> Tensor:
        """x [B, F, n, heads, dim]; matrix [B, F, 4, 4] or None; table, complex, broadcasts to [B, F, n, heads, pairs],
        or None."""
        ctx.matrix, ctx.table, ctx.split = matrix, table, split
        return _place(x, matrix, table, split)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient [B, F, n, heads, dim] of x: placed back, by transposed matrices and turned the other way."""
        matrix = None if ctx.matrix is None else ctx.matrix.mT
        table = None if ctx.table is None else ctx.table.conj()
        return _place(gradient, matrix, table, ctx.split), None, None, None


def _place(x: Tensor, matrix: Tensor | None, table: Tensor | None, split: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        placed = torch.empty_like(x, memory_format=torch.contiguous_format)
        head, rest = x[..., :split], x[..., split:]
        if split:
            if matrix is not None:
                quads = head.float().contiguous().view(*x.shape[:2], -1, 4)
                head = (quads @ matrix.mT).view(head.shape)
            placed[..., :split] = head
        if table is not None:
            rest = rest.float().contiguous()
            pairs = torch.view_as_complex(rest.view(*rest.shape[:-1], -1, 2))
            rest = torch.view_as_real(pairs * table).flatten(-2)
        placed[..., split:] = rest
        return placed


class Placement:
    """Where frames stand in time and space: rotary code and relative cameras, for queries, keys, values and outputs.
    Where there are camera heads, the pre-trained ones before them turn by Wan's rotary code and know no camera."""

    def __init__(
        self,
        config: TransformerConfig,
        frames: tuple[int, ...],
        grid: tuple[int, int],
        device: torch.device,
        cameras: CameraTensors | None = None,
    ) -> None:
        self.split = config.attention_head_dim - config.rotary_dim
        self.rays = config.camera == "rays"
        self.to_image = self.to_world = self.stock_table = None
        self.stock = config.num_attention_heads if config.camera_heads else 0  # pre-trained heads, which come first
        if self.stock:
            self.stock_table = rotary_table(frames, *grid, config.attention_head_dim, device)
        with torch.autocast(device.type, enabled=False):  # fp32: bf16 loses metres far from the anchor
            if self.rays:
                angle = ray_angles(config, frames, grid, device, cameras)
                self.table = torch.polar(torch.ones_like(angle), angle)
            else:
                self.table = rotary_table(frames, *grid, config.rotary_dim, device)
            if self.split and cameras is not None:
                self.to_image, self.to_world = projections(cameras, config.translation_scale_m)

    def _apply(self, x: Tensor, matrix: Tensor | None, table: Tensor | None, stock: Tensor | None = None) -> Tensor:
        before, heads = x[..., : self.stock, :], x[..., self.stock :, :]
        placed: Tensor = Place.apply(heads, matrix, table, self.split)  # type: ignore[no-untyped-call]
        if not self.stock:
            return placed
        before = before if stock is None else Place.apply(before, None, stock, 0)  # type: ignore[no-untyped-call]
        return torch.cat((before, placed), dim=-2)

    def query(self, q: Float[Tensor, "b f n heads hd"]) -> Float[Tensor, "b f n heads hd"]:
        return self._apply(q, None if self.to_image is None else self.to_image.mT, self.table, self.stock_table)

    def key(self, k: Float[Tensor, "b f n heads hd"]) -> Float[Tensor, "b f n heads hd"]:
        return self._apply(k, self.to_world, self.table, self.stock_table)

    def value(self, v: Float[Tensor, "b f n heads hd"]) -> Float[Tensor, "b f n heads hd"]:
        if self.rays:
            return self._apply(v, self.to_world, self.table)
        return v if self.to_world is None else self._apply(v, self.to_world, None)

    def output(self, o: Float[Tensor, "b f n heads hd"]) -> Float[Tensor, "b f n heads hd"]:
        if self.rays:
            return self._apply(o, self.to_image, self.table.conj())
        return o if self.to_image is None else self._apply(o, self.to_image, None)


def token_centres(grid: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Row and column centres of the tokens in image coordinates [-1, 1]: [n, 2]."""
    rows, columns = grid
    y = (torch.arange(rows) + 0.5) / rows * 2 - 1
    x = (torch.arange(columns) + 0.5) / columns * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def pixel_features(grid: tuple[int, int], device: torch.device) -> Float[Tensor, "n features"]:
    """Centres of the tokens in image coordinates [-1, 1], with sines and cosines of four octaves: [n, 18]."""
    centre = token_centres(grid)
    angle = (centre.unsqueeze(-1) * torch.pi * 2.0 ** torch.arange(PIXEL_OCTAVES)).flatten(-2)
    return torch.cat((centre, angle.sin(), angle.cos()), dim=-1).to(device)
