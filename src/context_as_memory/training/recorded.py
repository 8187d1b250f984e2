"""Training samples from recorded videos whose latents lie on disk, drawn by worker processes while training goes on.

Videos whose frames are encoded alone, and nothing else, are few and small here: their latents lie where the model is.
Videos with clips are those of large video models: their latents stay on disk, and the worker processes read what a
batch needs, with the rows of its prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.data.dataset import (
    DenoiserBatch,
    LatentSource,
    LatentStore,
    MappedLatents,
    SamplingConfig,
    Segment,
    SelfWalk,
    Video,
    collate,
    draw_walk,
    sample_segment,
)
from context_as_memory.data.precompute import prompt_key
from context_as_memory.errors import UserError
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.tokens import TokenLayout
from context_as_memory.training.rollout import plan_rollout
from context_as_memory.training.self_memory import SelfMemory, SelfWalkConfig, WalkJob

TRIES = 4  # draws of a segment until it has as many context frames as wanted


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a source of samples must know of a recipe."""

    sampling: SamplingConfig
    retrieval: RetrievalConfig
    layout: TokenLayout
    segments: int  # of a batch
    slots: tuple[int, ...]  # numbers of context frames, rising; a batch without memory has one
    self_share: float  # share of segments whose memory is own frames
    walks: SelfWalkConfig
    seed: int
    words_dropped: float = 0.1  # share of chunks that are told nothing, where there are words
    words_of_the_video: float = 0.5  # share of the others that are told one caption of their video, as walks are
    text_length: int = 512  # rows of a prompt that the denoiser is given, zeros after its own

    def wanted(self, rng: np.random.Generator) -> tuple[int, ...]:
        """The numbers of context frames that a batch may have; it aims at the last."""
        most = 1 if rng.random() < self.sampling.recent_only else int(rng.choice(self.slots))
        return tuple(sorted({1, *(number for number in self.slots if number <= most)})) if most > 1 else (1,)

    def segment(
        self,
        cameras: Cameras,
        slots: Sequence[int],
        walk: SelfWalk | None,
        rng: np.random.Generator,
        starts: np.ndarray | None = None,
    ) -> Segment:
        """A segment from a video; around a walk of the denoiser, if there is one. starts: [n], see `sample_segment`."""
        shown, made = walk.masks(len(cameras)) if walk else (None, None)
        layout, rule, sampling = replace(self.layout, max_context=slots[-1]), self.retrieval, self.sampling
        return sample_segment(cameras, layout, rule, sampling, rng, slots=slots, shown=shown, made=made, starts=starts)

    def walk(self, cameras: Cameras, rng: np.random.Generator) -> SelfWalk:
        return draw_walk(cameras, self.sampling, self.walks.chunks * self.layout.num_targets, rng)


