"""Tensors on disk in the diffusers layout: one safetensors file, or several with an index; never all in memory at once.

A model of billions of weights is built without them, its files are compared with it by
their headers alone, and then they are read one after the other.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from context_as_memory.errors import UserError
from context_as_memory.formats.files import check_plain

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
_SAMPLE = 1 << 16  # bytes of a weights file that tell it from another one


@dataclass(frozen=True)
class Shards:
    """Where the tensors of a network lie, and their shapes."""

    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    def parts(self, dtype: torch.dtype | None = None) -> Iterator[dict[str, Tensor]]:
        """The tensors [...] of one file after the other by name; floats as `dtype`, None: as they are stored."""
        for file in dict.fromkeys(self.files.values()):
            with _opened(file) as tensors:
                names = [name for name, place in self.files.items() if place == file]
                yield {name: _as(tensors.get_tensor(name), dtype) for name in names}

    def rows(self, name: str, count: int) -> Tensor:
        """The first `count` rows of one tensor [N, ...], without reading the others: [count, ...]."""
        with _opened(self.files[name]) as tensors:
            found: Tensor = tensors.get_slice(name)[:count]
            return found.clone()


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """In memory of its own: what is read from a file is not laid out for fast kernels."""
    return tensor.to(dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype, copy=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; one clear error where it is missing or damaged."""
    check_plain(path)
    try:
        file: Any = safe_open(path, framework="pt")
    except FileNotFoundError:
        raise UserError(f"weights: {path} is missing; copy it beside its config.json") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} is damaged ({error}); fetch or train it again") from error
    with file:
        yield file


def open_file(path: Path) -> Shards:
    """The tensors of one safetensors file."""
    with _opened(path) as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return Shards(dict.fromkeys(shapes, path), shapes)


def open_shards(folder: Path) -> Shards:
    """The tensors of a network's folder, by its index if there is one. Raises `UserError` for files that are missing,
    damaged, or hold other tensors than the index says."""
    index = folder / INDEX_FILE
    if not index.exists():
        return open_file(folder / WEIGHTS_FILE)
    try:
        places = {str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"weights: {index} is no index of weights ({error}); fetch it again") from error
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file or not Path(file).suffix:  # a stranger's index must not lead elsewhere
            raise UserError(f"weights: {index} names {file[:80]!r}, which is not in its folder; fetch it again")
        if not (folder / file).exists():
            raise UserError(f"weights: {folder / file} is missing, which {INDEX_FILE} names; fetch it again")
        part = open_file(folder / file)
        named = {name for name, place in places.items() if place == file}
        if foreign := sorted(named ^ set(part.shapes)):
            raise UserError(
                f"weights: {folder / file} belongs to another model: it and {INDEX_FILE} differ in {foreign[0]}; "
                "fetch both again"
            )
        files |= part.files
        shapes |= part.shapes
    return Shards(files, shapes)


def has_weights(folder: Path) -> bool:
    """Whether a network's own weights lie in this folder."""
    return (folder / WEIGHTS_FILE).exists() or (folder / INDEX_FILE).exists()


def check_shapes(own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare the tensors that a network has with those that are there; the first that differs is named."""
    for key in sorted(set(own) | set(found)):
        if key not in found:
            raise UserError(f"weights: {where} lacks {key}; it belongs to another architecture")
        if key not in own:
            raise UserError(f"weights: {where} has {key}, which this architecture does not; check its config.json")
        if own[key] != found[key]:
            raise UserError(f"weights: {where}: {key} has shape {found[key]}, the config asks for {own[key]}")


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that a network is saved with."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def fill(model: nn.Module, sources: list[Shards], dtype: torch.dtype | None, where: str) -> None:
    """Give a network its tensors, file by file; together the sources hold each exactly once."""
    found: dict[str, tuple[int, ...]] = {}
    for source in sources:
        found |= source.shapes
    check_shapes(shapes_of(model), found, where)
    for source in sources:
        for part in source.parts(dtype):
            for key, value in part.items():
                if not bool(value.isfinite().all()):
                    raise UserError(f"weights: {where}: {key} has values that are not finite; fetch or train it again")
            model.load_state_dict(part, strict=False, assign=True)


def sample(path: Path) -> bytes:
    """What tells a weights file from others without reading it: size, header and the beginning of its numbers."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        start = file.read(8)
        digest.update(start + file.read(min(int.from_bytes(start, "little"), 1 << 28)) + file.read(_SAMPLE))
    return digest.digest()
