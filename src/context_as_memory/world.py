"""The world: reset, step, rollout. The whole method is `World.step`; there is no other generation loop.

world = World.from_pretrained("default")
world.reset(start_frames, start_cameras)
for chunk in world.rollout(cameras):
    show(chunk.frames_u8)

A world lives in working memory, or in the store that it is given: `storage.create_world` and `storage.open_world` make
worlds that live in a folder.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from context_as_memory.adapters.text import said
from context_as_memory.camera import Cameras
from context_as_memory.codec import VideoCodec
from context_as_memory.compute import pick_device
from context_as_memory.diffusion import TIMESTEPS, FlowMatching, sample_flow
from context_as_memory.engine import ContextCache, Engine, open_engine
from context_as_memory.errors import UserError
from context_as_memory.front_door import FrontDoor
from context_as_memory.machine import Clock
from context_as_memory.memory import MemoryBank
from context_as_memory.retrieval import CachedIndex, Candidates, Retrieval, RetrievalConfig, retrieve
from context_as_memory.seeds import draw_seed
from context_as_memory.shapes import Float, UInt8
from context_as_memory.stores import RamStore, Store
from context_as_memory.tokens import ModelInputs, TokenLayout, build_model_inputs
from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import open_model


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """How a world is generated. Saved as `model.json` beside the weights."""

    width: int = 160
    height: int = 96
    chunk_latents: int = 4  # target latents per chunk; times the codec's temporal factor gives frames
    num_steps: int = 4  # sampling steps per chunk
    multistep: bool = True  # of second order; False: Euler's, as in worlds that were made before there was a choice
    flow: FlowMatching = field(default_factory=FlowMatching)  # of sampling
    seed: int = 0
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    memory_noise: float = 0.0  # on generated frames in the context: faults are not copied on and on (arXiv 2502.06764)
    cached_frames: int = 32  # frames whose keys and values are cached from chunk to chunk (`per_frame` only)
    prompt: str = ""  # and what to lead away from by which guidance, for weights that read text; 1: by none
    negative: str = ""
    guidance: float = 1.0
    engine: str = "auto"  # what runs the networks, one of `engine.ENGINES`; a world file says which it was


@dataclass(frozen=True)
class Chunk:
    """What one step returns: new frames, where they were seen from, what was remembered, and what it cost."""

    frames_u8: UInt8[np.ndarray, "t H W 3"]
    cameras: Cameras  # t
    retrieval: Retrieval  # entry i of the bank is frame i, start frames first
    seconds: dict[str, float]  # retrieve, denoise, decode, encode (with `World.depth`, if that is set)


class World(FrontDoor):
    """A generated world: a denoiser, a codec and a memory of every frame so far.

    depth: None, or what estimates depth profiles [T, PROFILE] of frames uint8 [T, H, W, 3] and their T cameras, such as
    `adapters.depth.DepthEstimator`. While it is set, frames are remembered with their profiles, for the strategy
    `visible`. No store holds it: an opened world goes on bit for bit only if the same estimator is set again.
    """

    def __init__(
        self,
        model: WorldTransformer,
        codec: VideoCodec,
        config: WorldConfig,
        device: str = "auto",
        store: Store | None = None,
    ) -> None:
        """`store`: what to live in and to continue; working memory if None."""
        self.device = pick_device(device)
        self.model, self.codec, self.config = model, codec, config
        self.depth: Callable[[np.ndarray, Cameras], np.ndarray] | None = None
        self.weights_sha256: str | None = None  # of the folder that the networks were read from
        self.prompt, self.guidance = config.prompt, config.guidance  # of the next chunk; noted with each
        self.bank = MemoryBank(store)
        self.steps = self.bank.store.steps  # numbers the noise of a chunk; with the seed it is the whole random state
        self.first_entry = 0  # what the first entry of the bank was called before a copy: numbers the noise of entries
        self._read, self._index = ContextCache(config.cached_frames), CachedIndex()  # to save time; they choose nothing

    @cached_property
    def engine(self) -> Engine:
        """What runs the networks; made when it is first needed."""
        chunk = self.config.chunk_latents, self.config.height, self.config.width
        return open_engine(self.model, self.codec, self.config.engine, self.device, chunk)

    @classmethod
    def from_pretrained(cls, name: str | Path = "default", *, device: str = "auto", **changes: object) -> "World":
        """Load a model folder (`default` is shipped with the package).

        `changes` override fields of the saved `WorldConfig`, e.g. `seed=1`, `num_steps=8` or
        `retrieval=RetrievalConfig(strategy="paper")`. Raises `UserError` for missing, damaged or foreign weights.
        """
        found = open_model(name, WorldConfig, pick_device(device))
        world = cls(found.model, found.codec, replace(found.settings, **changes), device)
        world.weights_sha256 = found.sha256
        return world

    def close(self) -> None:
        """Close the store; every finished chunk is in it already."""
        self.bank.store.close()

    # -- the method ----------------------------------------------------------------------------------------------

    def reset(self, frames_u8: np.ndarray, cameras: Cameras, profiles_m: np.ndarray | None = None) -> None:
        """Forget everything and start from T >= 1 frames, uint8 [T, H, W, 3], their cameras and, if known, their depth
        profiles (see `remember`).

        A store that lasts never forgets: with a history it refuses, and `rewind` or `fork` are what is meant.
        """
        if len(frames_u8) == 0:
            raise UserError("world: no start frame; give at least one picture and its camera")
        before = self.bank
        if isinstance(before.store, RamStore):
            self.bank = MemoryBank()
        elif len(before):
            raise UserError("world: its file has a history; rewind or fork it instead of a reset")
        try:
            self.remember(frames_u8, cameras, profiles_m)
        except BaseException:
            self.bank = before  # bad start frames leave the world as it was
            raise
        self.steps = self.first_entry = 0

    @torch.inference_mode()
    def remember(self, frames_u8: np.ndarray, cameras: Cameras, profiles_m: np.ndarray | None = None) -> None:
        """Add frames that were not generated here, uint8 [T, H, W, 3], to the memory, each encoded alone.

        profiles_m: depths along the horizon, [T, PROFILE] metres (`camera.horizon_profile` makes them of depth
        maps); the strategy `visible` uses them. None: what `depth` estimates, if that is set.
        """
        size = (self.config.width, self.config.height)
        if (cameras.width, cameras.height) != size or frames_u8.shape[1:3] != size[::-1]:
            raise UserError(
                f"world: start frames are {frames_u8.shape[2]}x{frames_u8.shape[1]}, these weights make "
                f"{size[0]}x{size[1]}; use formats.pictures.fit_frame and Cameras.resized"
            )
        for start in range(0, len(frames_u8), 64):
            part = slice(start, start + 64)
            pictures, seen_from = frames_u8[part], cameras[part]
            depths = self._profiles_m(pictures, seen_from) if profiles_m is None else profiles_m[part]
            self.bank.append(pictures, seen_from, self.engine.pictures.encode(pictures), profiles_m=depths)

    @torch.inference_mode()
    def step(
        self, cameras: Cameras, *, retrieval: RetrievalConfig | Retrieval | None = None, commit: bool = True
    ) -> Chunk:
        """Generate the next chunk along 1 to `chunk_frames` cameras and remember it.

        `retrieval` overrides the configured strategy for this chunk, or is the context itself (to ask what a wrong
        memory does); `commit=False` leaves the memory as it is (to compare strategies on one memory).
        """
        wanted, clock = len(cameras), Clock()
        if not 1 <= wanted <= self.chunk_frames:
            raise UserError(
                f"world: a step takes 1 to {self.chunk_frames} cameras, got {wanted}; use rollout for longer paths"
            )
        path = self._padded(cameras)
        targets = path[self.codec.temporal_factor - 1 :: self.codec.temporal_factor]  # one camera per latent
        seed = draw_seed(self.config.seed, self.steps)
        rule = retrieval or self.config.retrieval
        found = rule if isinstance(rule, Retrieval) else self._retrieve(targets, rule, seed)
        clock.lap("retrieve")
        layout = TokenLayout(num_targets=self.config.chunk_latents, max_context=len(found.frame_ids))
        inputs = build_model_inputs(layout, self.bank.cameras, targets, found)
        latents = self._denoise(inputs, seed)
        clock.lap("denoise")
        frames_u8 = self.engine.pictures.decode(self.bank.latents(np.array([len(self.bank) - 1])), latents)[:wanted]
        clock.lap("decode")
        if commit:
            self.bank.store.expect(frames_u8)
            # Memory is made of pictures (paper section 1.1): what is stored is what a viewer saw, encoded alone.
            stored = self.engine.pictures.encode(frames_u8)
            note: dict[str, object] = {
                "step": self.steps,
                "context": found.frame_ids.tolist(),
                "scores": [round(score, 4) for score in found.scores.tolist()],
                "retrieval": "given" if isinstance(rule, Retrieval) else asdict(rule),
                "made_with": self.engine.made_with,
            }
            note |= {} if self.model.words is None else {"prompt": self.prompt, "guidance": self.guidance}
            self.bank.append(frames_u8, cameras, stored, note, self._profiles_m(frames_u8, cameras))
            self.steps += 1
        clock.lap("encode")
        return Chunk(frames_u8, cameras, found, clock.seconds)

    def rollout(self, cameras: Cameras, choose: Callable[[Cameras], Retrieval] | None = None) -> Iterator[Chunk]:
        """Walk along any number of cameras, chunk by chunk; stop reading to stop walking. `choose` is asked for the
        context of each chunk, given its cameras; None: the configured rule."""
        for start in range(0, len(cameras), self.chunk_frames):
            targets = cameras[start : start + self.chunk_frames]
            yield self.step(targets, retrieval=None if choose is None else choose(targets))

    # -- pieces --------------------------------------------------------------------------------------------------

    @property
    def chunk_frames(self) -> int:
        """New frames per step."""
        return self.config.chunk_latents * self.codec.temporal_factor

    def _profiles_m(self, frames_u8: np.ndarray, cameras: Cameras) -> np.ndarray | None:
        """Estimated depth profiles [T, PROFILE] of new frames; None where nothing estimates them."""
        return None if self.depth is None else self.depth(frames_u8, cameras)

    def _retrieve(self, targets: Cameras, rule: RetrievalConfig, seed: int) -> Retrieval:
        """The context for these targets by a rule, from all that the memory holds and knows."""
        bank = self.bank
        stored = Candidates(bank.cameras, bank.offered(), ~bank.generated, bank.profiles_m)
        return retrieve(stored, targets, rule, recent=len(bank) - 1, index=self._index.over(bank, rule), seed=seed)

    def _padded(self, cameras: Cameras) -> Cameras:
        """A path that ends inside a chunk stands still to its end; the surplus frames are cut off again."""
        missing = self.chunk_frames - len(cameras)
        return Cameras.concat([cameras, *[cameras[-1]] * missing]) if missing else cameras

    def _context_latents(self, entries: list[int]) -> Float[Tensor, "c k h w"]:
        """Latents of bank entries as the denoiser is given them, [C, K, h, w]; those of generated frames with their own
        bit of noise, always the same."""
        latents = self.bank.latents(np.array(entries))
        if not self.config.memory_noise:
            return latents
        noise = torch.zeros_like(latents)
        for row, entry in enumerate(entries):
            if self.bank.generated[entry]:
                generator = torch.Generator().manual_seed(draw_seed(self.config.seed, -1 - self.first_entry - entry))
                noise[:, row] = torch.randn(latents[:, row].shape, generator=generator)
        return latents + self.config.memory_noise * noise

    def _denoise(self, inputs: ModelInputs, seed: int) -> Tensor:
        """Sample target latents [1, C, P, h, w]. The context is read once, its keys and values go into every step."""
        entries = inputs.context_index[0, 0].tolist()
        context = self._context_latents(entries)
        denoiser, flow = self.engine.denoiser, self.config.flow
        cached = self._read.read(self.bank, entries, lambda some: denoiser.read(self._context_latents(some)))
        told = said(self.model.words, self.prompt, self.config.negative, self.guidance)
        network = denoiser.place(context, inputs, cached, told)
        shape = (1, len(context), self.config.chunk_latents, *context.shape[2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            return flow.velocity_of(network(noisy, float(timestep[0])), noisy, timestep / TIMESTEPS)

        return sample_flow(predict, noise, flow.sampling_sigmas(self.config.num_steps), self.config.multistep)
