"""Pictures of the Freedoom worlds: a renderer for arbitrary planar cameras, and the data set made with it.

The engine (ViZDoom, software rendering, no display needed) runs in a child process per job, because a fault inside it
ends its process: a crash or a hang becomes an error that names the map. Pictures are rendered at 640x480 and reduced by
exact area averaging to W x 0.6 W with square pixels, a horizontal field of view of 90 degrees and a centred principal
point.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from context_as_memory.camera import Cameras, pinhole
from context_as_memory.data import episode as episodes
from context_as_memory.data import wad
from context_as_memory.data.batch import FPS, RenderSummary, episode_seed, make_episodes
from context_as_memory.data.doom_map import UNITS_PER_M, DoomMap
from context_as_memory.data.trajectories import HFOV_DEG, plan_path
from context_as_memory.errors import UserError, install
from context_as_memory.formats.files import read_array, read_arrays

GENERATOR = "context_as_memory.data.render/1"  # raise the number when the same seed gives other paths or pictures
LICENCE = "BSD-3-Clause, (c) Contributors to the Freedoom project, https://freedoom.github.io"
GAMMA = 0.75

_BUFFER_WIDTH, _BUFFER_HEIGHT = 640, 480
_WADS = {"f1": "freedoom1.wad", "f2": "freedoom2.wad"}
ALL_MAPS = tuple(f"f1_E{part}M{number}" for part in range(1, 5) for number in range(1, 10)) + tuple(
    f"f2_MAP{number:02d}" for number in range(1, 33)
)
VALIDATION_MAPS = ("f1_E1M4", "f1_E2M7", "f1_E4M2", "f2_MAP05", "f2_MAP14", "f2_MAP26")
TEST_MAPS = ("f1_E1M8", "f1_E3M3", "f1_E4M6", "f2_MAP09", "f2_MAP20", "f2_MAP31")
# Whole maps, never parts of one: neighbouring frames of one map are nearly the same picture.
SPLIT_OF_MAP = {
    name: "val" if name in VALIDATION_MAPS else "test" if name in TEST_MAPS else "train" for name in ALL_MAPS
}


class Renderer(Protocol):
    """Anything that paints exact pictures of one still world."""

    def render(self, cameras: Cameras) -> np.ndarray:
        """N cameras -> uint8 [N, H, W, 3]. Equal cameras give equal pictures."""
        ...


# --- Worlds ---------------------------------------------------------------------------------------


def wad_path(map_name: str, wad_folder: Path | str | None = None) -> Path:
    """The archive that holds a map (`f1_E1M3`: E1M3 of Freedoom 1), by default the one inside the vizdoom package."""
    if map_name not in SPLIT_OF_MAP:
        raise UserError(f"unknown map {map_name!r}; maps are f1_E1M1 to f1_E4M9 and f2_MAP01 to f2_MAP32")
    if wad_folder is None:
        import importlib.util

        spec = importlib.util.find_spec("vizdoom")  # found, not imported: the parent process never loads the engine
        if spec is None or spec.origin is None:
            raise UserError(f"rendering needs the vizdoom package; {install('render')}")
        wad_folder = Path(spec.origin).parent
    return Path(wad_folder) / _WADS[map_name[:2]]


def load_map(map_name: str, wad_folder: Path | str | None = None) -> DoomMap:
    """The still version of a map, as it is rendered and walked (see `DoomMap.static`)."""
    path = wad_path(map_name, wad_folder)
    maps = wad.find_maps(wad.read_wad(path))
    short = map_name[3:]
    if short not in maps:
        raise UserError(f"{path} has no map {short}; use the Freedoom archives of vizdoom 1.3.2")
    return DoomMap.from_lumps(short, maps[short]).static()


# --- The engine -----------------------------------------------------------------------------------


class DoomRenderer:
    """Renders one Freedoom map inside this process, in a `with` block. `render_at` survives crashes; this does not.

    Args:
        map_name: such as `f1_E1M3`.
        width: picture width in pixels: 80, 160, 320 or 640; the height is 0.6 of it.
        wad_folder: where the Freedoom archives are; by default those inside the vizdoom package.
    """

    def __init__(self, map_name: str, width: int = 160, wad_folder: Path | str | None = None):
        self.width, self.height = width, picture_height(width)
        self._reduce = _Reducer(width)
        self._scratch = tempfile.TemporaryDirectory(prefix="doom-")
        try:
            self._game = self._start(map_name, wad_folder)
        except BaseException:
            self._scratch.cleanup()
            raise
        self._camera_exists = False

    def _start(self, map_name: str, wad_folder: Path | str | None) -> Any:
        doom_map = load_map(map_name, wad_folder)
        try:
            import vizdoom
        except ImportError as error:
            raise UserError(f"rendering needs the vizdoom package; {install('render')}") from error
        scratch = Path(self._scratch.name)
        addon = scratch / "addon.wad"
        wad.write_wad(addon, wad.camera_lumps() + doom_map.lumps())
        game = vizdoom.DoomGame()
        game.set_doom_game_path(str(wad_path(map_name, wad_folder)))
        game.set_doom_config_path(str(scratch / "engine.ini"))
        game.set_doom_map(doom_map.name.lower())
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_640X480)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        for overlay in (
            "hud", "minimal_hud", "crosshair", "weapon", "decals", "particles", "effects_sprites", "messages",
            "corpses", "screen_flashes",
        ):  # fmt: skip
            getattr(game, f"set_render_{overlay}")(False)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_doom_skill(3)
        game.set_available_buttons([vizdoom.Button.ATTACK])
        game.set_seed(7)
        game.set_episode_timeout(0)
        game.set_episode_start_time(1)
        game.add_game_args(f"+sv_cheats 1 -file {addon}")
        game.init()
        return game

    def render(self, cameras: Cameras) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] of N level cameras in metres. Raises `UserError` for tilted or other cameras."""
        check_cameras(cameras, self.width)
        forward = cameras.forward
        turn = np.round(np.arctan2(forward[:, 1], forward[:, 0]) / (2 * np.pi) * 65536).astype(int) % 65536
        place = np.round(cameras.position * UNITS_PER_M * 65536).astype(int)
        pictures = np.empty((len(cameras), self.height, self.width, 3), np.uint8)
        for index, ((x, y, z), angle) in enumerate(zip(place, turn, strict=True)):
            if not self._camera_exists:
                self._game.send_game_command(f"puke {wad.SPAWN_SCRIPT} {x} {y} {z}")
                self._game.make_action([0], 2)
                self._camera_exists = True
            self._game.send_game_command(f"puke {wad.MOVE_SCRIPT} {x} {y} {z} {angle}")
            self._game.make_action([0])
            pictures[index] = self._reduce(self._game.get_state().screen_buffer)
        return pictures

    def close(self) -> None:
        self._game.close()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_cameras(cameras: Cameras, width: int) -> None:
    """Raise `UserError` unless the engine can paint these cameras: level, 90 degrees, centred, W x 0.6 W."""
    height = picture_height(width)
    if (cameras.width, cameras.height) != (width, height):
        raise UserError(f"cameras are {cameras.width}x{cameras.height}, pictures {width}x{height}; resize the cameras")
    if not np.allclose(cameras.K, pinhole(HFOV_DEG, width, height), atol=1e-6):
        raise UserError(f"the engine has a centred field of view of {HFOV_DEG:.0f} degrees; use such cameras")
    tilted = np.flatnonzero(np.abs(cameras.down - [0.0, 0.0, -1.0]).max(axis=1, initial=0.0) > 1e-4)
    if len(tilted):
        raise UserError(f"camera {tilted[0]} is tilted or rolled; the engine renders level cameras only (z up)")


