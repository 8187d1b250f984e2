"""Pictures and exact depth of voxel worlds, on a CPU or a CUDA device, by the same description (`rays`)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from context_as_memory.camera import Cameras
from context_as_memory.data.voxel.compiled import compiled
from context_as_memory.data.voxel.rays import pixel, ray_depth
from context_as_memory.data.voxel.scene import make_scene
from context_as_memory.data.voxel.world import VoxelWorld
from context_as_memory.errors import UserError


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
