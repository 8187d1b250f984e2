"""Training samples: packed segments of several chunks that share one pool of memory frames.

Follows paper section 3.5 (arXiv 2506.03141): targets are picked at random in a long video, their context is retrieved
from all other frames of that video, past and future, and one sample in ten sees the recent frame only. Retrieval and
inputs are the very functions that generation uses.

What is ours: chunks of one segment are picked near each other in space, so that a frame retrieved by several of them
is encoded once, and all have equally many context frames, so that no slot is empty and no mask is needed; the pool
that retrieval may choose from is a random part of the video, so that memory is sometimes dense and sometimes poor;
frames close in time to the targets are hidden at random, so that memory and not the neighbouring frame has to explain
the view; some chunks begin far from the recent frame; steps between frames vary, so that slow and fast walkers are
known. Where memory consists of frames that the denoiser made itself, segments are drawn around its walk (`draw_walk`).
Videos of which clips were encoded (`precompute`) are walked forwards only, from where a clip begins to where it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.retrieval import Candidates, Retrieval, RetrievalConfig, retrieve
from context_as_memory.tokens import CameraTensors, ModelInputs, TokenLayout, build_model_inputs

MOST_GIVEN = 64  # frames that a walk of the denoiser begins with


class Video(NamedTuple):
    """An encoded video: what may be memory, each frame alone, and, if clips of it were encoded, what may be targets."""

    cameras: Cameras  # T, one per latent
    latents: np.ndarray  # [T, C, h, w]
    clips: np.ndarray | None = None  # [N, P, C, h, w]; None: targets are frames alone as well
    starts: np.ndarray | None = None  # int64 [N], rising: the frame before the targets of each clip
    captions: tuple[str, ...] | None = None  # N: what each clip shows


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How segments are drawn."""

    chunks: int = 8  # G: target chunks per segment
    max_stride: int = 3  # frames of the video between two frames of a chunk: 1 .. max_stride
    radius_m: float = 6.0  # chunks of a segment start within this distance of each other
    pool_frames: tuple[int, int] = (32, 256)  # how many frames of the video retrieval may choose from
    hidden_frames: tuple[int, int] = (4, 60)  # frames on both sides of the targets that memory may not show
    causal: float = 0.3  # share of chunks whose memory lies on one side in time, as in generation
    recent_only: float = 0.1  # share of batches without memory (paper section 3.5)
    random_context: float = 0.1  # share of chunks with unsuitable memory, so that the model learns to ignore it
    jump: float = 0.5  # share of chunks that begin up to max_jump frames after the recent frame: a sudden return
    max_jump: int = 64


@dataclass(frozen=True)
class Segment:
    """G chunks of one video with their shared pool of memory frames."""

    pool_index: np.ndarray  # int64 [M]: frames of the video
    target_index: np.ndarray  # int64 [G, P]
    inputs: ModelInputs  # context_index points into the pool

    @property
    def slots(self) -> int:
        return self.inputs.context_mask.shape[2]

    def shortened(self, slots: int) -> "Segment":
        """With the first `slots` context frames of each chunk."""
        inputs, few = self.inputs, slice(slots)
        inputs = replace(
            inputs,
            context_index=inputs.context_index[:, :, few],
            context_mask=inputs.context_mask[:, :, few],
            context_cameras=CameraTensors(*(part[:, :, few] for part in inputs.context_cameras)),
            context_positions=inputs.context_positions[few],
        )
        return replace(self, inputs=inputs)


