"""Training samples without files: worlds are built, walked through, painted and encoded while training goes on.

Processes on the CPU make plans (`plan_video`): a world, a walk through it, the segments that training will draw and
the context of every chunk of a walk of the denoiser; none of it needs a picture. A thread paints the frames of each
plan on the device, encodes them at once and puts the latents into a ring of videos in the device's memory, the newest
in the place of the oldest. Segments lie there too, packed into tensors of one shape for each number of context frames,
so that to draw a batch is to look up rows: nothing is sent, nothing waits. A segment is drawn several times while its
video is there, each time with other noise on other targets' levels.

Everything follows from numbers: video n of a run is the same on every machine. Which videos are there at a step is a
matter of speed.
"""

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.codec import VideoCodec
from context_as_memory.data.dataset import DenoiserBatch, Segment, SelfWalk, pool_size
from context_as_memory.errors import UserError
from context_as_memory.tokens import CameraTensors, ModelInputs
from context_as_memory.training.recorded import Drawing
from context_as_memory.training.rollout import RolloutPlan, plan_rollout
from context_as_memory.training.self_memory import SelfMemory, WalkJob

AT_ONCE = 100  # frames painted and encoded together
SAFE_STEPS = 2  # batches drawn after a video is given up, before its memory is used again
Painter = Callable[[Cameras], Tensor]  # pictures uint8 [N, H, W, 3] on the device


