"""A backbone: a public pipeline folder in the diffusers layout that a model refers to instead of copying it.

A model folder holds what it adds; a component that is not in it is taken from its backbone. `model.json` names the
backbone and its hash, so that another one is never taken for it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from context_as_memory.adapters.hub import fetch, is_hub_name
from context_as_memory.adapters.shards import sample
from context_as_memory.errors import UserError

_GENERATE = ("transformer", "vae")  # components that pictures come from


def identity(folder: Path) -> str:
    """SHA-256 that tells a backbone from others: over config and index files of the components that generate, and over
    sizes, headers and first numbers of their weights; some megabytes are read, not all of them."""
    digest = hashlib.sha256()
    for part in _GENERATE:
        for path in sorted((folder / part).glob("*")):
            if path.suffix == ".json":
                digest.update(f"{part}/{path.name}".encode() + path.read_bytes())
            elif path.suffix == ".safetensors":
                digest.update(f"{part}/{path.name}".encode() + sample(path))
    return digest.hexdigest()


def locate(name: str | Path, near: Path | None = None) -> Path:
    """The folder of a backbone: a path (from the folder `near`, if it is relative), or a name on the hub."""
    path = Path(name) if near is None else near / name
    if not path.is_dir():
        if not is_hub_name(str(name)):
            raise UserError(f"backbone: {path} is no folder; give a pipeline in the diffusers layout")
        path = fetch(str(name))
    return path.resolve()


def described(name: str | Path, found: Path, folder: Path) -> dict[str, Any]:
    """What `model.json` in `folder` says of the backbone of that name, which was found in `found`."""
    at = os.path.relpath(found.resolve(), folder.resolve()) if Path(name).is_dir() else str(name)
    return {"path": at, "sha256": identity(found)}


def find(told: dict[str, Any], folder: Path) -> Path:
    """The backbone that `model.json` of a folder tells of. Raises `UserError` if it is missing or another one."""
    try:
        path, wanted = str(told["path"]), str(told["sha256"])
    except KeyError as error:
        raise UserError(f"{folder / 'model.json'}: the backbone has no {error}; run `cam adapt` again") from None
    found = locate(path, folder)
    hashed = identity(found)
    if hashed != wanted:
        raise UserError(
            f"the backbone in {found} is not the one that {folder} was adapted to: its hash is {hashed}, not {wanted}; "
            "give that one, or run `cam adapt` again"
        )
    return found
