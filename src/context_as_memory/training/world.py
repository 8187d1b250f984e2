"""Training of the denoiser (`cam train world`)."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..camera import Cameras
from ..codec import ImageAutoencoder, Perceptual, VideoCodec
from ..compute import fast, generator_on, pick_device
from ..data.dataset import LatentStore, SamplingConfig, Segment, WorldBatch, collate, sample_segment
from ..data.precompute import encode_dataset, read_latents
from ..diffusion import TIMESTEPS, FlowMatching, add_noise, clean_from_velocity, sample_flow, velocity
from ..errors import UserError
from ..retrieval import RetrievalConfig
from ..tokens import ModelInputs, TokenLayout
from ..transformer import TransformerConfig, WorldTransformer
from ..video import VideoWriter, to_frames
from ..weights import fingerprint, from_pretrained, load_weights, resolve, save_pretrained
from .distil import jump
from .own_frames import OwnFrames
from .perceptual import perceptual_price
from .trainer import TrainConfig, Trainer
from .weather import weathered


@dataclass(frozen=True, kw_only=True)
class WorldRecipe:
    """Everything that defines a training run of the denoiser. `train.batch_size` counts chunks."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    flow: FlowMatching = field(default_factory=FlowMatching)
    train: TrainConfig = field(default_factory=TrainConfig)
    chunk_latents: int = 4
    num_steps: int = 4  # sampling steps saved with the weights and used for samples
    sampling_shift: float = 1.0
    multistep: bool = True  # saved with the weights: sampling steps of second order
    min_context: int = 2  # context slots of a batch are drawn from min_context .. retrieval.max_context
    context_noise: float = 0.15  # up to this much noise on memory: generated memory is never perfect
    memory_noise: float = 0.0  # saved with the weights: noise on generated frames when they are memory
    own_frames: float = 0.0  # share of segments whose memory is, for the most part, what the denoiser made of them
    weathered: float = 0.0  # share of segments whose memory has suffered, see `weather`
    perceptual: float = 0.0  # gradient of the perceptual distance, as a share of that of the velocity loss
    teacher_steps: int = 0  # distillation: steps of the frozen start (`--init`) in each of `num_steps`, see `distil`

    @property
    def sampling_flow(self) -> FlowMatching:
        """The noise levels of sampling."""
        return replace(self.flow, shift=self.sampling_shift)


Video = tuple[Cameras, np.ndarray]  # cameras and latents [T, C, h, w] of an episode


