"""Voxel worlds by number, for training that makes its videos itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from context_as_memory.camera import Cameras
from context_as_memory.data.batch import episode_seed
from context_as_memory.data.trajectories import HFOV_DEG
from context_as_memory.data.voxel import styles
from context_as_memory.data.voxel.render import VoxelRenderer
from context_as_memory.data.voxel.walk import path_cameras, plan_voxel_path
from context_as_memory.data.voxel.world import VoxelWorld

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class VoxelPlaces:
    """Worlds of the styles that are trained on, dealt in turns; pictures of one size and lens."""

    width: int = 320
    height: int = 192
    hfov_deg: float = HFOV_DEG

    def plan(self, split: str, number: int, frames: int) -> tuple[VoxelWorld, Cameras]:
        """World `number` of a split and a walk of so many frames. Raises `UserError` where there is no room to walk."""
        style = styles.TRAINED[number % len(styles.TRAINED)]
        name = f"{style}-{styles.FIRST_SEED[split] + number // len(styles.TRAINED)}"
        world = styles.build_world(name)
        path = plan_voxel_path(world, frames, episode_seed(name, 0, 0))
        return world, path_cameras(path, self.width, self.height, self.hfov_deg)

    def painter(self, place: VoxelWorld, device: "torch.device") -> "Callable[[Cameras], torch.Tensor]":
        """What paints a world, uint8 [N, H, W, 3] of N cameras: on a GPU there, else on one core."""
        import torch

        if device.type == "cuda":
            from context_as_memory.data.voxel.render import VoxelGpuRenderer

            return VoxelGpuRenderer(place, device).render
        renderer = VoxelRenderer(place, threads=1)
        return lambda cameras: torch.from_numpy(renderer.render(cameras)).to(device)
