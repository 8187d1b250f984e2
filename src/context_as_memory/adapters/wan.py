"""The Wan video autoencoder as a codec (Wan 2.1, arXiv 2503.20314), for work on pre-trained video models.

A thin layer over `AutoencoderKLWan` of diffusers. What it adds: normalised latents, memory frames encoded alone (paper
section 3.2), and decoding as a stream whose whole state is a value in the caller's hands. diffusers keeps that state
inside the model, where a second stream would overwrite the first.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from context_as_memory.adapters.shards import Shards
from context_as_memory.errors import UserError, install
from context_as_memory.transformer import TransformerConfig
from context_as_memory.transformer.model import Attention, look_along_rays
from context_as_memory.transformer.placement import PIXEL_OCTAVES

# Frames encoded alone go through the network this many at a time, so that a long history does not fill the memory.
_FRAMES_AT_ONCE = 16
# Fields of a transformer's configuration that diffusers has as well.
_STOCK = {
    *("patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim"),
    *("freq_dim", "ffn_dim", "num_layers", "cross_attn_norm", "eps"),
}
_SEEING = [f"to_{name}.{kind}" for name in "qkv" for kind in ("weight", "bias")] + ["norm_q.weight", "norm_k.weight"]


@dataclass(frozen=True, kw_only=True)
class WanDecodeCache:
    """Everything a decoding stream remembers: for each causal convolution, the last two frames of its input.

    A value: `WanCodec.decode_next` never changes the cache it is given, so a stream may be branched or replayed.
    """

    features: tuple[Any, ...]  # as the decoder wrote them: a tensor [B,c,2,h',w'], a marker, or None where unused
    shape: tuple[int, int, int]  # B, h, w of the latents of this stream


class WanCodec(nn.Module):
    """Video codec of Wan 2.1 (8x in space) and Wan 2.2 TI2V (16x in space, patches, residual), 4x in time.

    Pixels are in [-1, 1]; latents are normalised to about zero mean and unit variance with the `latents_mean` and
    `latents_std` of the VAE's configuration, and encoding is deterministic (the posterior mean). Inputs are cast to the
    dtype of the weights that they meet. Gradients are not switched off here: wrap inference in `torch.no_grad()`.
    """

    latents_mean: Tensor  # [1,C,1,1,1]
    latents_std: Tensor

    fp32_on_cpu = True  # 3-D convolutions have no fast bf16 kernels there

    def __init__(self, vae: Any) -> None:
        """Wrap an `AutoencoderKLWan`. Raises UserError if its latent statistics do not fit its latent channels."""
        super().__init__()
        config = vae.config
        self.vae: Any = vae
        self.temporal_factor: int = 2 ** sum(config.temperal_downsample)  # (sic)
        self.patch_size: int = config.patch_size or 1
        self.spatial_factor: int = spatial_factor(config)
        self.latent_channels: int = config.z_dim
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(getattr(config, name), dtype=torch.float32)
            if values.shape != (self.latent_channels,):
                raise UserError(
                    f"{name} of the Wan VAE has {values.numel()} values but z_dim is {self.latent_channels}: "
                    "give one value per latent channel"
                )
            self.register_buffer(name, values.view(1, -1, 1, 1, 1), persistent=False)

    def cast(self, device: torch.device, dtype: torch.dtype) -> Self:
        """To a device, the decoder as `dtype`. The encoder keeps the format it has: in bf16 it loses what a memory is
        made of (similarity .98 fell to .76 over a generated walk, FastVideo issue 1472), the decoder loses nothing
        that can be seen."""
        self.vae.decoder.to(dtype)
        self.vae.post_quant_conv.to(dtype)
        return self.to(device)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load a local folder in diffusers layout: the VAE's own folder, or a pipeline folder that has it as `vae/`.

        Raises UserError if there is no Wan VAE in the folder or weights are missing from it.
        """
        vae_class = _vae_class()
        folder = Path(path) if (Path(path) / "config.json").is_file() else Path(path) / "vae"
        try:
            name = json.loads((folder / "config.json").read_text()).get("_class_name")
            if name != vae_class.__name__:
                raise UserError(f"{folder / 'config.json'} describes a model {name}, not {vae_class.__name__}")
            # low_cpu_mem_usage=True would need the accelerate package, for a model of a few hundred million weights.
            vae, info = vae_class.from_pretrained(
                folder,
                torch_dtype=dtype,
                low_cpu_mem_usage=False,
                local_files_only=True,
                output_loading_info=True,
                use_safetensors=True,  # never a pickle, also where there is no other file
            )
        except FileNotFoundError as error:
            raise UserError(f"no Wan VAE at {path}: expected config.json, or vae/config.json, and weights") from error
        except (OSError, RuntimeError, json.JSONDecodeError) as error:  # RuntimeError: tensors of another shape
            raise UserError(f"cannot load the Wan VAE in {folder}: {' '.join(str(error).split())[:200]}") from error
        if missing := sorted(info["missing_keys"]):  # diffusers would fill them with random numbers
            raise UserError(f"the weights in {folder} do not fit its config.json: they lack {missing[0]}, for one")
        return cls(vae.eval()).to(dtype)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Random weights (drawn from torch's global generator) for a configuration of `AutoencoderKLWan`.

        Raises UserError for an unknown key.
        """
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        known = set(inspect.signature(_vae_class()).parameters)
        if unknown := sorted(set(config) - known):
            raise UserError(f"unknown key {unknown[0]!r} in the Wan VAE configuration; known: {sorted(known)}")
        return cls(_vae_class()(**config).eval())

    @classmethod
    def tiny(cls, style: str = "2.1", *, seed: int = 0) -> Self:
        """A small random codec for tests, in the architecture of Wan `"2.1"` or `"2.2"`; same factors, 4 channels."""
        config: dict[str, Any] = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
        config |= {"latents_mean": [-0.2, 0.1, 0.3, -0.1], "latents_std": [0.5, 0.8, 1.2, 0.6]}
        if style == "2.2":
            config |= {"decoder_base_dim": 12, "is_residual": True, "patch_size": 2, "in_channels": 12}
            config |= {"out_channels": 12, "scale_factor_spatial": 16}
        elif style != "2.1":
            raise UserError(f"unknown Wan VAE style {style!r}: use '2.1' or '2.2'")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls.from_config(config)

    def save_pretrained(self, path: str | Path) -> None:
        """Write config.json and the weights (safetensors) in diffusers layout, as `from_pretrained` reads them."""
        self.vae.save_pretrained(path)

    def encode_frames(self, video: Tensor) -> Tensor:
        """Encode each frame alone, as a one-frame video: [B,3,T,H,W] -> [B,C,T,h,w], one latent per frame.

        This is how memory is encoded (paper section 3.2): retrieved frames are not neighbours in time. Raises
        UserError if H or W is no multiple of `spatial_factor`.
        """
        self._check_video(video)
        frames = rearrange(video, "b c t h w -> (b t) c 1 h w")
        latents = torch.cat([self._encode(part) for part in frames.split(_FRAMES_AT_ONCE)])  # type: ignore[no-untyped-call]
        return rearrange(latents, "(b t) c 1 h w -> b c t h w", b=len(video))

    def encode_clip(self, video: Tensor) -> Tensor:
        """Encode a clip, causal in time: [B,3,1+4n,H,W] -> [B,C,1+n,h,w].

        The first latent stands for the first frame alone, every other one for the next four. Raises UserError for any
        other number of frames, or if H or W is no multiple of `spatial_factor`.
        """
        self._check_video(video)
        frames, factor = video.shape[2], self.temporal_factor
        if frames % factor != 1 % factor:
            below = (frames - 1) // factor * factor + 1
            usable = f"1 + {factor} n frames, for example {below} or {below + factor}"
            raise UserError(f"a clip of {frames} frames cannot be encoded: the Wan VAE takes {usable}")
        return self._encode(video)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode a whole clip: [B,C,1+n,h,w] -> [B,3,1+4n,H,W] in [-1, 1]."""
        return self.decode_next(latents)[0]

    def decode_next(self, latents: Tensor, cache: WanDecodeCache | None = None) -> tuple[Tensor, WanDecodeCache]:
        """Decode the next n latents [B,C,n,h,w] of a stream, n >= 1; any split of a clip gives the frames of `decode`.

        `cache=None` starts a clip: its first latent gives one frame, every later latent of the stream four. Returns
        the frames [B,3,t,H,W] in [-1, 1] and the cache for the next call; the cache that was passed in stays as it
        was. Raises UserError if the latents are ill-shaped or not of the size the stream started with.
        """
        if latents.ndim != 5 or latents.shape[1] != self.latent_channels or 0 in latents.shape:
            raise UserError(f"latents must be [B,{self.latent_channels},n,h,w] with n >= 1, not {list(latents.shape)}")
        shape = (latents.shape[0], latents.shape[3], latents.shape[4])
        if cache is not None and cache.shape != shape:
            raise UserError(f"the stream has latents of (B, h, w) = {cache.shape}, not {shape}: start a new one")
        features = [None] * _count_convolutions(self.vae.decoder) if cache is None else list(cache.features)
        latents = latents.to(self.latents_std) * self.latents_std + self.latents_mean
        latents = self.vae.post_quant_conv(latents.to(self.vae.post_quant_conv.weight.dtype))
        pieces = []
        for i, latent in enumerate(latents.split(1, dim=2)):  # type: ignore[no-untyped-call]
            # The decoder replaces entries of the list but never writes into a tensor in it, so old caches stay intact.
            first = cache is None and i == 0
            pieces.append(self.vae.decoder(latent, feat_cache=features, feat_idx=[0], first_chunk=first))
        p = self.patch_size
        video = rearrange(torch.cat(pieces, dim=2), "b (c q p) t h w -> b c t (h p) (w q)", p=p, q=p)
        return video.clamp(-1.0, 1.0), WanDecodeCache(features=tuple(features), shape=shape)

    def _encode(self, video: Tensor) -> Tensor:
        """Normalised posterior mean of [B,3,1+4n,H,W]; the first frame goes in alone, then four at a time."""
        p, factor = self.patch_size, self.temporal_factor
        video = rearrange(video.to(self.latents_std), "b c t (h p) (w q) -> b (c q p) t h w", p=p, q=p)
        features = [None] * _count_convolutions(self.vae.encoder)
        steps = video.split([1] + [factor] * ((video.shape[2] - 1) // factor), dim=2)  # type: ignore[no-untyped-call]
        latents = torch.cat([self.vae.encoder(step, feat_cache=features, feat_idx=[0]) for step in steps], dim=2)
        mean, _log_variance = self.vae.quant_conv(latents).chunk(2, dim=1)
        result: Tensor = (mean - self.latents_mean) / self.latents_std
        return result

    def _check_video(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
            raise UserError(f"video must be [B,3,T,H,W] with T >= 1, not {list(video.shape)}")
        height, width = video.shape[-2:]
        if height % self.spatial_factor or width % self.spatial_factor:
            usable = f"resize or crop them to multiples of {self.spatial_factor}"
            raise UserError(f"frames of {width}x{height} pixels do not fit the Wan VAE: {usable}")


def spatial_factor(config: Mapping[str, Any]) -> int:
    """How many times smaller latents are than pictures, by the configuration of an `AutoencoderKLWan`."""
    return int((config.get("patch_size") or 1) * 2 ** (len(config.get("dim_mult", "1244")) - 1))


def _count_convolutions(network: nn.Module) -> int:
    """Room for one cache entry per causal 3D convolution (shortcut convolutions leave theirs unused)."""
    return sum(isinstance(module, nn.Conv3d) for module in network.modules())


def _vae_class() -> Any:
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise UserError(f"the Wan codec needs diffusers: {install('wan')}") from error
    return AutoencoderKLWan


def from_diffusers_config(config: dict[str, object], **changes: object) -> TransformerConfig:
    """Our config for a diffusers `WanTransformer3DModel` config; raises `UserError` for image-conditioned variants."""
    for key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len"):
        if config.get(key) is not None:
            raise UserError(f"transformer: {key}={config[key]} (an image-to-video variant) is not supported")
    if config.get("qk_norm", "rms_norm_across_heads") != "rms_norm_across_heads":
        raise UserError(f"transformer: qk_norm={config['qk_norm']!r} is not supported, only rms_norm_across_heads")
    names = set(TransformerConfig.__dataclass_fields__) & set(config)
    values = {key: tuple(v) if isinstance(v := config[key], (list, tuple)) else v for key in names}
    settings: dict[str, Any] = {"camera": "none", "context_mode": "joint"} | values | changes
    return TransformerConfig(**settings)


def to_diffusers_config(config: TransformerConfig) -> dict[str, Any] | None:
    """The `WanTransformer3DModel` config of a network that stock Wan could be; None for one that it could not."""
    if config.camera != "none" or config.context_mode != "joint":
        return None
    values = {name: value for name, value in asdict(config).items() if name in _STOCK}
    return {"_class_name": "WanTransformer3DModel", "qk_norm": "rms_norm_across_heads"} | values


def added_tensors(config: TransformerConfig, stock: Shards) -> dict[str, Tensor]:
    """What stock weights lack, tensors [...] by name, as it begins: without any effect on what they predict.

    Camera heads see as the first pre-trained heads do, along the rays of their tokens, and write nothing yet.
    """
    tensors: dict[str, Tensor] = {}
    inner = config.camera_heads * config.attention_head_dim
    for number in range(config.num_layers):
        block = f"blocks.{number}."
        if config.camera == "additive":
            tensors[block + "camera_encoder.weight"] = torch.zeros(config.width, 12)
            tensors[block + "camera_encoder.bias"] = torch.zeros(config.width)
        if not config.camera_heads:
            continue
        heads = Attention(config.width, config.camera_heads, config.attention_head_dim, config.eps)
        state = {name: stock.rows(block + "attn1." + name, inner) for name in _SEEING}
        state |= {f"to_out.0.{name}": torch.zeros_like(value) for name, value in heads.to_out[0].state_dict().items()}
        heads.load_state_dict(state, assign=True)
        if config.camera == "rays":
            look_along_rays(heads, config)
        tensors |= {block + "attn1.camera_heads." + name: value for name, value in heads.state_dict().items()}
    if config.relative_cameras:
        tensors["pixel_embedding.weight"] = torch.zeros(config.width, 2 + 4 * PIXEL_OCTAVES)
        tensors["pixel_embedding.bias"] = torch.zeros(config.width)
    return tensors