def picture_height(width: int) -> int:
    """Height of a picture of this width: 0.6 of it. Raises `UserError` for widths the buffer cannot be reduced to."""
    if width not in (80, 160, 320, 640):  # whole columns per pixel, and as many rows cut at the top as at the bottom
        raise UserError(f"pictures {width} wide are not possible; choose 80, 160, 320 or 640")
    return width * 3 // 5


class _Reducer:
    """Area average of the 640x480 buffer to W x 0.625 W, of which the middle 0.6 W rows are kept.

    Doom pixels are 1.2 tall, so this makes them square. Sums are whole numbers below 2^24, hence exact in float32 in
    any order of addition: the same bytes on every machine. The gamma curve is applied to the sums, before rounding.
    """

    def __init__(self, width: int):
        self.shape = (picture_height(width), width, 3)
        full_height = width * 5 // 8
        self.margin = (full_height - self.shape[0]) // 2
        self.row_weights = _area_weights(_BUFFER_HEIGHT, full_height)
        columns = _BUFFER_WIDTH // width
        self.column_sum = np.tile(np.eye(3, dtype=np.float32), (columns, 1))  # [columns x 3, 3]
        largest = 255 * self.row_weights.shape[1] * columns
        self.curve = (255 * (np.arange(largest + 1) / largest) ** GAMMA + 0.5).astype(np.uint8)

    def __call__(self, buffer: np.ndarray) -> np.ndarray:
        blocks = buffer.reshape(-1, self.row_weights.shape[1], _BUFFER_WIDTH * 3).astype(np.float32)
        rows = np.matmul(self.row_weights, blocks).reshape(-1, _BUFFER_WIDTH * 3)
        rows = rows[self.margin : self.margin + self.shape[0]]
        sums = rows.reshape(-1, len(self.column_sum)) @ self.column_sum
        return self.curve[sums.astype(np.int32)].reshape(self.shape)


