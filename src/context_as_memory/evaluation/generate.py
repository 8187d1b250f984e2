"""The function behind `cam generate`: one picture and a camera path in; a video, a comparison, an inspector picture and
a report out."""

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from context_as_memory.camera import (
    Z_UP,
    Cameras,
    cameras_from_actions,
    look,
    parse_actions,
    pinhole,
)
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import GenerateConfig
from context_as_memory.evaluation.inspector import choose_chunks, draw_inspector
from context_as_memory.evaluation.report import (
    Comparison,
    environment,
    peak_memory_mib,
    returns_report,
    timing,
    write_json,
)
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.formats.cameras import CameraTrack, read_track
from context_as_memory.formats.files import clear_partials
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.pictures import fit_frame, read_picture
from context_as_memory.formats.places import start_frame
from context_as_memory.formats.vertical import measured_up
from context_as_memory.formats.video import VideoWriter
from context_as_memory.retrieval import Retrieval
from context_as_memory.storage import BranchStore, WorldFile
from context_as_memory.storage.schema import DATABASE

if TYPE_CHECKING:
    from context_as_memory.memory import MemoryBank
    from context_as_memory.world import Chunk, World

# 496 frames. Look left and back; walk a square to the right, which ends where it began 216 frames later; walk up its
# first side again, turn, come back and look left once more, 456 frames after the first time.
DEMO_ACTIONS = "j-40,l-40,w-24,l-30,w-24,l-30,w-24,l-30,w-24,l-30,w-20,j-60,w-20,j-60,j-20,l-20"
ASSUMED_HFOV_DEG = 90.0  # of a picture, where nothing says it
OUTPUTS = ("video.mp4", "comparison.mp4", "inspector.png", "report.json")


@dataclass(frozen=True)
class Scene:
    """What to generate: a start picture (uint8 [H, W, 3], at its own size), its camera, and the target cameras, in the
    same pixels; upwards in their world, [3]; the camera file that they came from, if they did."""

    name: str
    frame: np.ndarray
    camera: Cameras
    targets: Cameras
    up: np.ndarray
    track: CameraTrack | None = None


@dataclass(frozen=True)
class Worlds:
    """The model, ready to run: with the chosen memory and, for comparison, with recent frames only (or None).
    continued: the first is a world file with a history, which goes on."""

    memory: "World"
    recent: "World | None"
    weights: dict[str, str]
    continued: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.memory.config.width, self.memory.config.height


class Frames(Sequence[np.ndarray]):
    """Frames of a run by number. Those of a world's past stay in its file and are read when asked for."""

    def __init__(self, bank: "MemoryBank | None" = None) -> None:
        self._bank, self.past = bank, 0 if bank is None else len(bank)
        self._new: list[np.ndarray] = []

    def __len__(self) -> int:
        return self.past + len(self._new)

    def __getitem__(self, number: Any) -> Any:
        if number < 0 or number >= self.past:
            return self._new[number if number < 0 else number - self.past]
        assert self._bank is not None
        return self._bank.frames_u8(int(number))[0]

    def extend(self, frames_u8: np.ndarray) -> None:
        self._new.extend(frames_u8)

    def cut(self, length: int) -> None:
        """Keep only so many frames; the past stays."""
        del self._new[max(0, length - self.past) :]


@dataclass
class Run:
    """One rollout as it grows. frames: all of the walk, start frame first; the other lists hold one entry per chunk."""

    world: "World"
    frames: Frames
    starts: list[int] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    given: int = 1  # frames that were there before the first chunk

    def add(self, chunk: "Chunk") -> None:
        self.starts.append(len(self.frames))
        self.frames.extend(chunk.frames_u8)
        self.retrievals.append(chunk.retrieval)
        self.seconds.append(chunk.seconds)

    def cut(self, num_frames: int) -> None:
        """Forget chunks that begin at or after frame `num_frames`."""
        keep = sum(start < num_frames for start in self.starts)
        self.frames.cut(num_frames)
        del self.starts[keep:], self.retrievals[keep:], self.seconds[keep:]


