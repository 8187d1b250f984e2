"""The kernel that paints voxel worlds on a CUDA device; importing it needs numba with CUDA."""

from typing import Any, NamedTuple

from numba import cuda

from context_as_memory.data.voxel.rays import pixel


class Lenses(NamedTuple):
    """Poses and lenses of cameras as the kernel takes them."""

    c2w: Any  # float64 [N, 4, 4]
    K: Any  # float64 [N, 4]


@cuda.jit
def paint_all(scene, lenses, out):
    """Paint `out` uint8 [N, H, W, 3], one thread a pixel; 32 threads paint a tile of 8 x 4, through the same cells."""
    thread: int = cuda.grid(1)  # type: ignore[call-arg]
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


def blocks_of_threads(count: int, height: int, width: int) -> int:
    """How many blocks of 128 threads paint so many pictures."""
    return -(-count * -(-width // 8) * -(-height // 4) * 32 // 128)