def _area_weights(source_height: int, target_height: int) -> np.ndarray:
    """Whole-number row weights of one repeating block, float32 [target rows, source rows]: 5 x 24 for 480 -> 100."""
    ratio = Fraction(source_height, target_height)
    source, target = ratio.numerator, ratio.denominator
    top, row = np.arange(target)[:, None] * source, np.arange(source)[None] * target  # in 1/target source rows
    overlap = np.minimum(top + source, row + target) - np.maximum(top, row)
    return np.clip(overlap, 0, None).astype(np.float32)


# --- Jobs in child processes ----------------------------------------------------------------------


def render_at(
    map_name: str,
    cameras: Cameras,
    *,
    wad_folder: Path | str | None = None,
    allow_other_wads: bool = False,
    timeout_s: float = 300.0,
) -> np.ndarray:
    """Exact ground truth: pictures uint8 [N, H, W, 3] of a map at any level cameras (90 degrees, W x 0.6 W).

    Runs in a child process. Raises `UserError` for cameras it cannot paint and, naming the map, when the engine crashes
    or takes longer than `timeout_s`.
    """
    check_cameras(cameras, cameras.width)
    wad.wad_sha256(wad_path(map_name, wad_folder), allow_other_wads=allow_other_wads)
    with tempfile.TemporaryDirectory(prefix="render-") as scratch:
        np.savez(Path(scratch) / "cameras.npz", c2w=cameras.c2w, K=cameras.K, size=[cameras.width, cameras.height])
        job = {
            "kind": "cameras",
            "map": map_name,
            "folder": scratch,
            "wad_folder": str(wad_folder) if wad_folder else None,
        }
        problem = _run_job(job, timeout_s)
        if problem:
            raise UserError(f"rendering map {map_name} failed: {problem}")
        return read_array(Path(scratch) / "frames.npy")