def generate(config: GenerateConfig) -> dict[str, Any]:
    """Generate a video and everything around it into `config.out`; returns the report (see `report.json`).

    Ctrl-C stops after the current chunk and still writes every file, a second Ctrl-C stops at once; the report then
    says `"interrupted": true`. Raises `UserError` for bad input, as far as possible before the model is loaded.
    """
    scene = continue_scene(config) if continues(config) else prepare_scene(config)
    prepare_folder(config.out)
    for name, value in (("steps", config.steps), ("max-context", config.max_context), ("threads", config.threads)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; give at least 1")
    if not 0 < config.fps <= 1000:
        raise UserError(f"--fps is {config.fps}; give frames per second between 0 and 1000")
    began = time.perf_counter()
    depth = None
    if config.depth is not None:  # before a world file is made, which an error would leave behind
        from context_as_memory.adapters.depth import DepthEstimator

        depth = DepthEstimator.from_pretrained(config.depth, up=scene.up)
    worlds = load_worlds(config, scene.up)
    worlds.memory.depth = depth
    try:
        return _generate(config, scene, worlds, began)
    finally:
        worlds.memory.close()


def _generate(config: GenerateConfig, scene: Scene, worlds: Worlds, began: float) -> dict[str, Any]:
    frame, changed = fit_frame(scene.frame, *worlds.size)
    if changed:
        before = f"{scene.frame.shape[1]}x{scene.frame.shape[0]}"
        after = f"{frame.shape[1]}x{frame.shape[0]}"
        note(f"{scene.name} ({before}) is scaled and cropped around its centre to the model's {after}")
    start, targets = (cameras.resized(*worlds.size) for cameras in (scene.camera, scene.targets))
    past = worlds.memory.bank.cameras if worlds.continued else start
    cameras = Cameras.concat([past, targets])
    pairs = find_returns(cameras)
    for name in OUTPUTS:  # a later failure must not leave old results that look like new ones
        (config.out / name).unlink(missing_ok=True)

    if worlds.continued:
        runs = {"with_memory": Run(worlds.memory, Frames(worlds.memory.bank), given=len(past))}
    else:
        both = {"with_memory": worlds.memory, "without_memory": worlds.recent}
        runs = {name: Run(world, Frames()) for name, world in both.items() if world is not None}
        for run in runs.values():
            run.frames.extend(frame[None])
    with StopOnInterrupt() as stop:
        _roll(config, runs, None if worlds.continued else start, targets, pairs, stop)
        # The numbers are written before pictures of them are drawn, so that nothing in drawing can lose them.
        report = _conclude(config, scene, worlds, runs, cameras, pairs)
        write_json(config.out / "report.json", report)
        done = len(runs["with_memory"].frames)
        _draw(config, scene, runs["with_memory"], cameras, pairs[pairs[:, 1] < done])
        report |= {"wall_seconds": round(time.perf_counter() - began, 2), "peak_memory_mib": peak_memory_mib()}
        report["files"] = [name for name in OUTPUTS if (config.out / name).exists()]
        write_json(config.out / "report.json", report)
    return report


def _roll(
    config: GenerateConfig,
    runs: dict[str, Run],
    start: Cameras | None,
    targets: Cameras,
    pairs: np.ndarray,
    stop: "StopOnInterrupt",
) -> None:
    """Generate chunk by chunk, all runs in step, writing the videos as they grow, until the path ends or `stop` is
    requested. start: the camera of the start frame; None goes on in a world that has a history.

    Both runs advance together, so that an interrupted comparison is complete up to its end.
    """
    memory, recent = runs["with_memory"], runs.get("without_memory")
    firsts: dict[int, int] = {int(r): int(f) for f, r in pairs}
    revisited = {int(f) for f in pairs[:, 0]}
    size = (targets.width, targets.height)
    comparison = Comparison(*size, ("memory on", "memory off"))
    chunk_frames = memory.world.chunk_frames
    written = memory.given - 1  # a walk that goes on shows its new part, from the last frame on
    with ExitStack() as stack:
        video = stack.enter_context(
            VideoWriter(config.out / "video.mp4", *size, config.fps, crf=10, pix_fmt=_pix_fmt(*size))
        )
        pair_video = None
        if recent is not None:
            path = config.out / "comparison.mp4"
            pair_video = stack.enter_context(VideoWriter(path, *comparison.size, config.fps, crf=16, pix_fmt="yuv420p"))

        def write() -> None:
            nonlocal written
            for number in range(written, len(memory.frames)):
                video.write(memory.frames[number])
                if recent is not None and pair_video is not None:
                    first = firsts.get(number)
                    now = (memory.frames[number], recent.frames[number])
                    then = None if first is None else (memory.frames[first], recent.frames[first])
                    back = number in revisited
                    pair_video.write(comparison.compose(now, number, first=first, then=then, revisited=back))
                written = number + 1

        advance = stack.enter_context(_progress(len(targets)))
        try:
            write()
            for run in runs.values():
                if start is not None:
                    run.world.reset(run.frames[0][None], start)
            for begin in range(0, len(targets), chunk_frames):
                chunk_cameras = targets[begin : begin + chunk_frames]
                for run in runs.values():
                    run.add(run.world.step(chunk_cameras))
                write()
                advance(len(chunk_cameras))
                if stop.requested:
                    break
        except KeyboardInterrupt:  # the second Ctrl-C
            stop.requested = True
        for run in runs.values():
            run.cut(written)


def _draw(config: GenerateConfig, scene: Scene, memory: Run, cameras: Cameras, pairs: np.ndarray) -> None:
    """Draw the inspector picture."""
    done = len(memory.frames)
    chosen = memory.world.config.retrieval
    subtitle = (
        f"{done} frames from {scene.name}; memory: {chosen.strategy}, at most {chosen.max_context} frames of context"
    )
    chunks = choose_chunks(memory.starts, memory.retrievals, pairs)
    draw_inspector(
        config.out / "inspector.png",
        cameras[:done],
        memory.frames,
        chunks,
        title="What was remembered",
        subtitle=subtitle,
    )


def _conclude(
    config: GenerateConfig, scene: Scene, worlds: Worlds, runs: dict[str, Run], cameras: Cameras, pairs: np.ndarray
) -> dict[str, Any]:
    """Gather the report of what was generated."""
    memory = runs["with_memory"]
    done = len(memory.frames)
    pairs = pairs[pairs[:, 1] < done]
    height, width = scene.frame.shape[:2]
    return {
        "interrupted": done < len(cameras),
        "frames_generated": done - memory.given,
        "frames_requested": len(cameras) - memory.given,
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()},
        "world": asdict(memory.world.config) | {"chunk_frames": memory.world.chunk_frames},
        "start": {"name": scene.name, "width": width, "height": height, "resized": (width, height) != worlds.size},
        "lens": lens_report(scene),
        "cameras": None if scene.track is None else scene.track.report(),
        "up": (np.round(scene.up, 6) + 0.0).tolist(),
        "seed": config.seed,
        "weights": worlds.weights,
        "environment": environment(),
        "returns": returns_report({name: run.frames for name, run in runs.items()}, visits(pairs), seed=config.seed),
        "timing": {name: timing(run.seconds, len(run.frames) - run.given) for name, run in runs.items()},
        "files": [name for name in OUTPUTS if name == "report.json" or (config.out / name).exists()],
    }