def sample_segment(
    cameras: Cameras,
    layout: TokenLayout,
    retrieval: RetrievalConfig,
    config: SamplingConfig,
    rng: np.random.Generator,
    *,
    slots: Sequence[int] | None = None,
    shown: np.ndarray | None = None,
    made: np.ndarray | None = None,
    starts: np.ndarray | None = None,
) -> Segment:
    """Draw one segment from the cameras of a video, all of its context slots filled.

    slots: rising numbers of context slots that are allowed; the largest is aimed at, and where a place has not so many
        frames to remember, the next smaller one holds for the whole segment. None: 1 to `retrieval.max_context`.
    shown: bool [T], frames that retrieval may choose from; None: a random part of those nearby.
    made: bool [T], frames that the denoiser has made itself: chunks begin after one of them, and retrieval knows that
        they were not recorded. None: there are none.
    starts: int64 [N], frames that chunks may begin after: the next frames are targets, in walking order. None: any, at
        any step, forwards and backwards, and after a jump.
    """
    frames, steps = len(cameras), layout.num_targets
    slots = range(1, retrieval.max_context + 1) if slots is None else slots
    if starts is None:
        stride = int(rng.integers(1, config.max_stride + 1)) * int(rng.choice((-1, 1)))  # a static world runs backwards
        margin = abs(stride) * steps + (config.max_jump if config.jump else 0)
        if frames <= 2 * margin + 2:
            raise UserError(
                f"training: a video of {frames} frames is too short for chunks and jumps that span {margin}"
            )
        valid = np.arange(margin, frames - margin)
    else:
        stride, valid = 1, starts
        if not len(starts):
            raise UserError(f"training: a video of {frames} latents is too short for a clip of {steps}")
    valid = valid if made is None or not made[valid].any() else valid[made[valid]]
    centre = cameras.position[rng.choice(valid)]
    near = valid[np.linalg.norm(cameras.position[valid] - centre, axis=1) < config.radius_m]
    if shown is None:
        around = np.flatnonzero(np.linalg.norm(cameras.position - centre, axis=1) < 2.5 * config.radius_m)
        size = min(int(rng.integers(config.pool_frames[0], config.pool_frames[1] + 1)), len(around))
        shown = np.zeros(frames, bool)
        shown[rng.choice(around, size, replace=False)] = True
    wanted = slots[-1]
    limit = pool_size(config.chunks, wanted)

    drawn: list[tuple[np.ndarray, Retrieval]] = []
    fitting: list[int] = []  # those of the drawn that have as many frames as wanted and whose frames fit into the pool
    pool: set[int] = set()
    while len(fitting) < config.chunks and len(drawn) < 2 * config.chunks:
        start = int(rng.choice(near))
        targets = start + stride * np.arange(1, steps + 1)
        gap = int(rng.integers(config.max_jump)) if starts is None and rng.random() < config.jump else 0
        recent = int(start - np.sign(stride) * gap)
        allowed = shown.copy()
        if rng.random() < config.causal:
            # The past in walking order, up to the recent frame; nothing of the future.
            allowed[recent + 1 if stride > 0 else 0 : None if stride > 0 else recent] = False
        else:
            hidden = int(rng.integers(config.hidden_frames[0], config.hidden_frames[1] + 1))
            allowed[max(0, targets.min() - hidden) : targets.max() + hidden + 1] = False
        kind = "random" if rng.random() < config.random_context else retrieval.strategy
        rule, seed = replace(retrieval, strategy=kind, max_context=wanted), int(rng.integers(2**31))
        recorded = None if made is None else ~made
        found = retrieve(
            Candidates(cameras, allowed=allowed, recorded=recorded), cameras[targets], rule, recent=recent, seed=seed
        )
        drawn.append((targets, found))
        if len(found.frame_ids) == wanted and len(together := pool.union(found.frame_ids.tolist())) <= limit:
            fitting.append(len(drawn) - 1)
            pool = together
    if not fitting:
        most = max(len(found.frame_ids) for _, found in drawn)
        wanted = max((number for number in slots if number <= most), default=1)
        fitting = _that_fit([found.frame_ids for _, found in drawn], wanted, config.chunks)
    chunks = [drawn[fitting[row % len(fitting)]] for row in range(config.chunks)]  # where too few fit, some come again
    return _packed(cameras, layout, chunks, wanted)