def _run_job(job: dict[str, Any], timeout_s: float) -> str | None:
    """Run one job in its own process. Returns None, or in words what went wrong."""
    package_root = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="job-") as scratch:  # the engine drops settings files where it stands
        environment = os.environ | {"PYTHONPATH": search_path, "OMP_NUM_THREADS": "1", "TMPDIR": scratch}
        complaints = Path(scratch) / "stderr.txt"  # a file: the engine would keep a pipe open beyond its parent's end
        with complaints.open("w") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "context_as_memory.data.render", json.dumps(job)],
                cwd=scratch,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # its own process group, so that the engine can be stopped with it
            )
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"no answer within {timeout_s:g} s (a hang); raise the timeout on a slow machine"
        finally:
            with suppress(ProcessLookupError):  # also after its own end: a killed process leaves its engine behind
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        errors = complaints.read_text(errors="replace")
    if child.returncode < 0:
        return f"the engine crashed ({signal.Signals(-child.returncode).name})"
    if child.returncode:
        return (errors.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    return None


def _child_main(job: dict[str, Any]) -> None:
    """What a child process does: render given cameras to a file, or plan and write a whole episode."""
    if job["kind"] == "cameras":
        given = read_arrays(Path(job["folder"]) / "cameras.npz")
        cameras = Cameras(given["c2w"], given["K"], *(int(side) for side in given["size"]))
        with DoomRenderer(job["map"], cameras.width, job["wad_folder"]) as renderer:
            np.save(Path(job["folder"]) / "frames.npy", renderer.render(cameras))
        return
    doom_map = load_map(job["map"], job["wad_folder"])
    path = plan_path(doom_map, job["num_frames"], job["meta"]["seed"])
    cameras = path.cameras(job["width"], job["height"])
    with DoomRenderer(job["map"], job["width"], job["wad_folder"]) as renderer:
        frames_u8 = renderer.render(cameras)
    episodes.write_episode(job["folder"], frames_u8, cameras, job["meta"], raw=job["raw"])


# --- The data set ---------------------------------------------------------------------------------


def render_dataset(
    out: Path | str,
    *,
    maps: str | Sequence[str] = "all",
    frames_per_video: int = 1000,
    videos_per_map: int = 1,
    seed: int = 0,
    width: int = 160,
    height: int = 96,
    workers: int = 2,
    raw: bool = False,
    progress: bool = True,
    timeout_s: float = 600.0,
    wad_folder: Path | str | None = None,
    allow_other_wads: bool = False,
) -> RenderSummary:
    """Render episodes `f1_E1M3_0`, ... of Freedoom maps into the folder `out`.

    Every video renders in its own process; one that fails or exceeds `timeout_s` does not stop the others. Episodes
    that are there already and have the same recipe are kept, so an interrupted run is continued by calling it again.
    The same arguments give the same poses and pictures on every machine.

    Args:
        maps: "all", a split ("train", "val", "test"), or names of maps.
        raw: store uint8 arrays instead of videos.

    Raises `UserError` for impossible arguments, for an archive that is not the pinned one (unless `allow_other_wads`),
    for episodes of another recipe in `out`, and, after all other videos are done, naming the maps that failed.
    """
    chosen = _choose_maps(maps)
    if height != picture_height(width):
        raise UserError(f"pictures of width {width} have height {picture_height(width)}, not {height}")
    if min(frames_per_video, videos_per_map, workers) < 1:
        raise UserError("frames_per_video, videos_per_map and workers must be at least 1")
    archives = {
        path: wad.wad_sha256(path, allow_other_wads=allow_other_wads)
        for path in {wad_path(m, wad_folder) for m in chosen}
    }
    out = Path(out).resolve()
    recipes, jobs = {}, {}
    for map_name in chosen:
        archive = wad_path(map_name, wad_folder)
        for number in range(videos_per_map):
            name = f"{map_name}_{number}"
            meta = {
                "map": map_name,
                "split": SPLIT_OF_MAP[map_name],
                "seed": episode_seed(map_name, number, seed),
                "fps": FPS,
                "wad": {"name": archive.name, "sha256": archives[archive]},
                "licence": LICENCE,
                "generator": GENERATOR,
            }
            recipes[name] = {**meta, "width": width, "height": height, "num_frames": frames_per_video}
            jobs[name] = {
                "kind": "episode", "map": map_name, "folder": str(out / name), "meta": meta, "raw": raw, "width": width,
                "height": height, "num_frames": frames_per_video, "wad_folder": str(wad_folder) if wad_folder else None,
            }  # fmt: skip

    def make(name: str) -> str | None:
        return _run_job(jobs[name], timeout_s)

    return make_episodes(out, recipes, make, workers=workers, progress=progress)


def _choose_maps(maps: str | Sequence[str]) -> list[str]:
    if isinstance(maps, str):
        if maps == "all":
            return list(ALL_MAPS)
        if maps in episodes.SPLITS:
            return [name for name in ALL_MAPS if SPLIT_OF_MAP[name] == maps]
        maps = [maps]
    unknown = [name for name in maps if name not in SPLIT_OF_MAP]
    if unknown or not maps:
        raise UserError(
            f"unknown maps {', '.join(unknown) or '(none given)'}; maps are f1_E1M1 to f1_E4M9 and f2_MAP01 to f2_MAP32"
        )
    return list(dict.fromkeys(maps))


if __name__ == "__main__":
    try:
        _child_main(json.loads(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
