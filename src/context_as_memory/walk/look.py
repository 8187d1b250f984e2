"""Is a picture like what the weights were trained on? Pictures of another look are redrawn in the look of training."""

from typing import TYPE_CHECKING, Any

import numpy as np

from context_as_memory.formats.pictures import fit_frame
from context_as_memory.formats.places import start_frame, start_names
from context_as_memory.formats.video import to_video

if TYPE_CHECKING:
    from context_as_memory.world import World

# Between recorded frames of maps that were not trained on (at most .38) and the photographs and scans that scikit-image
# ships (at least .41): `benchmarks/look.py`. Measure it again for other weights.
FAR_LOOK = 0.39
SENTENCE = "this picture is far from what the weights were trained on: it will be redrawn in their look"


def latent_style(world: "World", frames_u8: np.ndarray) -> np.ndarray:
    """Means and deviations of every latent channel over frames uint8 [T, H, W, 3]: float64 [2 channels]."""
    import torch

    with torch.inference_mode():
        parts = [
            world.codec.encode_frames(to_video(frames_u8[start : start + 16], world.device))[0].flatten(1)
            for start in range(0, len(frames_u8), 16)
        ]
    latents = torch.cat(parts, dim=1).double().cpu().numpy()
    return np.concatenate([latents.mean(axis=1), latents.std(axis=1)])


def training_look(world: "World") -> np.ndarray:
    """The latent style of the shipped start pictures, which have the look of training: float64 [2 channels]."""
    size = world.config.width, world.config.height
    return latent_style(world, np.stack([fit_frame(start_frame(name).frame, *size)[0] for name in start_names()]))


def look_distance(world: "World", frame_u8: np.ndarray, training: np.ndarray) -> float:
    """Root mean square difference of the latent style of a picture uint8 [H, W, 3] and that of training."""
    return float(np.sqrt(np.mean((latent_style(world, frame_u8[None]) - training) ** 2)))


def look_report(world: "World", frame_u8: np.ndarray) -> dict[str, Any] | None:
    """Distance of a picture, uint8 [H, W, 3] of the size that the weights make, from the look of training; None without
    start pictures."""
    if not start_names():
        return None
    distance = look_distance(world, frame_u8, training_look(world))
    return {"distance": round(distance, 4), "threshold": FAR_LOOK, "far_from_training": distance > FAR_LOOK}
