"""Episodes of voxel worlds: build a world, walk through it, paint what is seen, write it down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from context_as_memory.camera import pinhole
from context_as_memory.data.batch import FPS, RenderSummary, episode_seed, make_episodes
from context_as_memory.data.contact import write_contact_sheet
from context_as_memory.data.episode import SPLITS, write_episode
from context_as_memory.data.trajectories import HFOV_DEG
from context_as_memory.data.voxel import styles
from context_as_memory.data.voxel.compiled import require_compiler
from context_as_memory.data.voxel.render import VoxelRenderer
from context_as_memory.data.voxel.walk import path_cameras, plan_voxel_path
from context_as_memory.errors import UserError

GENERATOR = "context_as_memory.data.voxel/1"  # raise it when the same seed gives other worlds, paths or pictures
LICENCE = "Apache-2.0, drawn by context-as-memory"
CONTACT_SHEET = "contact.png"


def render_voxel_dataset(
    out: Path | str,
    *,
    worlds: str | Sequence[str] = "train",
    count: int = 12,
    frames_per_video: int = 1000,
    videos_per_world: int = 1,
    seed: int = 0,
    width: int = 320,
    height: int = 192,
    hfov_deg: float = HFOV_DEG,
    workers: int = 2,
    raw: bool = False,
    progress: bool = True,
) -> RenderSummary:
    """Render episodes `gallery-17_0`, ... of voxel worlds into the folder `out`, and a contact sheet of them.

    Episodes that are there already and have the same recipe are kept, so an interrupted run is continued by calling it
    again. The same arguments give the same poses and pictures on every x86 machine.

    Args:
        worlds: a split ("train", "val", "test"), of which the first `count` worlds are taken, or names of worlds.
        width, height: of the pictures, pixels; a video needs even numbers.
        hfov_deg: horizontal field of view, degrees.
        workers: videos rendered at once, each on one core.
        raw: store uint8 arrays instead of videos.

    Raises `UserError` for impossible arguments, without numba, for episodes of another recipe in `out`, and, after all
    other videos are done, naming those that failed.
    """
    names = choose_worlds(worlds, count)
    if min(frames_per_video, videos_per_world, workers, width, height) < 1:
        raise UserError("frames, videos, workers, width and height must be at least 1")
    if not raw and (width % 2 or height % 2):
        raise UserError(f"a video of {width}x{height} is not possible; give even numbers, or store plain arrays (raw)")
    pinhole(hfov_deg, width, height)  # complains here, not once a video
    require_compiler()
    out = Path(out).resolve()
    recipes: dict[str, dict[str, Any]] = {}
    for name in names:
        for number in range(videos_per_world):
            recipes[f"{name}_{number}"] = {
                "world": name,
                "split": styles.split_of(name),
                "seed": episode_seed(name, number, seed),
                "fps": FPS,
                "hfov_deg": hfov_deg,
                "licence": LICENCE,
                "generator": GENERATOR,
                "width": width,
                "height": height,
                "num_frames": frames_per_video,
            }

    def make(episode: str) -> str | None:
        try:
            world = styles.build_world(recipes[episode]["world"])
            path = plan_voxel_path(world, frames_per_video, recipes[episode]["seed"])
            cameras = path_cameras(path, width, height, hfov_deg)
            frames_u8 = VoxelRenderer(world, threads=1).render(cameras)
            write_episode(out / episode, frames_u8, cameras, recipes[episode], raw=raw)
        except UserError as error:
            return str(error)
        return None

    summary = make_episodes(out, recipes, make, workers=workers, progress=progress)
    write_contact_sheet(out / CONTACT_SHEET, [out / name for name in recipes])
    return summary


def choose_worlds(worlds: str | Sequence[str], count: int) -> list[str]:
    """Names of worlds: the first `count` of a split, or those that are given. `UserError` for others, and for none."""
    given = [worlds] if isinstance(worlds, str) else list(dict.fromkeys(worlds))
    if not given:
        raise UserError("no voxel worlds to render; give a split or names such as gallery-17")
    if len(given) == 1 and given[0] in SPLITS:
        if count < 1:
            raise UserError(f"{count} worlds cannot be rendered; give at least 1")
        return styles.world_names(given[0], count)
    for name in given:
        styles.parse_name(name)
    return given
