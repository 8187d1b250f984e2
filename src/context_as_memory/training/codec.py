"""Training of the image autoencoder (`cam train codec`)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from context_as_memory.codec import ImageAutoencoder, ImageAutoencoderConfig
from context_as_memory.data.episode import Episode, content_hash, list_episodes
from context_as_memory.errors import UserError
from context_as_memory.progress import tracked
from context_as_memory.training.codec_loss import CodecLossConfig, codec_loss, went_round
from context_as_memory.training.folders import export_with_codec, to_go_on_from
from context_as_memory.training.trainer import TrainConfig, Trainer
from context_as_memory.weights import MODEL_FILE, from_pretrained, load_weights, resolve, save_pretrained


@dataclass(frozen=True, kw_only=True)
class CodecRecipe:
    """Everything that defines a codec training run."""

    model: ImageAutoencoderConfig = field(default_factory=ImageAutoencoderConfig)
    as_start: bool = False  # take the architecture of the start (`--init`), whatever `model` is
    loss: CodecLossConfig = field(default_factory=CodecLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoder_only: bool = False  # the encoder stays as it is, so that its denoiser goes on with it
    crop: int = 64  # pixels; square random crops, mirrored at random
    frame_stride: int = 8  # every n-th frame of each video: neighbours are near-copies


def load_frames(episodes: list[Episode], stride: int) -> np.ndarray:
    """Every `stride`-th frame of the episodes, uint8 [N, H, W, 3], with a progress bar."""
    with ThreadPoolExecutor(4) as pool:  # video decoding runs outside Python's lock
        parts = pool.map(lambda episode: episode.frames()[::stride].copy(), episodes)
        return np.concatenate(list(tracked(parts, len(episodes), "reading frames", "episodes")))


class CodecTask:
    """Random crops of single frames; sample pictures are validation frames beside their reconstructions.

    frames, validation: uint8 [N, H, W, 3]. perceptual: a network for the loss; None: none is asked.
    """

    def __init__(
        self, recipe: CodecRecipe, frames: np.ndarray, validation: np.ndarray, perceptual: nn.Module | None = None
    ) -> None:
        self.recipe, self.frames, self.validation, self.perceptual = recipe, frames, validation, perceptual

    def batch(self, step: int, rank: int) -> Tensor:
        """uint8 [batch, crop, crop, 3]."""
        rng = np.random.default_rng((self.recipe.train.seed, step, rank))
        count, height, width, _ = self.frames.shape
        size = min(self.recipe.crop, height, width)
        crops = []
        for index in rng.integers(0, count, self.recipe.train.batch_size):
            top, left = rng.integers(0, height - size + 1), rng.integers(0, width - size + 1)
            crop = self.frames[index, top : top + size, left : left + size]
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        return torch.from_numpy(np.stack(crops))

    def loss(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """See `codec_loss`; batch: crops uint8 [B, H, W, 3]."""
        assert isinstance(model, ImageAutoencoder)
        return codec_loss(model, _as_images(batch), self.recipe.loss, generator, self.perceptual)

    def sample(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        from PIL import Image

        assert isinstance(model, ImageAutoencoder)
        device = next(model.parameters()).device
        with torch.no_grad():
            images = _as_images(torch.from_numpy(self.validation)).to(device)
            output = model.decode_images(model.encode_images(images)).clamp(-1, 1)
            mse = (output - images).square().mean(dim=(1, 2, 3))
            figures = {"validation_psnr_db": (10 * torch.log10(4 / mse)).mean().item()}
            tenth = went_round(model, images, 10)
            mse = (tenth - images).square().mean(dim=(1, 2, 3))
            figures["validation_10_rounds_psnr_db"] = (10 * torch.log10(4 / mse)).mean().item()
            if self.perceptual is not None:
                figures["validation_lpips"] = self.perceptual(output, images).mean().item()
        pairs = torch.cat([images, output], dim=2)[:6].cpu()  # original above reconstruction
        sheet = torch.cat(list(pairs), dim=2).permute(1, 2, 0)
        Image.fromarray(((sheet + 1) * 127.5).round().byte().numpy()).save(folder / f"{step:06d}.png")
        return figures


def _as_images(frames_u8: Tensor) -> Tensor:
    return frames_u8.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def measure_latents(codec: ImageAutoencoder, frames: np.ndarray) -> None:
    """Set the codec's latent mean and deviation from a sample of frames uint8 [N, H, W, 3]."""
    device = next(codec.parameters()).device
    parts = [
        codec.encode_images(_as_images(torch.from_numpy(np.ascontiguousarray(part))).to(device))
        for part in np.array_split(frames, max(1, len(frames) // 32))
    ]
    raw = torch.cat(parts).float()
    codec.latent_mean.copy_(raw.mean(dim=(0, 2, 3)))
    codec.latent_std.copy_(raw.std(dim=(0, 2, 3)))


def train_codec(
    recipe: CodecRecipe,
    data: Path,
    out: Path,
    init: str | Path | None = None,
    perceptual: nn.Module | None = None,
) -> dict[str, float]:
    """Train on the `train` split under `data`, keep pictures of the `val` split; weights end in `out/vae`.

    Calling it again resumes. A new run may start from the autoencoder of a model folder (`init`; "default": the
    embedded one) of equal architecture. A stage that trains the decoder alone leaves a complete model folder too,
    `out/model`: that of `init` with its new decoder. `perceptual` is the distance that `recipe.loss.perceptual`
    weighs: a frozen network, two batches of images in [-1, 1] -> [N]. Returns the last logged figures.
    """
    every = list_episodes(data)
    episodes = [episode for episode in every if episode.split == "train"]
    if not episodes:
        raise UserError(f"training: no episodes of the train split under {data}; make some with `cam render`")
    held_out = [episode for episode in every if episode.split == "val"] or episodes[-1:]
    frames = load_frames(episodes, recipe.frame_stride)
    validation = np.concatenate([episode.frames()[::400][:3] for episode in held_out[:8]])
    torch.manual_seed(recipe.train.seed)
    needed = recipe.as_start or recipe.decoder_only
    first = to_go_on_from(init) if needed else None if init is None else resolve(init)
    start = None if first is None else from_pretrained(first / "vae", expect=ImageAutoencoder)
    if recipe.as_start and start is not None:
        recipe = replace(recipe, model=start.config)
    model = ImageAutoencoder(recipe.model)
    if start is not None:
        load_weights(model, start.state_dict(), f"{init} (as --init)")
    model.encoder.requires_grad_(not recipe.decoder_only)
    if recipe.loss.perceptual and perceptual is None:
        raise UserError("training: this recipe weighs a perceptual distance; give its network, or set the weight to 0")
    task = CodecTask(recipe, frames, validation, perceptual)
    made_with = asdict(recipe) | {"data": content_hash(episodes), "init": None if init is None else str(init)}
    made_with.pop("train")  # which the trainer notes itself
    trainer = Trainer(model, task, recipe.train, Path(out), made_with)
    if perceptual is not None:
        perceptual.to(trainer.device)
    figures = trainer.train()
    state: dict[str, Any] = trainer.averaged_state()
    if trainer.rank == 0:
        averaged = ImageAutoencoder(recipe.model).to(trainer.device)
        kept = start.state_dict() if recipe.decoder_only and start is not None else {}
        averaged.load_state_dict(kept | state)
        if not recipe.decoder_only:  # the denoiser was trained with the deviations that were measured then
            measure_latents(averaged, frames[:: max(1, len(frames) // 512)])
        save_pretrained(averaged, Path(out) / "vae")
        if recipe.decoder_only and first is not None and (first / MODEL_FILE).exists():
            export_with_codec(first, averaged, Path(out) / "model")
    return figures