def pool_size(chunks: int, slots: int) -> int:
    """Frames that the memory of a segment has at most: chunks near each other share about half of theirs."""
    return chunks if slots == 1 else max(slots, -(-3 * chunks * slots // 4))


def _that_fit(found: Sequence[np.ndarray], slots: int, chunks: int) -> list[int]:
    """Which of the drawn contexts are used when each may have `slots` frames, at most `chunks` of them."""
    fitting: list[int] = []
    pool: set[int] = set()
    for number, frame_ids in enumerate(found):
        together = pool.union(_first(frame_ids, slots).tolist())
        if len(frame_ids) >= slots and len(together) <= pool_size(chunks, slots) and len(fitting) < chunks:
            fitting.append(number)
            pool = together
    return fitting


def _first(frame_ids: np.ndarray, slots: int) -> np.ndarray:
    """The first picks, or what belongs to them, and that of the recent frame, which is last."""
    return np.append(frame_ids[: slots - 1], frame_ids[-1])


def _packed(
    cameras: Cameras, layout: TokenLayout, chunks: Sequence[tuple[np.ndarray, Retrieval]], slots: int
) -> Segment:
    """One segment of chunks (target frames and their context), each with its first `slots` context frames."""
    short = [
        replace(found, frame_ids=_first(found.frame_ids, slots), scores=_first(found.scores, slots))
        for _, found in chunks
    ]
    pool = np.unique(np.concatenate([found.frame_ids for found in short]))
    row = []
    for (targets, _), found in zip(chunks, short, strict=True):
        inputs = build_model_inputs(layout, cameras, cameras[targets], found, slots=slots)
        in_pool = torch.from_numpy(np.searchsorted(pool, inputs.context_index.numpy()))
        row.append(replace(inputs, context_index=in_pool))
    return Segment(pool, np.stack([targets for targets, _ in chunks]), ModelInputs.cat(row, dim=1))


@dataclass(frozen=True)
class SelfWalk:
    """A walk of the denoiser along a video: what it has to remember, and the frames that it makes anew."""

    recorded: np.ndarray  # int64 [N]: frames of the video; the walk begins at the last of them
    made: np.ndarray  # int64 [L P]: frames of the video, in walking order

    def masks(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Which frames of the video are its memory in the end, and which of them it has made; both bool [frames]."""
        shown, made = np.zeros(frames, bool), np.zeros(frames, bool)
        made[self.made] = True
        shown[self.recorded] = True
        return shown | made, made


def draw_walk(cameras: Cameras, config: SamplingConfig, length: int, rng: np.random.Generator) -> SelfWalk:
    """Draw a walk of `length` frames along a video. It remembers its start and from none to many frames beside the way,
    so that it goes through known places as well as new ones."""
    frames = len(cameras)
    most = min(config.max_stride, (frames - 1) // length)
    if most < 1:
        raise UserError(f"training: a video of {frames} frames is too short for a walk of {length}")
    stride = int(rng.integers(1, most + 1))
    start = int(rng.integers(0, frames - length * stride))
    made = start + stride * np.arange(1, length + 1)
    if rng.random() < 0.5:
        made, start = frames - 1 - made, frames - 1 - start  # the video backwards
    near = np.linalg.norm(cameras.position - cameras.position[start], axis=1) < 2.5 * config.radius_m
    near[made], near[start] = False, False
    others = np.flatnonzero(near)
    count = min(int(MOST_GIVEN ** rng.random()) - 1, len(others))
    return SelfWalk(np.append(rng.choice(others, count, replace=False), start).astype(np.int64), made)


@dataclass(frozen=True)
class DenoiserBatch:
    """S segments by number: which frames are memory and which are targets, and everything that is not a picture.

    Frames are numbered through all videos, in the order of a `LatentSource`, where their latents lie; targets of clips
    are numbered apart from them.
    """

    pool_frames: Tensor  # int64 [S, M]
    target_frames: Tensor  # int64 [S G, P]
    own: Tensor  # bool [S]: whether memory is what the denoiser made of these frames, where it has made something
    inputs: ModelInputs
    # Where latents are not where the model is, they travel with the batch: float16 [S, C, M, h, w], [S G, C, P, h, w].
    pool: Tensor | None = None
    targets: Tensor | None = None
    words: Tensor | None = None  # [S G, L, D]: rows of the prompts, zeros after their end
    no_words: Tensor | None = None  # [S, L, D]: rows of the empty prompt, with which memory is read

    def to(self, device: torch.device) -> "DenoiserBatch":
        pool, targets, own = (tensor.to(device) for tensor in (self.pool_frames, self.target_frames, self.own))
        others = (self.pool, self.targets, self.words, self.no_words)
        moved = [None if tensor is None else tensor.to(device) for tensor in others]
        return DenoiserBatch(pool, targets, own, self.inputs.to(device), *moved)


def collate(
    segments: Sequence[Segment],
    first_frames: Sequence[int],
    own: Sequence[bool] | None = None,
    size: int | None = None,
    target_frames: Sequence[np.ndarray] | None = None,
) -> DenoiserBatch:
    """Join segments; short pools are filled up with their first frame.

    first_frames: the number of each segment's first video frame, where frames are numbered through all videos.
    target_frames: [G, P] each, numbers of targets that are numbered apart; None: targets are frames too.
    own: see `DenoiserBatch`; None: no segment. size: frames of every pool; None: as many as the longest has.
    """
    size = size or max(len(segment.pool_index) for segment in segments)
    pools, targets = [], []
    for row, (segment, first) in enumerate(zip(segments, first_frames, strict=True)):
        index = segment.pool_index
        pools.append(first + np.concatenate([index, np.repeat(index[:1], size - len(index))]))
        targets.append(first + segment.target_index if target_frames is None else target_frames[row])
    inputs = ModelInputs.cat([segment.inputs for segment in segments], dim=0)
    flags = torch.tensor([False] * len(segments) if own is None else list(own))
    return DenoiserBatch(torch.from_numpy(np.stack(pools)), torch.from_numpy(np.concatenate(targets)), flags, inputs)


class LatentSource(Protocol):
    """Latents of many videos, frames numbered through all of them."""

    first_frames: np.ndarray  # int64 [videos + 1]: the number of each video's first frame, and of all frames

    def read(self, frames: Tensor) -> Tensor:
        """Latents of frames [N, F] as the model takes them, float32 [N, C, F, h, w]."""
        ...


class MappedLatents:
    """Latents that stay on disk; only those that are asked for are read. Equal to `LatentStore`, on the CPU."""

    def __init__(self, videos: Sequence[np.ndarray]) -> None:
        """videos: latents [T, C, h, w] each, memory-mapped, all of one shape but for T."""
        self.videos = list(videos)
        self.first_frames = np.cumsum([0] + [len(latents) for latents in videos])

    def read(self, frames: Tensor) -> Tensor:
        """Latents of frames [N, F] as the model takes them, float32 [N, C, F, h, w]."""
        return self.stored(frames).float()

    def stored(self, frames: Tensor) -> Tensor:
        """As `read`, in the number format of the disk, float16: [N, C, F, h, w]."""
        numbers = frames.cpu().numpy()
        found = np.empty((*numbers.shape, *self.videos[0].shape[1:]), np.float16)
        for place, number in np.ndenumerate(numbers):
            video = int(np.searchsorted(self.first_frames, number, side="right")) - 1
            found[place] = self.videos[video][number - self.first_frames[video]]
        return torch.from_numpy(found).transpose(1, 2)


class LatentStore:
    """Latents of many videos where the model is, frames numbered through all of them: one float16 tensor."""

    def __init__(self, videos: Sequence[np.ndarray], device: torch.device) -> None:
        """videos: latents [T, C, h, w] each, all of one shape but for T."""
        self.first_frames = np.cumsum([0] + [len(latents) for latents in videos])
        shape = (int(self.first_frames[-1]), *videos[0].shape[1:])
        self.latents = torch.empty(shape, dtype=torch.float16, device=device)
        for first, latents in zip(self.first_frames[:-1], videos, strict=True):
            self.latents[first : first + len(latents)] = torch.from_numpy(np.array(latents, np.float16))

    def read(self, frames: Tensor) -> Tensor:
        """Latents of frames [N, F] as the model takes them, float32 [N, C, F, h, w]."""
        return self.latents[frames].float().transpose(1, 2)