class Places(Protocol):
    """Where videos are made. Goes to other processes, so it must be small and can be pickled."""

    @property
    def width(self) -> int:
        """Of the pictures, pixels."""
        ...

    @property
    def height(self) -> int: ...

    def plan(self, split: str, number: int, frames: int) -> tuple[Any, Cameras]:
        """Place `number` of a split, and a walk through it. Raises `UserError` where there is no room to walk."""
        ...

    def painter(self, place: Any, device: torch.device) -> Painter:
        """What paints the pictures of a place on a device."""
        ...


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How many videos there are and how fast they are made."""

    videos: int = 600  # held at a time
    frames: int = 600  # of each
    first: int = 48  # videos that training waits for
    held_out: int = 8  # validation videos
    held_out_frames: int = 240
    segments: int = 96  # drawn from each video
    self_segments: int = 32  # drawn around the walk of the denoiser in each video
    workers: int = 14  # processes that make plans; 0: none, plans are made where they are needed
    device_share: float = 0.15  # of the time, how much the thread may paint and encode while training goes on

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.videos or not 0 < self.device_share <= 1:
            raise UserError(
                f"stream: first {self.first}, videos {self.videos}, device_share {self.device_share}; "
                "need 0 < first <= videos and a share above 0, up to 1"
            )


Rows = dict[str, np.ndarray]  # segments of one number of context frames, stacked


@dataclass(frozen=True)
class VideoPlan:
    """All of a video but its pictures. Frames are counted within the video."""

    number: int
    place: Any
    cameras: Cameras
    rows: dict[int, Rows]  # by number of context frames; without an entry where the video has no such segment
    walk: SelfWalk | None
    rollout: RolloutPlan | None
    own_rows: dict[int, Rows]


def plan_video(
    places: Places, split: str, number: int, frames: int, drawing: Drawing, config: StreamConfig
) -> VideoPlan | None:
    """Make a plan, for a given split and number always the same; None where there is no room to walk."""
    torch.set_num_threads(1)
    try:
        place, cameras = places.plan(split, number, frames)
    except UserError:
        return None
    if split != "train":
        return VideoPlan(number, place, cameras, {}, None, None, {})
    rng = np.random.default_rng((drawing.seed, 5, number))
    kinds = buckets(drawing)
    rows = {slots: _rows(drawing, cameras, slots, None, config.segments // len(kinds), rng) for slots in kinds}
    walk, rollout, own = None, None, {}
    if drawing.self_share:
        walk = drawing.walk(cameras, rng)
        entries = cameras[np.concatenate([walk.recorded, walk.made])]
        rollout = plan_rollout(entries, len(walk.recorded), drawing.layout, drawing.retrieval, seed=number)
        own = {slots: _rows(drawing, cameras, slots, walk, config.self_segments // len(kinds), rng) for slots in kinds}
    return VideoPlan(number, place, cameras, _there(rows), walk, rollout, _there(own))


def buckets(drawing: Drawing) -> tuple[int, ...]:
    """The numbers of context frames that batches have."""
    return tuple(sorted({1, *drawing.slots} if drawing.sampling.recent_only else {*drawing.slots}))


def blank_batch(drawing: Drawing, slots: int, device: torch.device) -> DenoiserBatch:
    """A batch of the right shapes and no meaning: what compiles before there are videos."""
    segments, chunks, targets = drawing.segments, drawing.sampling.chunks, drawing.layout.num_targets

    def cameras(frames: int) -> tuple[Tensor, Tensor]:
        shape = (segments, chunks, frames)
        return torch.eye(4, device=device).expand(*shape, 4, 4), torch.ones(*shape, 4, device=device)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=device)

    (context_c2w, context_K), (target_c2w, target_K) = cameras(slots), cameras(targets)
    rows = {"index": zeros(segments, chunks, slots), "context_c2w": context_c2w, "context_K": context_K}
    inputs = _inputs(rows | {"target_c2w": target_c2w, "target_K": target_K}, drawing, slots)
    pool, wanted = zeros(segments, pool_size(chunks, slots)), zeros(segments * chunks, targets)
    return DenoiserBatch(pool, wanted, torch.zeros(segments, dtype=torch.bool, device=device), inputs)


def _there(rows: dict[int, Rows | None]) -> dict[int, Rows]:
    return {slots: some for slots, some in rows.items() if some is not None}


def _rows(
    drawing: Drawing, cameras: Cameras, slots: int, walk: SelfWalk | None, count: int, rng: np.random.Generator
) -> Rows | None:
    """`count` segments with so many context frames; where the video has fewer such segments, some come again."""
    drawn: list[Segment] = []
    for tries in range(2 * count):
        segment = drawing.segment(cameras, (slots,) if slots == 1 else (1, slots), walk, rng)
        if segment.slots == slots:
            drawn.append(segment)
        if len(drawn) == count or (tries > 8 and not drawn):
            break
    if not drawn:
        return None
    size = pool_size(drawing.sampling.chunks, slots)
    parts = [_row(segment, size) for segment in (drawn[row % len(drawn)] for row in range(count))]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _row(segment: Segment, size: int) -> Rows:
    pool, inputs = segment.pool_index, segment.inputs
    return {
        "pool": np.concatenate([pool, np.repeat(pool[:1], size - len(pool))]),
        "targets": segment.target_index,
        "index": inputs.context_index[0].numpy(),
        "context_c2w": inputs.context_cameras.c2w[0].numpy(),
        "context_K": inputs.context_cameras.K[0].numpy(),
        "target_c2w": inputs.target_cameras.c2w[0].numpy(),
        "target_K": inputs.target_cameras.K[0].numpy(),
    }


class _SegmentStore:
    """Segments of one number of context frames of all videos in the ring, on the device: `each` rows a video."""

    def __init__(self, videos: int, each: int, device: torch.device) -> None:
        self.videos, self.each, self.device = videos, each, device
        self.ready = np.zeros(videos, bool)
        self.tensors: dict[str, Tensor] = {}

    def put(self, slot: int, rows: Rows, first_frame: int) -> None:
        for name, values in rows.items():
            if name not in self.tensors:
                kind = torch.from_numpy(values[:0]).dtype
                self.tensors[name] = torch.zeros(
                    (self.videos * self.each, *values.shape[1:]), dtype=kind, device=self.device
                )
            shift = first_frame if name in ("pool", "targets") else 0
            here = torch.from_numpy(values + shift).to(self.tensors[name].dtype)
            self.tensors[name][slot * self.each : (slot + 1) * self.each] = here.to(self.device)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Rows at random, of videos that are there."""
        there = np.flatnonzero(self.ready)
        return rng.choice(there, count) * self.each + rng.integers(self.each, size=count)