class WorldTask:
    """Velocity loss on the targets of packed segments."""

    def __init__(
        self,
        recipe: WorldRecipe,
        videos: list[Video],
        held_out: list[Video],
        device: torch.device,
        codec: VideoCodec | None = None,
        own_frames: OwnFrames | None = None,
        perceptual: Perceptual | None = None,
        teacher: WorldTransformer | None = None,
    ) -> None:
        self.recipe, self.codec = recipe, codec
        self.cameras = [cameras for cameras, _ in videos]
        self.latents = LatentStore([latents for _, latents in videos], device)
        self.held_out = held_out
        self.own_frames, self.perceptual, self.teacher = own_frames, perceptual, teacher
        self.layout = TokenLayout(num_targets=recipe.chunk_latents, max_context=recipe.retrieval.max_context)
        self.segments = max(1, recipe.train.batch_size // recipe.sampling.chunks)

    def _draw(self, rng: np.random.Generator, slots: int) -> tuple[Segment, int]:
        number = int(rng.integers(len(self.cameras)))
        layout = replace(self.layout, max_context=slots)
        rule = replace(self.recipe.retrieval, max_context=slots)
        segment = sample_segment(self.cameras[number], layout, rule, self.recipe.sampling, rng)
        return segment, int(self.latents.first_frames[number])

    def batch(self, step: int, rank: int) -> WorldBatch:
        """All segments of a batch have the same number of context slots, so that short contexts cost less."""
        rng = np.random.default_rng((self.recipe.train.seed, step, rank))
        slots = int(rng.integers(self.recipe.min_context, self.layout.max_context + 1))
        segments, first_frames = zip(*(self._draw(rng, slots) for _ in range(self.segments)), strict=True)
        return collate(segments, first_frames)

    def loss(self, model: Any, batch: WorldBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the velocity; loss on targets only, since only they are noisy (paper section 3.1)."""
        recipe = self.recipe
        targets = self.latents.read(batch.target_frames)
        pixels = generator_on(targets.device, generator)  # random numbers for every latent are drawn where they lie

        def normal(shape: torch.Size) -> Tensor:
            return torch.randn(shape, generator=pixels, device=targets.device)

        pool = weathered(self._as_generated(batch, generator), recipe.weathered, generator)
        level = torch.rand(pool.shape[0], 1, pool.shape[2], 1, 1, generator=generator).to(pool.device)
        pool = pool + recipe.context_noise * level * normal(pool.shape)
        noise = normal(targets.shape)
        if self.teacher is None:
            sigma = recipe.flow.training_sigmas(len(targets), generator)
            believed = sigma < 0.75  # clean frames of later steps; those of the first are blurrier than any result
        else:
            grid = recipe.sampling_flow.sampling_sigmas(recipe.num_steps)
            number = torch.randint(recipe.num_steps, (len(targets),), generator=generator)
            sigma = grid[number]
            believed = number == recipe.num_steps - 1
        sigma = sigma.to(targets.device)
        noisy = add_noise(targets, noise, sigma)
        if self.teacher is None:
            goal = velocity(targets, noise)
        else:
            until = grid[number + 1].to(targets.device)
            goal = jump(self.teacher, recipe.flow, noisy, sigma, until, recipe.teacher_steps, pool, batch.inputs)
        output = model.predict(noisy, sigma * TIMESTEPS, pool, batch.inputs).float()
        predicted = recipe.flow.velocity_of(output, noisy, sigma)
        error = (predicted - goal).square().mean(dim=(1, 2, 3, 4))
        loss = error.mean()
        figures = {"context_slots": float(batch.inputs.context_mask.shape[2])}
        high = sigma > 0.5
        if high.any():
            figures["loss_high_noise"] = error[high].mean().item()
        clean = clean_from_velocity(noisy, predicted, sigma)
        if self.own_frames is not None:
            rows = believed.to(targets.device)
            self.own_frames.keep(batch.target_frames[rows], clean.detach()[rows])
            figures["own_frames"] = self.own_frames.share
        if self.perceptual is not None and recipe.perceptual:
            assert self.codec is not None
            level = sigma if self.teacher is None else torch.where(believed.to(sigma.device), sigma, 1.0)
            price = perceptual_price(self.codec, self.perceptual, clean, targets, level, generator)
            figures["perceptual"] = price.item()
            ours, its = (torch.autograd.grad(x, output, retain_graph=True)[0].norm() for x in (loss, price))
            loss = loss + recipe.perceptual * ours / its.clamp_min(1e-12) * price
        return loss, figures

    def _as_generated(self, batch: WorldBatch, generator: torch.Generator) -> Tensor:
        """The pool of memory frames; in a share of the segments most of those that the denoiser has made are its."""
        pool = self.latents.read(batch.pool_frames)
        if self.own_frames is None:
            return pool
        segments = len(pool)
        chosen = torch.rand(segments, 1, generator=generator) < self.recipe.own_frames
        share = torch.rand(segments, 1, generator=generator).sqrt()  # mostly own frames, beside some recorded ones
        own = torch.rand(batch.pool_frames.shape, generator=generator) < share
        made, known = self.own_frames.read(batch.pool_frames)
        replaced = (chosen & own).to(known.device) & known
        return torch.where(replaced.view(segments, 1, -1, 1, 1), made, pool)

    def sample(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        """Generate fixed validation chunks with memory and with the recent frame only, and write them."""
        if not self.held_out or self.codec is None:
            return {}
        device = next(model.parameters()).device
        store = LatentStore([latents for _, latents in self.held_out], device)
        batch = self._validation_batch(store).to(device)
        targets, pool = store.read(batch.target_frames), store.read(batch.pool_frames)
        without = replace(batch.inputs, context_mask=batch.inputs.context_mask.clone())
        without.context_mask[:, :, 1:] = False
        generated = {}
        for name, inputs in (("memory", batch.inputs), ("recent_only", without)):
            generated[name] = self._generate(model, targets.shape, pool, inputs)
        truth = self._pictures(targets)
        figures = {}
        for name, latents in generated.items():
            pictures = self._pictures(latents)
            mse = (pictures - truth).square().mean(dim=(1, 2, 3, 4))
            figures[f"{name}_psnr_db"] = (10 * torch.log10(4 / mse)).mean().item()
            generated[name] = pictures
        _write_samples(folder / f"{step:06d}", [truth, generated["memory"], generated["recent_only"]])
        return figures

    def _validation_batch(self, store: LatentStore) -> WorldBatch:
        """Two chunks of each held-out video that begin far from the recent frame; the same ones every time."""
        rng = np.random.default_rng(1234)
        rule = replace(
            self.recipe.sampling,
            chunks=2,
            causal=0.0,
            recent_only=0.0,
            random_context=0.0,
            jump=1.0,
        )
        segments = [
            sample_segment(cameras, self.layout, self.recipe.retrieval, rule, rng) for cameras, _ in self.held_out
        ]
        return collate(segments, store.first_frames[:-1].tolist())

    def _generate(self, model: Any, shape: torch.Size, pool: Tensor, inputs: ModelInputs) -> Tensor:
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(pool.device)
        flow = self.recipe.sampling_flow

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            output = model.predict(noisy, timestep, pool, inputs).float()
            return flow.velocity_of(output, noisy, timestep / TIMESTEPS)

        return sample_flow(predict, noise, flow.sampling_sigmas(self.recipe.num_steps), self.recipe.multistep)

    def _pictures(self, latents: Tensor) -> Tensor:
        assert self.codec is not None
        return self.codec.decode(latents).float().clamp(-1, 1).cpu()


def _write_samples(stem: Path, rows: list[Tensor]) -> None:
    """First eight chunks; truth, with memory, recent frame only from top to bottom: a picture of the last frames and,
    where a video library is installed, a video of all."""
    from PIL import Image

    film = torch.cat([torch.cat(list(row[:8]), dim=-1) for row in rows], dim=-2)  # [3, T, H, W]
    frames_u8 = to_frames(film.unsqueeze(0))
    Image.fromarray(frames_u8[-1]).save(stem.with_suffix(".png"))
    if find_spec("av") is not None:
        with VideoWriter(stem.with_suffix(".mp4"), film.shape[-1], film.shape[-2], fps=4) as video:
            video.write(np.tile(frames_u8, (4, 1, 1, 1)))  # a chunk is short: play it four times


def train_world(
    recipe: WorldRecipe,
    data: Path,
    codec: Path,
    cache: Path,
    out: Path,
    init: str | Path | None = None,
    perceptual: nn.Module | None = None,
) -> dict[str, float]:
    """Train on the `train` split under `data`, with latents of `codec` (a folder with `vae/`) kept in `cache`.

    Ends with a complete world folder in `out/world`, ready for `World.from_pretrained`. Calling it again resumes. A new
    run may start from the denoiser of another world folder (`init`; "default": the embedded one) of equal architecture
    and, to make sense, with the same codec. `perceptual` is the distance that `recipe.perceptual` weighs: a frozen
    network, two batches of images in [-1, 1] -> [N].
    """
    if recipe.perceptual and perceptual is None:
        raise UserError("training: this recipe weighs a perceptual distance; give its network, or set the weight to 0")
    codec_folder = Path(codec) / "vae" if (Path(codec) / "vae").is_dir() else Path(codec)
    vae = from_pretrained(codec_folder, expect=ImageAutoencoder)
    if vae.latent_channels != recipe.model.in_channels:
        raise UserError(
            f"training: the codec has {vae.latent_channels} latent channels, "
            f"the recipe's model {recipe.model.in_channels}; choose a recipe that fits the codec"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not (Path(cache) / "stamp.json").exists():
        raise UserError(f"training: several processes need finished latents in {cache}; run `cam encode` first")
    quick = fast(from_pretrained(codec_folder, expect=ImageAutoencoder), pick_device(recipe.train.device))
    episodes = encode_dataset(Path(data), Path(cache), quick, fingerprint(codec_folder))
    videos: dict[str, list[Video]] = {"train": [], "val": []}
    for episode in episodes:
        videos[episode.split].append((episode.cameras(), read_latents(Path(cache), episode)))
    if not videos["train"]:
        raise UserError(f"training: no episodes of the train split under {data}; make some with `cam render`")
    torch.manual_seed(recipe.train.seed)
    model = WorldTransformer(recipe.model)
    teacher = None
    if init is not None:
        start = from_pretrained(resolve(init) / "transformer", expect=WorldTransformer)
        load_weights(model, start.state_dict(), f"{init} (as --init)")
        teacher = start.requires_grad_(False) if recipe.teacher_steps else None
    elif recipe.teacher_steps:
        raise UserError("training: this recipe distils the denoiser that it starts from; give it with --init")
    device = pick_device(recipe.train.device)
    own = None
    if recipe.own_frames:
        frames = sum(len(cameras) for cameras, _ in videos["train"])
        own = OwnFrames(Path(out) / "own_frames", frames, videos["train"][0][1].shape[1:], device)
    quick.requires_grad_(False)
    for network in (quick, perceptual, teacher):
        if network is not None:
            network.to(device)
    task = WorldTask(recipe, videos["train"], videos["val"][:8], device, quick, own, perceptual, teacher)
    trainer = Trainer(model, task, recipe.train, Path(out))
    figures = trainer.train()
    state = trainer.averaged_state()
    if trainer.rank == 0:
        cameras = videos["train"][0][0]
        export_world(recipe, state, vae, (cameras.width, cameras.height), Path(out) / "world")
    return figures


def export_world(
    recipe: WorldRecipe, state: dict[str, Tensor], codec: ImageAutoencoder, size: tuple[int, int], folder: Path
) -> None:
    """Write a world folder: `transformer/`, `vae/`, `world.json`."""
    with torch.device("meta"):
        model = WorldTransformer(recipe.model)
    save_pretrained(model, folder / "transformer", state=state)
    save_pretrained(codec, folder / "vae")
    world = {
        "width": size[0],
        "height": size[1],
        "chunk_latents": recipe.chunk_latents,
        "num_steps": recipe.num_steps,
        "multistep": recipe.multistep,
        "flow": asdict(recipe.sampling_flow),
        "memory_noise": recipe.memory_noise,
        "retrieval": vars(recipe.retrieval),
    }
    (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n")