def prepare_scene(config: GenerateConfig) -> Scene:
    """Read the start picture and work out the camera path, without any model. Raises `UserError`."""
    chosen = [name for name in ("image", "start", "demo") if getattr(config, name)]
    if len(chosen) != 1:
        found = "none is given" if not chosen else f"--{' and --'.join(chosen)} are given together"
        raise UserError(f"what to start from: {found}; give one of --image PICTURE, --start NAME or --demo")
    if config.hfov_deg is not None and config.image is None and config.trajectory is None:
        raise UserError("--hfov-deg is for --image; the lens of a start frame is known, leave it away")
    if config.poses != PoseOptions() and config.trajectory is None:
        raise UserError("--axes, --w2c, --unit, --up, --width and --height are for --trajectory; leave them away")
    if config.actions is not None and config.trajectory is not None:
        raise UserError("--actions and --trajectory are given together; the path can only come from one of them")
    if config.intrinsics is not None and config.trajectory is None:
        raise UserError("--intrinsics needs --trajectory; without one use --hfov-deg")
    actions = config.actions
    if actions is None and config.trajectory is None:
        if not config.demo:
            raise UserError('no path is given; give --actions, e.g. "w-40,l-24,w-40,j-24", or --trajectory poses.npy')
        actions = DEMO_ACTIONS
    if actions is not None:
        parse_actions(actions)
    if config.image is not None:
        picture = read_picture(config.image)
        for told in picture.notes:
            note(told)
        frame, name = picture.frame, config.image.name
        height, width = frame.shape[:2]
        camera = look((0.0, 0.0, 0.0), 0.0, pinhole(config.hfov_deg or ASSUMED_HFOV_DEG, width, height), width, height)
    else:
        shipped = start_frame(config.start)
        frame, camera, name = shipped.frame, shipped.camera, f"start frame {shipped.name}"
    if actions is not None:
        return Scene(name, frame, camera, cameras_from_actions(camera, actions), -camera.down[0])
    assert config.trajectory is not None
    track = read_track(
        config.trajectory,
        config.poses,
        picture=(camera.width, camera.height),
        hfov_deg=config.hfov_deg,
        assumed_hfov_deg=ASSUMED_HFOV_DEG if config.image is not None else float(np.degrees(camera.hfov_rad[0])),
        intrinsics=config.intrinsics,
    )
    if len(track) < 2:
        raise UserError(
            f"trajectory {config.trajectory} holds {len(track)} pose(s); give the start pose and at least one more"
        )
    for line in track.lines():
        note(line)
    if track.turns:
        note(f"{name} and its cameras are turned by {90 * track.turns} degrees to be upright")
    path = track.upright()
    return Scene(name, np.rot90(frame, track.turns), path[0], path[1:], track.up, track)