class Stream:
    """A source of training samples that fills itself; see the head of this file.

    first_number: of the first video; give every run its own range.
    """

    def __init__(
        self,
        places: Places,
        codec: VideoCodec,
        drawing: Drawing,
        config: StreamConfig,
        device: torch.device,
        first_number: int = 0,
    ) -> None:
        self.places, self.codec, self.drawing, self.config, self.device = places, codec, drawing, config, device
        factor = codec.spatial_factor
        shape = (codec.latent_channels, places.height // factor, places.width // factor)
        total = config.videos * config.frames
        self.latents = torch.zeros((total, *shape), dtype=torch.float16, device=device)
        self.own = SelfMemory(total, shape, device) if drawing.self_share else None
        kinds = buckets(drawing)
        self._stores = {slots: _SegmentStore(config.videos, config.segments // len(kinds), device) for slots in kinds}
        own_count = config.self_segments // len(kinds)
        self._own_stores = {slots: _SegmentStore(config.videos, own_count, device) for slots in kinds}
        self._plans: list[VideoPlan | None] = [None] * config.videos
        self._walked = np.full(config.videos, -1)  # the round in which the denoiser last walked there
        self.held_out: list[tuple[Cameras, np.ndarray]] = []
        self.made, self.drawn, self._given_up_at = 0, 0, 0
        self._next = first_number
        self._stop, self._enough = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._side = torch.cuda.Stream(device, priority=0) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until there are enough videos to begin."""
        while not self._enough.wait(0.2):
            self._check()
        self._check()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # -- the source of a task ------------------------------------------------------------------------------------

    def read(self, frames: Tensor) -> Tensor:
        """Latents of frames [N, F] as the model takes them, float32 [N, C, F, h, w]."""
        return self.latents[frames].float().transpose(1, 2)

    def batch(self, step: int, rank: int) -> DenoiserBatch:
        """Rows for this step from the videos that are there."""
        self._check()
        drawing = self.drawing
        rng = np.random.default_rng((drawing.seed, step, rank))
        wanted = drawing.wanted(rng)[-1]
        there = [slots for slots, store in self._stores.items() if store.ready.any()]
        if not there:
            raise UserError("training: no video has a segment to draw; make videos longer or segments smaller")
        slots = min(there, key=lambda slots: abs(slots - wanted))
        store, own_store = self._stores[slots], self._own_stores[slots]
        own = int(rng.binomial(drawing.segments, drawing.self_share)) if own_store.ready.any() else 0
        picks = [(store, drawing.segments - own), (own_store, own)]
        parts = []
        for source, count in picks:
            if count:
                rows = torch.from_numpy(source.draw(count, rng)).to(self.device, non_blocking=True)
                parts.append({name: tensor[rows] for name, tensor in source.tensors.items()})
        both = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        flags = torch.arange(drawing.segments, device=self.device) >= drawing.segments - own
        self.drawn += 1
        return DenoiserBatch(both["pool"], both["targets"].flatten(0, 1), flags, _inputs(both, drawing, slots))

    def walks(self, number: int) -> list[WalkJob]:
        """The videos in which the denoiser has not walked for longest."""
        count = self.drawing.walks.walks
        there = [slot for slot, plan in enumerate(self._plans) if plan is not None and plan.rollout is not None]
        if len(there) < count:
            return []
        chosen = sorted(there, key=lambda slot: (self._walked[slot], -self._plans[slot].number))[:count]  # type: ignore[union-attr]
        jobs = []
        for slot in chosen:
            plan = self._plans[slot]
            assert plan is not None and plan.walk is not None and plan.rollout is not None
            self._walked[slot] = number
            first = slot * self.config.frames
            recorded, made = (
                torch.from_numpy(first + part).to(self.device) for part in (plan.walk.recorded, plan.walk.made)
            )
            jobs.append(WalkJob(plan.number, plan.rollout, recorded, made))
        return jobs

    def keep(self, jobs: Sequence[WalkJob], made: Tensor, good: Tensor) -> None:
        """Take what a round has made: latents [W, L P, C, h, w], and which are good enough, bool [W, L P]."""
        assert self.own is not None
        where = {plan.number: slot for slot, plan in enumerate(self._plans) if plan is not None}
        for job, latents, fine in zip(jobs, made, good, strict=True):
            slot = where.get(job.video)
            if slot is None:
                continue  # another video has taken its place
            self.own.keep(job.made, latents, fine)
            plan = self._plans[slot]
            for slots in plan.own_rows if plan else ():
                self._own_stores[slots].ready[slot] = True

    def blanks(self) -> list[DenoiserBatch]:
        """A batch of every shape that `batch` has."""
        return [blank_batch(self.drawing, slots, self.device) for slots in buckets(self.drawing)]

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with torch.cuda.stream(self._side), torch.no_grad():
                self._fill()
        except BaseException as error:
            self._error = error
        finally:
            self._enough.set()

    def _fill(self) -> None:
        config = self.config
        if self._side is not None:
            self._side.wait_stream(torch.cuda.default_stream(self.device))  # what is empty has to be empty first
        with _Planners(self.places, self.drawing, config) as planners:
            for number in range(config.held_out):
                planners.ask("val", number, config.held_out_frames)
            while planners.waiting and not self._stop.is_set():
                plan = planners.next()
                if plan is not None:
                    self.held_out.append((plan.cameras, self._film(plan).cpu().numpy()))
            while not self._stop.is_set():
                while len(planners.waiting) < max(1, config.workers + 2):
                    planners.ask("train", self._next, config.frames)
                    self._next += 1
                plan = planners.next()
                if plan is None:
                    continue
                start = time.monotonic()
                latents = self._film(plan)
                busy_s = time.monotonic() - start
                self._put(plan, latents)
                self.made += 1
                if self.made == config.first:
                    self._enough.set()
                if self.made >= config.first:
                    self._stop.wait(busy_s * (1 / config.device_share - 1))

    def _film(self, plan: VideoPlan) -> Tensor:
        """Latents of all frames, float16 [T, C, h, w]."""
        paint, parts = self.places.painter(plan.place, self.device), []
        for start in range(0, len(plan.cameras), AT_ONCE):
            frames_u8 = paint(plan.cameras[start : start + AT_ONCE])
            video = frames_u8.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            parts.append(self.codec.encode_frames(video)[0].transpose(0, 1).half())
        latents = torch.cat(parts)
        self._settle()
        return latents

    def _settle(self) -> None:
        if self._side is not None:
            self._side.synchronize()

    def _put(self, plan: VideoPlan, latents: Tensor) -> None:
        """Into the next place of the ring; the place after it is given up at once, well before it is needed."""
        config = self.config
        slot = self.made % config.videos
        if self.made >= config.videos:
            while self.drawn < self._given_up_at + SAFE_STEPS and not self._stop.wait(0.01):
                pass  # batches that know this place are still to be worked on
            if self._side is not None:
                self._side.wait_stream(torch.cuda.default_stream(self.device))
        first = slot * config.frames
        self.latents[first : first + config.frames] = latents
        if self.own is not None:
            self.own.known[first : first + config.frames] = False
        for stores, rows in ((self._stores, plan.rows), (self._own_stores, plan.own_rows)):
            for slots, some in rows.items():
                stores[slots].put(slot, some, first)
        self._settle()
        self._plans[slot], self._walked[slot] = plan, -1
        for slots in plan.rows:
            self._stores[slots].ready[slot] = True
        if self.made + 1 >= config.videos:
            self._give_up((slot + 1) % config.videos)

    def _give_up(self, slot: int) -> None:
        self._plans[slot] = None
        for stores in (self._stores, self._own_stores):
            for store in stores.values():
                store.ready[slot] = False
        self._given_up_at = self.drawn


def _inputs(rows: dict[str, Tensor], drawing: Drawing, slots: int) -> ModelInputs:
    layout = drawing.layout
    return ModelInputs(
        context_index=rows["index"],
        context_mask=torch.ones_like(rows["index"], dtype=torch.bool),
        context_cameras=CameraTensors(rows["context_c2w"], rows["context_K"]),
        target_cameras=CameraTensors(rows["target_c2w"], rows["target_K"]),
        context_positions=layout.context_positions(slots),
        target_positions=layout.target_positions,
    )


class _Planners:
    """Plans in the order in which they were asked for, made by processes or, without any, when they are fetched."""

    def __init__(self, places: Places, drawing: Drawing, config: StreamConfig) -> None:
        self.places, self.drawing, self.config = places, drawing, config
        self.pool: ProcessPoolExecutor | None = None
        self.waiting: deque[Callable[[], VideoPlan | None]] = deque()

    def __enter__(self) -> "_Planners":
        if self.config.workers:
            # Not forked: the process that trains has threads and a GPU.
            self.pool = ProcessPoolExecutor(self.config.workers, multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *exc: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, split: str, number: int, frames: int) -> None:
        order = (self.places, split, number, frames, self.drawing, self.config)
        if self.pool is None:
            self.waiting.append(lambda: plan_video(*order))
        else:
            future: Future[VideoPlan | None] = self.pool.submit(plan_video, *order)
            self.waiting.append(future.result)

    def next(self) -> VideoPlan | None:
        return self.waiting.popleft()()
