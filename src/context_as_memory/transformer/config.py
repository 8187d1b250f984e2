"""Sizes and choices of the denoiser."""

from dataclasses import dataclass

from context_as_memory.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes and choices. The first fields have diffusers' names and meanings; `text_dim=None` leaves text out."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 3
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int | None = None
    freq_dim: int = 256
    ffn_dim: int = 1536
    num_layers: int = 11
    cross_attn_norm: bool = True
    eps: float = 1e-6

    camera: str = "rays"  # none | additive | prope | rays
    camera_heads: int = 0  # heads beside the pre-trained ones that carry the camera; 0: all heads do
    context_mode: str = "per_frame"  # joint | cached | per_frame
    translation_scale_m: float = 4.0  # metres that count as 1 inside the model: about the distance of a wall
    ray_depths_m: tuple[float, float] = (1.5, 12.0)  # `rays`: the depths that the first and the last head suppose

    def __post_init__(self) -> None:
        if self.camera not in ("none", "additive", "prope", "rays"):
            raise UserError(f"transformer config: camera {self.camera!r} is not one of none, additive, prope, rays")
        if self.context_mode not in ("joint", "cached", "per_frame"):
            raise UserError(
                f"transformer config: context_mode {self.context_mode!r} is not one of joint, cached, per_frame"
            )
        if self.context_mode == "per_frame" and self.camera == "additive":
            raise UserError(
                "transformer config: per_frame context needs camera=prope or rays; an additive pose is not relative"
            )
        if self.camera_heads and not self.relative_cameras:
            raise UserError(f"transformer config: camera heads need camera=prope or rays, not {self.camera}")
        if self.patch_size[0] != 1:
            raise UserError("transformer config: patches must span one frame, since frames are the unit of memory")
        if self.attention_head_dim % 8:
            raise UserError("transformer config: attention_head_dim must be a multiple of 8")

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def relative_cameras(self) -> bool:
        """Whether attention sees cameras relative to each other only."""
        return self.camera in ("prope", "rays")

    @property
    def rotary_dim(self) -> int:
        """Channels per head that turn with the token's place; with relative cameras the others carry the camera."""
        return self.attention_head_dim // 2 if self.relative_cameras else self.attention_head_dim