def lens_report(scene: Scene) -> dict[str, Any]:
    """The lens of the start picture as given, for report.json."""
    if scene.track is not None:
        return scene.track.lens.report()
    fx, fy, cx, cy = scene.camera.K[0].tolist()
    hfov_deg = round(float(np.degrees(scene.camera.hfov_rad[0])), 4)
    return {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": scene.camera.width, "height": scene.camera.height} | {
        "hfov_deg": hfov_deg
    }


def continues(config: GenerateConfig) -> bool:
    """Whether --world names a world that is there already."""
    return config.world is not None and (config.world / DATABASE).exists()


def continue_scene(config: GenerateConfig) -> Scene:
    """The last frame and camera of a world file, and the path from there. Raises `UserError`."""
    assert config.world is not None
    given = [f"--{name}" for name in ("image", "start", "demo", "trajectory") if getattr(config, name)]
    given += ["--hfov-deg"] if config.hfov_deg is not None else []
    given += ["--intrinsics"] if config.intrinsics is not None else []
    given += ["--axes, --w2c and the like"] if config.poses != PoseOptions() else []
    if given:
        raise UserError(f"the world in {config.world} goes on from its last frame; leave {given[0]} away")
    if config.actions is None:
        raise UserError('no path is given; give --actions, e.g. "w-40,l-24,w-40,j-24"')
    parse_actions(config.actions)
    with WorldFile.open(config.world, write=False) as file:
        store = BranchStore(file, config.branch)
        cameras = store.cameras()
        known_up = file.up
        if cameras is None:
            raise UserError(f"branch {config.branch!r} of the world in {config.world} is empty; rewind it to a chunk")
        last = len(cameras) - 1
        camera, frame = cameras[[last]], store.frames_u8([last])[0]
    name = f"frame {last} of {config.world.name}, branch {config.branch}"
    up = measured_up(cameras.c2w[:1])[0] if known_up is None else known_up
    return Scene(name, frame, camera, cameras_from_actions(camera, config.actions, up=up), up)


