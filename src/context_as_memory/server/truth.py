"""The true world in place of a generated one: one walks in what the renderer paints, on the same page.

Memory, retrieval and world files are those of a generated world, so both can be compared; no network is loaded.
"""

import secrets
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.data.voxel.render import VoxelRenderer
from context_as_memory.data.voxel.walk import EYE_M, VoxelGround
from context_as_memory.data.voxel.world import VoxelWorld
from context_as_memory.retrieval import Retrieval, RetrievalConfig
from context_as_memory.server.store import StoredWorlds
from context_as_memory.storage import MAIN, BranchStore, WorldFile
from context_as_memory.world import Chunk, World, WorldConfig

RISE_M = 0.1  # the eye follows the ground at most so fast, per frame: stairs become ramps


class VoxelPlace:
    """A voxel world to walk in: its pictures, its ground, and where one begins.

    Raises `UserError` without numba and for a world without ground.
    """

    def __init__(self, world: VoxelWorld, width: int, height: int, hfov_deg: float, threads: int | None = None):
        self.name, self.width, self.height = world.name, width, height
        self.ground, self.renderer = VoxelGround.of(world), VoxelRenderer(world, threads)
        points = self.ground.points
        home = points[np.argmin(np.hypot(*(points[:, :2] - np.asarray(world.home)).T))]
        around = np.arange(12) * 2 * np.pi / 12
        views = look(home + [0.0, 0.0, EYE_M], around, pinhole(90.0, 32, 20), 32, 20)
        openness = np.minimum(self.renderer.depth(views), 20.0).mean(axis=(1, 2))
        best = float(around[np.argmax(openness)])
        self.start = look(views.position[0], best, pinhole(hfov_deg, width, height), width, height)

    def follow(self, cameras: Cameras, eye_z: float) -> Cameras:
        """The same cameras with the eye above the ground, coming from a height; where there is none it flies on."""
        c2w = cameras.c2w.copy()
        for pose in c2w:
            floor = float(self.ground.floor_z(np.array([[pose[0, 3], pose[1, 3], eye_z - EYE_M]]))[0])
            if np.isfinite(floor):
                eye_z += float(np.clip(floor + EYE_M - eye_z, -RISE_M, RISE_M))
            pose[2, 3] = eye_z
        return Cameras(c2w, cameras.K, cameras.width, cameras.height)


class TrueWorld(World):
    """A place as a world: whatever it is reset to, it begins where the place does, and `step` paints what is there."""

    def __init__(self, place: VoxelPlace, config: WorldConfig, store: BranchStore):
        self.place = place
        super().__init__(None, None, config, "cpu", store)  # type: ignore[arg-type]  # no network is ever asked

    @property
    def chunk_frames(self) -> int:
        return self.config.chunk_latents

    def reset(self, frames_u8: np.ndarray, cameras: Cameras, profiles_m: np.ndarray | None = None) -> None:
        """Start from the picture of the place; what is given, frames uint8 [T, H, W, 3], is not used."""
        start = self.place.start
        super().reset(self.place.renderer.render(start), start)

    def remember(self, frames_u8: np.ndarray, cameras: Cameras, profiles_m: np.ndarray | None = None) -> None:
        """Add frames uint8 [T, H, W, 3] and their T cameras; nothing is encoded."""
        self.bank.append(frames_u8, cameras, _no_latents(len(frames_u8)), profiles_m=profiles_m)

    def step(
        self, cameras: Cameras, *, retrieval: RetrievalConfig | Retrieval | None = None, commit: bool = True
    ) -> Chunk:
        begin = time.perf_counter()
        rule = retrieval or self.config.retrieval
        path = self.place.follow(cameras, float(self.bank.cameras.position[-1, 2]))
        found = rule if isinstance(rule, Retrieval) else self._retrieve(path, rule, self.steps)
        chosen = time.perf_counter()
        frames = self.place.renderer.render(path)
        painted = time.perf_counter()
        if commit:
            self.bank.append(frames, path, _no_latents(len(frames)), {"step": self.steps})
            self.steps += 1
        return Chunk(frames, path, found, {"retrieve": chosen - begin, "paint": painted - chosen})


def _no_latents(frames: int) -> torch.Tensor:
    return torch.zeros(1, frames, 1, 1)


class TrueStore(StoredWorlds):
    """Walks through one place, stored in a folder like generated ones."""

    def __init__(self, folder: Path, place: VoxelPlace) -> None:
        super().__init__(folder)
        self.place, self.truth = place, place.name
        self.config = WorldConfig(width=place.width, height=place.height)
        self.size = place.width, place.height

    def create(self, seed: int) -> tuple[str, World]:
        name = secrets.token_hex(8)
        settings = {
            "weights": f"none: the true world {self.place.name}",
            "width": self.config.width,
            "height": self.config.height,
            "config": asdict(self.config),
        }
        file = WorldFile.create(self.path(name), settings)
        return name, TrueWorld(self.place, self.config, BranchStore(file))

    def open(self, name: str, branch: str = MAIN) -> World:
        file = WorldFile.open(self.path(name))
        try:
            return TrueWorld(self.place, self.config, BranchStore(file, branch))
        except BaseException:
            file.close()
            raise
