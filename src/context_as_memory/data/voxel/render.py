"""Pictures and exact depth of voxel worlds, on a CPU or a CUDA device, by the same description (`rays`)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.voxel.compiled import compiled
from context_as_memory.data.voxel.rays import pixel, ray_depth
from context_as_memory.data.voxel.scene import Scene, make_scene
from context_as_memory.data.voxel.world import VoxelWorld
from context_as_memory.errors import UserError

if TYPE_CHECKING:
    import torch


@compiled
def _paint(scene, c2w, K, out, first, last):
    """Rows `first` to `last` of one picture."""
    for row in range(first, last):
        for column in range(out.shape[1]):
            r, g, b = pixel(scene, c2w, K, row, column)
            out[row, column, 0] = int(r * 255.0 + 0.5)
            out[row, column, 1] = int(g * 255.0 + 0.5)
            out[row, column, 2] = int(b * 255.0 + 0.5)


@compiled
def _measure(scene, c2w, K, out, first, last):
    for row in range(first, last):
        for column in range(out.shape[1]):
            a, b = (column + 0.5 - K[2]) / K[0], (row + 0.5 - K[3]) / K[1]
            out[row, column] = ray_depth(
                scene, c2w[0, 3], c2w[1, 3], c2w[2, 3],
                c2w[0, 0] * a + c2w[0, 1] * b + c2w[0, 2],
                c2w[1, 0] * a + c2w[1, 1] * b + c2w[1, 2],
                c2w[2, 0] * a + c2w[2, 1] * b + c2w[2, 2],
            )  # fmt: skip


class VoxelRenderer:
    """Paints a voxel world on the CPU.

    Args:
        threads: how many pictures or parts of a picture are painted at a time; by default one for each CPU core.

    The pictures do not depend on the number of threads. Raises `UserError` without numba.
    """

    def __init__(self, world: VoxelWorld, threads: int | None = None):
        if threads is not None and threads < 1:
            raise UserError(f"{threads} threads cannot paint; give 1 or more")
        self.threads = threads or len(os.sched_getaffinity(0))
        self.world = world
        self._scene = make_scene(world)

    def render(self, cameras: Cameras) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] (sRGB), 4 samples a pixel, for cameras of any pose, lens and size."""
        out = np.empty((len(cameras), cameras.height, cameras.width, 3), np.uint8)
        self._run(_paint, cameras, out)
        return out

    def depth(self, cameras: Cameras) -> np.ndarray:
        """Depth float32 [N, H, W]: metres along the camera's z axis at pixel centres, inf for sky.

        See-through blocks (water, glass) are passed, up to four of their faces on one ray.
        """
        out = np.empty((len(cameras), cameras.height, cameras.width), np.float32)
        self._run(_measure, cameras, out)
        return out

    def _run(self, kernel: Callable[..., None], cameras: Cameras, out: np.ndarray) -> None:
        c2w, K, height = np.ascontiguousarray(cameras.c2w), np.ascontiguousarray(cameras.K), cameras.height
        rows = height if len(cameras) >= 4 * self.threads else max(1, -(-height // (4 * self.threads)))
        parts = [(n, row, min(row + rows, height)) for n in range(len(cameras)) for row in range(0, height, rows)]
        if self.threads == 1:
            for n, first, last in parts:
                kernel(self._scene, c2w[n], K[n], out[n], first, last)
            return
        with ThreadPoolExecutor(self.threads) as pool:  # the kernels release the interpreter's lock
            for done in [pool.submit(kernel, self._scene, c2w[n], K[n], out[n], *part) for n, *part in parts]:
                done.result()


class Lenses(NamedTuple):
    """Poses and lenses of cameras as a GPU kernel takes them."""

    c2w: Any  # float64 [N, 4, 4]
    K: Any  # float64 [N, 4]


@cache
def gpu_kernel() -> Any:
    """The kernel that paints on a CUDA device: `(scene, lenses, out uint8 [N, H, W, 3])`, one thread a pixel.

    Each row of 32 threads paints a tile of 8 x 4 pixels, whose rays go through the same cells.
    """
    try:
        from numba import cuda
    except ImportError:
        raise UserError("voxel worlds on a GPU need numba-cuda; pip install numba-cuda") from None

    @cuda.jit
    def paint(scene, lenses, out):
        thread = cuda.grid(1)
        height, width = out.shape[1], out.shape[2]
        tiles_x, tiles_y = (width + 7) // 8, (height + 3) // 4
        tile, inside = thread // 32, thread % 32
        n = tile // (tiles_x * tiles_y)
        row = tile // tiles_x % tiles_y * 4 + inside // 8
        column = tile % tiles_x * 8 + inside % 8
        if n < out.shape[0] and row < height and column < width:
            r, g, b = pixel(scene, lenses.c2w[n], lenses.K[n], row, column)
            out[n, row, column, 0] = int(r * 255.0 + 0.5)
            out[n, row, column, 1] = int(g * 255.0 + 0.5)
            out[n, row, column, 2] = int(b * 255.0 + 0.5)

    return paint


def gpu_blocks(count: int, height: int, width: int) -> int:
    """How many blocks of 128 threads paint so many pictures."""
    return -(-count * -(-width // 8) * -(-height // 4) * 32 // 128)


class VoxelGpuRenderer:
    """Paints a voxel world on a CUDA device; the pictures stay there.

    The same description as on the CPU; a device may fuse multiplications with additions, so that a colour may differ
    by one step at an edge. Raises `UserError` without a CUDA device or without numba-cuda.
    """

    def __init__(self, world: VoxelWorld, device: "torch.device | str" = "cuda"):
        import torch

        self.device = torch.device(device)
        if self.device.type != "cuda" or not torch.cuda.is_available():
            raise UserError(f"this renderer needs a CUDA device, not {device!s}; use VoxelRenderer on a CPU")
        self._kernel = gpu_kernel()
        from numba import cuda

        self._index = torch.cuda.current_device() if self.device.index is None else self.device.index
        self.world = world
        with cuda.gpus[self._index]:
            self._scene = Scene(*(cuda.to_device(np.ascontiguousarray(part)) for part in make_scene(world)))

    def render(self, cameras: Cameras) -> "torch.Tensor":
        """Pictures uint8 [N, H, W, 3] (sRGB) on the device, in the order of its current stream."""
        import torch
        from numba import cuda

        shape = (len(cameras), cameras.height, cameras.width)
        out = torch.empty((*shape, 3), dtype=torch.uint8, device=torch.device("cuda", self._index))
        if not len(cameras):
            return out
        with cuda.gpus[self._index]:
            stream = cuda.external_stream(torch.cuda.current_stream(self._index).cuda_stream)
            places = (np.ascontiguousarray(part) for part in (cameras.c2w, cameras.K))
            lenses = Lenses(*(cuda.to_device(part, stream=stream) for part in places))
            self._kernel[gpu_blocks(*shape), 128, stream](self._scene, lenses, cuda.as_cuda_array(out))
        return out