class RecordedVideos:
    """A batch is a pure function of step and rank.

    videos: `Video`s, or cameras and latents; with clips all of them, or none.
    prompts: rows [L, D] by `prompt_key`, for denoisers that read words; None for others.
    """

    def __init__(
        self,
        videos: Sequence[Video | tuple[Cameras, np.ndarray]],
        drawing: Drawing,
        device: torch.device,
        prompts: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.videos = [Video(*video) for video in videos]
        self.cameras = [video.cameras for video in self.videos]
        self.drawing, self.device, self.prompts = drawing, device, prompts
        latents, clips = [video.latents for video in self.videos], [video.clips for video in self.videos]
        self.clips: MappedLatents | None = None
        self.store: LatentSource
        if clips[0] is None:
            self.store = LatentStore(latents, device)
        else:
            self.store = MappedLatents(latents)
            wanted = drawing.layout.num_targets
            if wanted != clips[0].shape[1]:
                raise UserError(
                    f"training: the cache has clips of {clips[0].shape[1]} latents, the recipe asks for {wanted}; "
                    "encode into another --cache folder"
                )
            self.clips = MappedLatents([clip.reshape(-1, *clip.shape[2:]) for clip in clips if clip is not None])
        if prompts is not None and prompt_key("") not in prompts:
            raise UserError(
                "training: the cache has no rows of captions; run `cam encode` with weights that read words"
            )
        frames, shape = int(self.store.first_frames[-1]), latents[0].shape[1:]
        self.own = SelfMemory(frames, shape, device) if drawing.self_share and self.clips is None else None

    def read(self, frames: Tensor) -> Tensor:
        """Latents of frames [N, F] as the model takes them, float32 [N, C, F, h, w]."""
        return self.store.read(frames).to(self.device)

    def batch(self, step: int, rank: int) -> DenoiserBatch:
        """All segments have the same number of context frames, so that short contexts cost less."""
        drawing = self.drawing
        rng = np.random.default_rng((drawing.seed, step, rank))
        slots = drawing.wanted(rng)
        round_done = drawing.walks.round_at(step) - 1
        segments, first_frames, own, chosen = [], [], [], []
        for _ in range(drawing.segments):
            walk, video = None, int(rng.integers(len(self.cameras)))
            if self.own is not None and round_done >= 0 and rng.random() < drawing.self_share:
                video, walk = self._walk(round_done, int(rng.integers(drawing.walks.walks)))
            for _ in range(TRIES):
                segment = drawing.segment(self.cameras[video], slots, walk, rng, self.videos[video].starts)
                if segment.slots == slots[-1]:
                    break
            segments.append(segment)
            first_frames.append(int(self.store.first_frames[video]))
            own.append(walk is not None)
            chosen.append(video)
        fewest = min(segment.slots for segment in segments)
        segments = [segment.shortened(fewest) for segment in segments]
        alone = self.clips is None
        batch = collate(segments, first_frames, own) if alone else self.of_clips(segments, chosen)
        return self.told(batch, segments, chosen, rng)

    def of_clips(self, segments: Sequence[Segment], videos: Sequence[int]) -> DenoiserBatch:
        """Segments of clips, of videos by number, as one batch with all its latents."""
        assert self.clips is not None and isinstance(self.store, MappedLatents)
        first_frames = [int(self.store.first_frames[video]) for video in videos]
        numbers = []
        for segment, video in zip(segments, videos, strict=True):
            steps = segment.target_index.shape[1]
            row = int(self.clips.first_frames[video]) + steps * self._clip(segment, video)
            numbers.append(row[:, None] + np.arange(steps))
        batch = collate(segments, first_frames, target_frames=numbers)
        pool, targets = self.store.stored(batch.pool_frames), self.clips.stored(batch.target_frames)
        return replace(batch, pool=pool, targets=targets)

    def _clip(self, segment: Segment, video: int) -> np.ndarray:
        """Which clip of its video each chunk is, [G]."""
        starts = self.videos[video].starts
        assert starts is not None
        return np.searchsorted(starts, segment.target_index[:, 0] - 1)

    def told(
        self, batch: DenoiserBatch, segments: Sequence[Segment], videos: Sequence[int], rng: np.random.Generator | None
    ) -> DenoiserBatch:
        """The batch with the rows of its prompts, where the denoiser reads words. rng: None to tell every chunk its own
        caption."""
        if self.prompts is None:
            return batch
        texts = []
        for segment, video in zip(segments, videos, strict=True):
            captions = self.videos[video].captions
            own = ("",) * len(segment.target_index)
            if captions is not None:
                own = tuple(captions[number] for number in self._clip(segment, video))
            for text in own:
                if rng is not None and captions is not None:
                    if rng.random() < self.drawing.words_dropped:
                        text = ""
                    elif rng.random() < self.drawing.words_of_the_video:
                        text = captions[int(rng.integers(len(captions)))]
                texts.append(text)
        words = torch.stack([self._rows(text) for text in texts])
        return replace(batch, words=words, no_words=torch.stack([self._rows("")] * len(segments)))

    def _rows(self, text: str) -> Tensor:
        """Rows of a prompt and zeros, [text_length, D]."""
        assert self.prompts is not None
        rows = self.prompts.get(prompt_key(text))
        if rows is None:
            raise UserError(f"training: the cache has no rows of the caption {text[:60]!r}; run `cam encode` again")
        rows = rows[: self.drawing.text_length]
        return torch.cat((rows, rows.new_zeros(self.drawing.text_length - len(rows), rows.shape[1])))

    def blanks(self) -> list[DenoiserBatch]:
        return []  # shapes vary

    def _walk(self, number: int, row: int) -> tuple[int, SelfWalk]:
        """Walk `row` of a round: everybody who needs it draws it again."""
        rng = np.random.default_rng((self.drawing.seed, 77, number, row))
        video = int(rng.integers(len(self.cameras)))
        return video, self.drawing.walk(self.cameras[video], rng)

    def walks(self, number: int) -> list[WalkJob]:
        jobs = []
        for row in range(self.drawing.walks.walks):
            video, walk = self._walk(number, row)
            entries = np.concatenate([walk.recorded, walk.made])
            cameras, first = self.cameras[video][entries], int(self.store.first_frames[video])
            plan = plan_rollout(cameras, len(walk.recorded), self.drawing.layout, self.drawing.retrieval, seed=row)
            recorded, made = (torch.from_numpy(first + part).to(self.device) for part in (walk.recorded, walk.made))
            jobs.append(WalkJob(video, plan, recorded, made))
        return jobs

    def keep(self, jobs: Sequence[WalkJob], made: Tensor, good: Tensor) -> None:
        """Take what a round has made: latents [W, L P, C, h, w], and which are good enough, bool [W, L P]."""
        assert self.own is not None
        for job, latents, fine in zip(jobs, made, good, strict=True):
            self.own.keep(job.made, latents, fine)
