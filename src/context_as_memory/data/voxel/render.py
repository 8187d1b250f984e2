"""Pictures and exact depth of voxel worlds, on a CPU or a CUDA device, by the same description (`rays`)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.voxel.rays import measure, paint
from context_as_memory.data.voxel.scene import Scene, make_scene
from context_as_memory.data.voxel.world import VoxelWorld
from context_as_memory.errors import UserError

if TYPE_CHECKING:
    import torch


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
        self._run(paint, cameras, out)
        return out

    def depth(self, cameras: Cameras) -> np.ndarray:
        """Depth float32 [N, H, W]: metres along the camera's z axis at pixel centres, inf for sky.

        See-through blocks (water, glass) are passed, up to four of their faces on one ray.
        """
        out = np.empty((len(cameras), cameras.height, cameras.width), np.float32)
        self._run(measure, cameras, out)
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
        try:
            from numba import cuda
        except ImportError:
            raise UserError("voxel worlds on a GPU need numba-cuda; pip install numba-cuda") from None

        self._index = torch.cuda.current_device() if self.device.index is None else self.device.index
        self.world = world
        with cuda.gpus[self._index]:
            self._scene = Scene(*(cuda.to_device(np.ascontiguousarray(part)) for part in make_scene(world)))

    def render(self, cameras: Cameras) -> "torch.Tensor":
        """Pictures uint8 [N, H, W, 3] (sRGB) on the device, in the order of its current stream."""
        import torch
        from numba import cuda

        from context_as_memory.data.voxel.gpu import Lenses, blocks_of_threads, paint_all

        shape = (len(cameras), cameras.height, cameras.width)
        out = torch.empty((*shape, 3), dtype=torch.uint8, device=torch.device("cuda", self._index))
        if not len(cameras):
            return out
        with cuda.gpus[self._index]:
            stream = cuda.external_stream(torch.cuda.current_stream(self._index).cuda_stream)
            places = (np.ascontiguousarray(part) for part in (cameras.c2w, cameras.K))
            lenses = Lenses(*(cuda.to_device(part, stream=stream) for part in places))
            paint_all[blocks_of_threads(*shape), 128, stream](self._scene, lenses, cuda.as_cuda_array(out))
        return out
