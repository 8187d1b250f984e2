"""Depth from pictures: profiles for frames whose depth nobody knows, by a network for monocular depth (extra `depth`).

world.depth = DepthEstimator.from_pretrained("depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf")

Networks that answer in metres will do, as transformers has them: Depth Anything with a metric head, ZoeDepth, DepthPro.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch.nn.functional import interpolate

from context_as_memory.camera import Z_UP, Cameras, eye_level, horizon_profile
from context_as_memory.compute import pick_device
from context_as_memory.errors import UserError, install

_FILES = ["config.json", "preprocessor_config.json", "model*.safetensors*"]  # all that is fetched from a hub
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_FRAMES_AT_ONCE = 4  # about 1 GB of working memory with a small Depth Anything; more are no faster on a CPU


class DepthEstimator:
    """Depth of pictures, and their profiles along the horizon as a memory keeps them (`World.depth`)."""

    def __init__(self, model: Any, pixels: dict[str, Any], *, scale: float = 1.0, up: ArrayLike = Z_UP) -> None:
        """`pixels`: image_mean and image_std, what the network wants taken off and divided out, [3] each; the others as
        in `from_pretrained`."""
        if not 0 < scale < np.inf:
            raise UserError(f"depth: the scale is {scale}; give a number above 0")
        self.model, self.scale, self.up = model.eval(), scale, up
        self.mean, self.std = (
            torch.tensor(pixels[name], device=model.device).view(3, 1, 1) for name in ("image_mean", "image_std")
        )

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str = "auto", scale: float = 1.0, up: ArrayLike = Z_UP
    ) -> "DepthEstimator":
        """Load a folder or a model of the Hugging Face hub; nothing but JSON and safetensors is read, no code.

        scale: metres of this world per metre of the network. up: [3], upwards in this world. Raises `UserError` if
        transformers is missing, for names behind which there is no whole model, and for models of relative depth.
        """
        try:
            from huggingface_hub import snapshot_download
            from transformers import AutoConfig, AutoModelForDepthEstimation
        except ImportError as error:
            raise UserError(f"depth from pictures needs transformers: {install('depth')}") from error
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(str(name), allow_patterns=_FILES))
            config = AutoConfig.from_pretrained(folder, **options)
            settings = folder / "preprocessor_config.json"
            pixels = _IMAGENET | (json.loads(settings.read_text()) if settings.exists() else {})
        except (OSError, ValueError) as error:
            raise UserError(
                f"depth: {str(name)!r} is neither a folder with a model nor one of the hub that can be reached "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        kind = config.model_type
        if kind not in ("zoedepth", "depth_pro") and not (
            kind == "depth_anything" and config.depth_estimation_type == "metric"
        ):
            raise UserError(
                f"depth: {str(name)!r} ({kind}) is not known to answer in metres, and a depth profile needs metres; "
                "give a metric model, for example depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
            )
        try:
            model, info = AutoModelForDepthEstimation.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
            )
        except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"depth: {str(name)!r} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
        if missing := sorted(info["missing_keys"]):  # transformers would fill them with random numbers
            raise UserError(f"depth: the weights of {str(name)!r} do not fit its config.json: they lack {missing[0]}")
        return cls(model.to(pick_device(device)), pixels, scale=scale, up=up)

    def __call__(self, frames_u8: np.ndarray, cameras: Cameras) -> np.ndarray:
        """Profiles at eye level, float32 [T, PROFILE] metres, of frames uint8 [T, H, W, 3] and their cameras."""
        levels = eye_level(cameras, self.up)
        maps = self.depth_m(frames_u8, cameras)
        return np.stack([horizon_profile(depth, level) for depth, level in zip(maps, levels, strict=True)])

    @torch.inference_mode()
    def depth_m(self, frames_u8: np.ndarray, cameras: Cameras) -> np.ndarray:
        """Depth maps, float32 [T, H, W] metres along the viewing direction, of frames uint8 [T, H, W, 3]."""
        height, width = cameras.height, cameras.width
        if frames_u8.dtype != np.uint8 or frames_u8.shape != (len(cameras), height, width, 3):
            raise UserError(
                f"depth: frames are {frames_u8.dtype} {list(frames_u8.shape)}, the cameras are for uint8 "
                f"{[len(cameras), height, width, 3]}"
            )
        size = _input_size(self.model.config, height, width)
        spread = torch.from_numpy(2 * cameras.half_width_tan).float().to(self.mean.device).view(-1, 1, 1)
        maps = []
        for start in range(0, len(cameras), _FRAMES_AT_ONCE):
            part = slice(start, start + _FRAMES_AT_ONCE)
            rgb = torch.from_numpy(np.ascontiguousarray(frames_u8[part])).to(self.mean.device).permute(0, 3, 1, 2) / 255
            rgb = interpolate(rgb, size, mode="bilinear", antialias=True)
            depth = self.model((rgb - self.mean) / self.std).predicted_depth
            if self.model.config.model_type == "depth_pro":  # the inverse of depth, for a lens as long as the picture
                depth = 1 / (depth * spread[part]).clamp(min=1e-4)
            maps.append(self.scale * interpolate(depth[:, None], (height, width), mode="bilinear")[:, 0])
        return torch.cat(maps).cpu().numpy()


def _input_size(config: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width that a network is given a picture in: near the size that it was trained with, in the picture's
    proportions, in whole patches."""
    if config.model_type == "depth_pro":  # cuts up a square of one size
        side = round(config.patch_size / config.scaled_images_ratios[0])
        return side, side
    size, patch = config.backbone_config.image_size, config.backbone_config.patch_size
    scale = min(size / height, size / width, key=lambda factor: abs(factor - 1))
    rows, columns = (max(1, round(scale * side / patch)) for side in (height, width))
    return rows * patch, columns * patch