def prepare_folder(folder: Path) -> None:
    """Make the output folder and make sure that files can be written there, before time is spent on generating them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error}); choose another --out folder") from error
    for name in OUTPUTS:
        if (folder / name).is_dir():
            raise UserError(
                f"{folder / name} is a folder, but a file of that name must be written; choose another --out folder"
            )
        clear_partials(folder, name)


def load_worlds(config: GenerateConfig, up: ArrayLike = Z_UP) -> Worlds:
    """Load the weights once; both worlds share them. up: upwards in a new world that is kept."""
    from context_as_memory import weights
    from context_as_memory.compute import use_threads
    from context_as_memory.storage import create_world, file_of, open_world
    from context_as_memory.world import World

    use_threads(config.threads)
    if continues(config):
        assert config.world is not None
        note("the world's own settings are used: seed, memory, steps; there is nothing to compare with")
        opened = open_world(
            config.world, config.branch, weights=None if config.weights == "default" else config.weights
        )
        file = file_of(opened)
        assert file is not None
        settings_ = file.settings
        return Worlds(
            opened, None, {"name": settings_["weights"], "sha256": settings_["weights_sha256"]}, continued=True
        )
    base = World.from_pretrained(config.weights)
    stored = base.config.retrieval
    retrieval = replace(stored, strategy=config.memory, max_context=config.max_context or stored.max_context)
    settings = replace(
        base.config, retrieval=retrieval, num_steps=config.steps or base.config.num_steps, seed=config.seed
    )
    recent = None
    if config.compare and config.memory == "recent":
        note("--memory recent is what a comparison would compare with; comparison.mp4 is left out")
    elif config.compare:
        recent = World(base.model, base.codec, replace(settings, retrieval=replace(retrieval, strategy="recent")))
    info = {"name": config.weights, "sha256": weights.fingerprint(weights.resolve(config.weights))}
    if config.world is None:
        return Worlds(World(base.model, base.codec, settings), recent, info)
    kept = create_world(
        config.world, config.weights, up=up, retrieval=retrieval, num_steps=settings.num_steps, seed=config.seed
    )
    return Worlds(kept, recent, info)


class StopOnInterrupt:
    """Turns the first Ctrl-C into a request to stop (`requested`); the second one raises KeyboardInterrupt as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> "StopOnInterrupt":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        note("stopping after this chunk; press Ctrl-C again to stop at once")


class _progress:
    """A progress bar on stderr: `with _progress(total) as advance: advance(frames)`."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("frames"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total, rate="")
        self._done = 0

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        self._began = time.perf_counter()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _advance(self, frames: int) -> None:
        self._done += frames
        rate = self._done / max(time.perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f} fps")


def summary_lines(report: dict[str, Any], out: Path) -> Sequence[str]:
    """What to tell the user at the end, a few short lines."""
    lines = []
    if report["interrupted"]:
        lines.append(f"interrupted after {report['frames_generated']} of {report['frames_requested']} frames")
    returns = report["returns"]
    for name, label in (("with_memory", "memory on: "), ("without_memory", "memory off:")):
        values = returns.get(name)
        if values and values["psnr"]:
            visits_text = f"{returns['num_visits']} return{'s' if returns['num_visits'] != 1 else ''}"
            lines.append(
                f"{label} {values['psnr']['mean']:.1f} dB PSNR, {values['ssim']['mean']:.3f} SSIM over {visits_text}"
            )
    fps = report["timing"]["with_memory"]["frames_per_second"]
    if fps:
        lines.append(f"speed:      {fps:.1f} frames per second, {report['peak_memory_mib']} MiB peak memory")
    lines.append("written:    " + ", ".join(str(out / name) for name in report["files"]))
    return lines


def note(text: str) -> None:
    """One line for the user, on stderr."""
    print(f"cam: {text}", file=sys.stderr, flush=True)


def _pix_fmt(width: int, height: int) -> str:
    """4:2:0 plays everywhere, but only even sizes can be written that way."""
    return "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
