"""Training of the denoiser (`cam train denoiser`)."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from context_as_memory.codec import ImageAutoencoder, VideoCodec
from context_as_memory.compute import fast, fast_dtype, generator_on, pick_device
from context_as_memory.data.dataset import DenoiserBatch, SamplingConfig, Video
from context_as_memory.data.episode import content_hash
from context_as_memory.data.precompute import ClipConfig, clips_of, encode_dataset, read_prompts, read_video
from context_as_memory.diffusion import TIMESTEPS, FlowMatching, add_noise, clean_from_velocity, velocity
from context_as_memory.errors import UserError
from context_as_memory.formats.files import write_text
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.tokens import TokenLayout
from context_as_memory.training.compiled import CompiledDenoiser
from context_as_memory.training.corrupt import corrupt
from context_as_memory.training.distil import teacher_velocity
from context_as_memory.training.folders import (
    Adaptation,
    codec_folder,
    export_adapted,
    quick_codec,
    start_network,
    to_go_on_from,
)
from context_as_memory.training.perceptual import Perceptual, perceptual_loss
from context_as_memory.training.recorded import Drawing, RecordedVideos
from context_as_memory.training.rollout import Sampling
from context_as_memory.training.self_memory import SelfMemory, SelfWalkConfig, SelfWalks, WalkSource
from context_as_memory.training.stream import Places, Stream, StreamConfig
from context_as_memory.training.trainer import TrainConfig, Trainer
from context_as_memory.training.validation import Validation, latents_of, words_of
from context_as_memory.training.work import step_flops
from context_as_memory.transformer import TransformerConfig, WorldTransformer
from context_as_memory.weights import (
    MODEL_FILE,
    fingerprint,
    from_pretrained,
    load_weights,
    open_codec,
    read_architecture,
    read_settings,
    resolve,
    save_pretrained,
)


@dataclass(frozen=True, kw_only=True)
class DenoiserRecipe:
    """Everything that defines a training run of the denoiser. `train.batch_size` counts chunks."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    as_start: bool = False  # take the architecture of the start (`--init`), whatever `model` is
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    flow: FlowMatching = field(default_factory=FlowMatching)
    train: TrainConfig = field(default_factory=TrainConfig)
    chunk_latents: int = 4
    num_steps: int = 4  # sampling steps saved with the weights and used for samples
    sampling_shift: float = 1.0
    multistep: bool = True  # saved with the weights: sampling steps of second order
    context_slots: tuple[int, ...] = (2, 4, 6, 8)  # context frames of a batch; each number is compiled for itself
    context_noise: float = 0.15  # up to this much noise on memory: generated memory is never perfect
    memory_noise: float = 0.0  # saved with the weights: noise on generated frames when they are memory
    self_memory: float = 0.0  # share of segments whose memory is what the denoiser made on its own walks
    self_walks: SelfWalkConfig = field(default_factory=SelfWalkConfig)
    corrupted: float = 0.0  # share of segments whose memory is corrupted, see `corrupt`
    perceptual: float = 0.0  # gradient of the perceptual distance, as a share of that of the velocity loss
    teacher_steps: int = 0  # distillation: steps of the frozen start (`--init`) in each of `num_steps`, see `distil`
    sheet_frames: int = 60  # own frames of the walks that are drawn with the samples; 0: no such walks
    stream: StreamConfig = field(default_factory=StreamConfig)  # where there are no recorded videos
    compile: bool | None = None  # compiled passes (`compiled`); None: on a GPU
    clips: ClipConfig = field(default_factory=ClipConfig)  # how videos are cut, for codecs of videos
    words_dropped: float = 0.1  # share of chunks that are told nothing, for denoisers that read words
    text_length: int = 512  # rows of a prompt that the denoiser is given
    guidance: float = 1.0  # of the teacher, with `teacher_steps`
    adaptation: Adaptation | None = (
        None  # train the network of the start (`--init`), whatever `model` is; None: train `model`
    )

    @property
    def sampling_flow(self) -> FlowMatching:
        """The noise levels of sampling."""
        return replace(self.flow, shift=self.sampling_shift)

    @property
    def walk_sampling(self) -> Sampling:
        """How chunks are sampled, as `World` will."""
        return Sampling(
            flow=self.sampling_flow,
            num_steps=self.num_steps,
            multistep=self.multistep,
            memory_noise=self.memory_noise,
        )

    @property
    def drawing(self) -> Drawing:
        """What a source of samples must know."""
        return Drawing(
            sampling=self.sampling,
            retrieval=self.retrieval,
            layout=TokenLayout(num_targets=self.chunk_latents, max_context=self.retrieval.max_context),
            segments=max(1, self.train.batch_size // self.sampling.chunks),
            slots=self.context_slots,
            self_share=self.self_memory,
            walks=self.self_walks,
            seed=self.train.seed,
            words_dropped=self.words_dropped,
            text_length=self.text_length,
        )


class BatchSource(WalkSource, Protocol):
    """Where training samples come from."""

    own: SelfMemory | None

    def batch(self, step: int, rank: int) -> DenoiserBatch: ...

    def blanks(self) -> list[DenoiserBatch]: ...


class DenoiserTask:
    """Velocity loss on the targets of packed segments."""

    def __init__(
        self,
        recipe: DenoiserRecipe,
        source: BatchSource,
        device: torch.device,
        codec: VideoCodec | None = None,
        perceptual: Perceptual | None = None,
        teacher: WorldTransformer | None = None,
    ) -> None:
        self.recipe, self.source, self.codec, self.perceptual = recipe, source, codec, perceptual
        self.validation: Validation | None = None
        self.export: Callable[[dict[str, Tensor]], None] | None = None  # called with the averaged weights
        wanted = device.type == "cuda" if recipe.compile is None else recipe.compile
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        self.compiled = wanted and alone and CompiledDenoiser.fits(recipe.model)
        self.batch = source.batch
        self._denoisers: dict[int, Any] = {}
        self.teacher = None if teacher is None else self._denoiser(teacher)
        self.walks: SelfWalks | None = None
        if source.own is not None and codec is not None:
            model = WorldTransformer(recipe.model).to(device).requires_grad_(False)
            denoiser = CompiledDenoiser(model, masked=True) if self.compiled else model
            self.walks = SelfWalks(
                recipe.self_walks, source, model, denoiser, codec, recipe.walk_sampling, fixed_slots=self.compiled
            )
            self._walks_autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def _denoiser(self, model: Any) -> Any:
        """What a network is called through."""
        if not self.compiled:
            return model
        if id(model) not in self._denoisers:
            self._denoisers[id(model)] = CompiledDenoiser(model)
        return self._denoisers[id(model)]

    def loss(self, model: Any, batch: DenoiserBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Mean squared error of the velocity, []; loss on targets only, since only they are noisy (paper section
        3.1)."""
        recipe = self.recipe
        targets, pool = latents_of(self.source, batch)
        # Random numbers are drawn where the latents lie: to send them there would be to wait for all that is under way.
        pixels = generator_on(targets.device, generator)

        def normal(shape: torch.Size) -> Tensor:
            return torch.randn(shape, generator=pixels, device=targets.device)

        pool, own = self._memory(batch, pool)
        words = words_of(batch, model)
        pool = corrupt(pool, recipe.corrupted, pixels)
        level = torch.rand(pool.shape[0], 1, pool.shape[2], 1, 1, generator=pixels, device=pool.device)
        pool = pool + recipe.context_noise * level * normal(pool.shape)
        noise = normal(targets.shape)
        if self.teacher is None:
            sigma = recipe.flow.training_sigmas(len(targets), pixels)
        else:
            grid = recipe.sampling_flow.sampling_sigmas(recipe.num_steps).to(targets.device, non_blocking=True)
            number = torch.randint(recipe.num_steps, (len(targets),), generator=pixels, device=targets.device)
            sigma = grid[number]
        noisy = add_noise(targets, noise, sigma)
        if self.teacher is None:
            goal = velocity(targets, noise)
        else:
            steps, until = recipe.teacher_steps, grid[number + 1]
            told = (words, recipe.guidance)
            goal = teacher_velocity(self.teacher, recipe.flow, noisy, sigma, until, steps, pool, batch.inputs, *told)
        output = self._denoiser(model).predict(noisy, sigma * TIMESTEPS, pool, batch.inputs, *words).float()
        predicted = recipe.flow.velocity_of(output, noisy, sigma)
        error = (predicted - goal).square().mean(dim=(1, 2, 3, 4))
        loss = error.mean()
        high = sigma > 0.5
        figures: dict[str, Any] = {
            "context_slots": batch.inputs.context_mask.shape[2],
            "loss_high_noise": (error * high).sum().detach() / high.sum().clamp_min(1),
            "self_share": own,
            "tokens": self._tokens(targets) + self._tokens(pool),
            "flops": self._flops(model, batch, targets, pool),
        }
        if self.walks is not None:
            figures |= self.walks.figures
        if self.perceptual is not None and recipe.perceptual:
            assert self.codec is not None
            clean = clean_from_velocity(noisy, predicted, sigma)
            if self.teacher is not None:  # of the steps only the last ends in pictures
                sigma = torch.where(number == recipe.num_steps - 1, sigma, 1.0)
            texture = perceptual_loss(self.codec, self.perceptual, clean, targets, sigma, pixels)
            figures["perceptual"] = texture.detach()
            ours, its = (torch.autograd.grad(x, output, retain_graph=True)[0].norm() for x in (loss, texture))
            loss = loss + recipe.perceptual * ours / its.clamp_min(1e-12) * texture
        return loss, figures

    def _tokens(self, latents: Tensor) -> int:
        return latents.numel() // (latents.shape[1] * math.prod(self.recipe.model.patch_size))

    def _flops(self, model: nn.Module, batch: DenoiserBatch, targets: Tensor, pool: Tensor) -> float:
        """Of the network that is trained: what a teacher, walks and perceptual distance cost is not among them."""
        most = sum(p.numel() * (1 if p.requires_grad else -1) for p in model.parameters()) > 0
        passes = 2 + most + self.recipe.train.checkpointing  # frozen weights need no gradients of their own
        words = 0 if batch.words is None else batch.words.shape[1]
        slots = batch.inputs.context_mask.shape[2]
        return step_flops(self.recipe.model, pool.shape, targets.shape, slots, words, passes)

    def _memory(self, batch: DenoiserBatch, pool: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of the pools [S, C, M, h, w], and the share of frames among them that are the denoiser's own."""
        if self.source.own is None:
            return pool, pool.new_zeros(())
        made, known = self.source.own.read(batch.pool_frames)
        replaced = batch.own.unsqueeze(1) & known
        return torch.where(replaced[:, None, :, None, None], made, pool), replaced.float().mean()

    def warm_up(self, trainer: Trainer) -> None:
        """Compile what a step needs, for every shape of batch; learns nothing."""
        for batch in self.source.blanks():
            with trainer.autocast():
                loss, _ = self.loss(trainer.model, batch, torch.Generator().manual_seed(0))
            loss.backward()
            trainer.model.zero_grad(set_to_none=True)

    def tend(self, step: int, average: Callable[[nn.Module], None]) -> None:
        """Go on with the walks on which the denoiser's own frames are made."""
        if self.walks is not None:
            with self._walks_autocast:
                self.walks.tend(step, average)

    def sample(self, model: Any, folder: Path, step: int) -> dict[str, float]:
        """Generate validation chunks and walks, and write them and the weights."""
        if self.export is not None:
            self.export({name: value.detach().cpu() for name, value in model.state_dict().items()})
        return {} if self.validation is None else self.validation.sample(model, folder, step)


def train_denoiser(
    recipe: DenoiserRecipe,
    data: Path,
    codec: Path,
    cache: Path,
    out: Path,
    init: str | Path | None = None,
    perceptual: nn.Module | None = None,
) -> dict[str, float]:
    """Train on the `train` split under `data`, with latents of `codec` (a folder with `vae/`) stored in `cache`: of
    our image autoencoder, or of Wan's video autoencoder, which must have been made by `cam encode`.

    With `recipe.adaptation` the network of `init` is trained, and the model folder refers to the backbone of `init`.
    Ends with a complete model folder in `out/model`, ready for `World.from_pretrained`. Calling it again resumes. A new
    run may start from the denoiser of another model folder (`init`; "default": the embedded one) of equal architecture
    and, to make sense, with the same codec. `perceptual` is the distance that `recipe.perceptual` weighs: a frozen
    network, two batches of images in [-1, 1] -> [N].
    """
    recipe, network = _network(recipe, init)
    folder, vae = _codec(recipe, codec)
    of_clips = vae.temporal_factor > 1
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not (Path(cache) / "stamp.json").exists():
        raise UserError(f"training: several processes need finished latents in {cache}; run `cam encode` first")
    device = pick_device(recipe.train.device)
    quick = quick_codec(folder, device).requires_grad_(False)
    clips = (clips_of(cache) or replace(recipe.clips, latents=recipe.chunk_latents)) if of_clips else None
    episodes = encode_dataset(Path(data), Path(cache), quick, fingerprint(folder), clips=clips)
    videos: dict[str, list[Video]] = {"train": [], "val": []}
    for episode in episodes:
        videos[episode.split].append(read_video(Path(cache), episode))
    prompts = read_prompts(Path(cache)) if recipe.model.text_dim is not None else None
    if not videos["train"]:
        raise UserError(f"training: no episodes of the train split under {data}; make some with `cam render`")
    source = RecordedVideos(videos["train"], recipe.drawing, device, prompts)
    cameras = videos["train"][0][0]
    size = (cameras.width, cameras.height)
    learned = content_hash([episode for episode in episodes if episode.split == "train"])
    networks = (network, vae, quick)

    def begin(*_: Any) -> list[Video]:
        return videos["val"][:8]

    return _train(recipe, source, begin, networks, size, out, init, perceptual, learned, prompts)


def train_denoiser_stream(
    recipe: DenoiserRecipe,
    places: Places,
    codec: Path,
    out: Path,
    init: str | Path | None = None,
    perceptual: nn.Module | None = None,
    until: float | None = None,
) -> dict[str, float]:
    """As `train_denoiser`, on videos that are made while training goes on (`stream`), at `places`, by number.

    `recipe.train.seed` chooses their range: a run that goes on from another one (`init`) sees new worlds with a new
    seed. A resumed run sees those of its seed from the first again.
    until: time of day (`time.time()`) at which the last step should be done, whatever building and compiling take; it
    becomes the budget.
    """
    recipe, network = _network(recipe, init)
    folder, vae = _codec(recipe, codec)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("training: several processes cannot share a stream of videos; render them and give --data")
    device = pick_device(recipe.train.device)
    quick = fast(from_pretrained(folder, expect=ImageAutoencoder), device).requires_grad_(False)
    first_number = SEED_RANGE * recipe.train.seed
    # Batches are looked up where the model is: no process could make them sooner.
    recipe = replace(recipe, train=replace(recipe.train, data_workers=0))
    source = Stream(places, quick, recipe.drawing, recipe.stream, device, first_number)
    learned = repr(places) if is_dataclass(places) else type(places).__name__
    try:
        size = (places.width, places.height)

        def begin(task: DenoiserTask, trainer: Trainer) -> Sequence[Any]:
            if task.compiled:  # while the first videos are made
                task.warm_up(trainer)
            source.wait()
            if until is not None:
                minutes = max(0.01, (until - time.time()) / 60)
                trainer.config = replace(trainer.config, budget_minutes=minutes, stop_after_minutes=minutes)
            return source.held_out

        return _train(recipe, source, begin, (network, vae, quick), size, out, init, perceptual, learned)
    finally:
        source.close()


SEED_RANGE = 100_000  # videos that a run may see before it meets those of the next seed


def _codec(recipe: DenoiserRecipe, codec: Path) -> tuple[Path, Any]:
    """The folder of the autoencoder and the autoencoder, which must fit the recipe."""
    folder = codec_folder(codec)
    vae = open_codec(folder)
    if vae.latent_channels != recipe.model.in_channels:
        raise UserError(
            f"training: the codec has {vae.latent_channels} latent channels, "
            f"the recipe's model {recipe.model.in_channels}; choose a recipe that fits the codec"
        )
    return folder, vae


def _network(recipe: DenoiserRecipe, init: str | Path | None) -> tuple[DenoiserRecipe, WorldTransformer | None]:
    """With an adaptation, the network of the start; and the recipe for the architecture of the start, if it asks."""
    if recipe.adaptation is None:
        if recipe.as_start:
            recipe = replace(recipe, model=read_architecture(to_go_on_from(init) / "transformer", WorldTransformer))
        return recipe, None
    if init is None:
        raise UserError("training: this recipe adapts a model; give the folder that `cam adapt` made with --init")
    torch.manual_seed(recipe.train.seed)  # the matrices begin at random
    network = start_network(init, recipe.adaptation, fast_dtype(pick_device(recipe.train.device).type))
    chunk = read_settings(resolve(init)).get("chunk_latents", recipe.chunk_latents)
    return replace(recipe, model=network.config, chunk_latents=chunk), network


def _train(
    recipe: DenoiserRecipe,
    source: BatchSource,
    begin: Callable[["DenoiserTask", Trainer], Sequence[Any]],
    networks: tuple[WorldTransformer | None, Any, Any],
    size: tuple[int, int],
    out: Path,
    init: str | Path | None,
    perceptual: nn.Module | None,
    data: str,
    prompts: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Train on any source. data: what it shows, to be compared when the run is resumed.

    begin: called before the first step; returns the validation videos. networks: the denoiser, if it is that of the
    start; the codec that is saved with the weights, and the same for use on this device.
    """
    if recipe.perceptual and perceptual is None:
        raise UserError("training: this recipe weighs a perceptual distance; give its network, or set the weight to 0")
    device, (network, vae, quick) = pick_device(recipe.train.device), networks
    torch.manual_seed(recipe.train.seed)
    model = WorldTransformer(recipe.model) if network is None else network
    teacher = None
    if init is not None and (network is None or recipe.teacher_steps):
        start = from_pretrained(resolve(init) / "transformer", expect=WorldTransformer)
        if network is None:
            load_weights(model, start.state_dict(), f"{init} (as --init)")
        teacher = start.requires_grad_(False).to(device) if recipe.teacher_steps else None
    elif recipe.teacher_steps:
        raise UserError("training: this recipe distils the denoiser that it starts from; give it with --init")
    if perceptual is not None:
        perceptual.to(device)
    task = DenoiserTask(recipe, source, device, quick, perceptual, teacher)
    made_with = asdict(recipe) | {"data": data, "init": None if init is None else str(init)}
    made_with.pop("train")  # which the trainer notes itself
    trainer = Trainer(model, task, recipe.train, Path(out), made_with)
    if held_out := begin(task, trainer):
        task.validation = Validation(
            recipe.drawing, recipe.walk_sampling, held_out, quick, device, recipe.sheet_frames, prompts
        )

    def export(state: dict[str, Tensor]) -> None:
        if network is None:
            save_model(recipe, state, vae, size, Path(out) / "model")
            return
        assert init is not None
        trained = {name: value for name, value in state.items() if name in trainer.names}
        export_adapted(network, trained, settings_of(recipe, size), init, Path(out) / "model")

    if trainer.world_size == 1:  # a run that is killed leaves the weights of its last samples
        task.export = export
    figures = trainer.train()
    state = trainer.averaged_state()
    if trainer.rank == 0:
        export(state)
    return figures


def settings_of(recipe: DenoiserRecipe, size: tuple[int, int]) -> dict[str, Any]:
    """How the weights are used, for `WorldConfig`."""
    settings = {
        "width": size[0],
        "height": size[1],
        "chunk_latents": recipe.chunk_latents,
        "num_steps": recipe.num_steps,
        "multistep": recipe.multistep,
        "flow": asdict(recipe.sampling_flow),
        "memory_noise": recipe.memory_noise,
        "retrieval": asdict(recipe.retrieval),
    }
    led = recipe.adaptation is not None and recipe.teacher_steps  # what guidance did is part of the weights now
    return settings | ({"guidance": 1.0} if led else {})


def save_model(
    recipe: DenoiserRecipe, state: dict[str, Tensor], codec: Any, size: tuple[int, int], folder: Path
) -> None:
    """Write a model folder: `transformer/`, `vae/`, `model.json`. state: the denoiser's tensors [...] by name."""
    with torch.device("meta"):
        model = WorldTransformer(recipe.model)
    save_pretrained(model, folder / "transformer", state=state)
    if isinstance(codec, ImageAutoencoder):
        save_pretrained(codec, folder / "vae")
    else:
        codec.save_pretrained(folder / "vae")
    write_text(folder / MODEL_FILE, json.dumps(settings_of(recipe, size), indent=2) + "\n")
