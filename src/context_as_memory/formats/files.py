"""Files in general: written whole or not at all; arrays, JSON and text read by one reader each."""

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError

# Left beside the real files by file managers and archives; never content.
LITTER = {".ds_store", "thumbs.db", "desktop.ini", "__macosx", ".localized"}


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Give the path to write to instead of `path`; it gets that name at the end, and is removed if the block fails.

    sync: the file and its name are on the disk when the block has ended, also after a power cut.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file to write")
    partial = partial_path(path)
    try:
        yield partial
        if sync:
            sync_path(partial)
        os.replace(partial, path)
        if sync:
            sync_path(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_folder(folder: Path, option: str) -> None:
    """Make sure that files could be written into a folder that is there or not yet, before time is spent on them.
    Leaves nothing behind. option: the flag that named it, for the `UserError`."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        if there != folder:
            why += f": {there}"
        raise UserError(f"cannot write to {folder} ({why}); choose another {option} folder") from None


def sync_path(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all. Missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write one array of any shape [...] as .npy, whole or not at all. Missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of any shapes [...] by name as a compressed .npz, whole or not at all. Missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def partial_path(path: Path) -> Path:
    """Where this process writes a file before it gets its name: `<name>.<machine>.<process>.partial` beside it.

    A rename there is atomic, and two processes that write one file do not meet, also on two machines. A name that
    would be too long for the disk is cut.
    """
    ending = f".{socket.gethostname()[:64]}.{os.getpid()}.partial"
    name = path.name
    while len(os.fsencode(name)) + len(ending) > 255:
        name = name[:-1]
    return path.with_name(name + ending)


def clear_partials(folder: Path, name: str = "*", idle_s: float = 60.0) -> None:
    """Remove what processes that were killed left of files of this name (a pattern).

    A file that was written to in the last `idle_s` seconds may be another machine's, and stays.
    """
    for left in folder.glob(f"{name}.*.partial"):
        process = left.name.split(".")[-2]
        with contextlib.suppress(OSError):
            if process.isdigit() and not _is_running(int(process)) and time.time() - left.stat().st_mtime > idle_s:
                left.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


# -- reading -----------------------------------------------------------------------------------------------------------


def check_plain(path: str | Path) -> None:
    """`UserError` for a pipe, a device or a socket: these may be waited for, or give bytes, without end."""
    found = Path(path)
    if found.exists() and not (found.is_file() or found.is_dir()):
        raise UserError(f"{path}: is no plain file; copy what it gives into one")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one sentence that starts with its name.

    Readers of other people raise what they meet in a damaged file, so every `Exception` is caught.
    """
    check_plain(path)
    try:
        yield
    except UserError as error:
        message = str(error)
        raise (error if message.startswith(str(path)) else UserError(f"{path}: {message}")) from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path and its rights") from None
    except Exception as error:
        raise UserError(f"{path}: damaged or of another kind ({reason(error)}); write the file again") from None


def reason(error: BaseException) -> str:
    """What an exception says, in one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def read_array(path: str | Path, *, mapped: bool = False) -> np.ndarray:
    """One array of real numbers, of any shape [...], from an .npy file, in its own number format. `UserError` for
    anything else. mapped: it stays on the disk, and only what is looked at is read."""
    with reading(path), _no_objects("the array holds"):
        if mapped:
            return _real(np.lib.format.open_memmap(path, mode="r"), "the content")
        with Path(path).open("rb") as file:
            array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise UserError("an archive of arrays; give a single array saved with numpy.save")
        return _real(array, "the content")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays [...] of an .npz file by name; texts and other arrays without numbers are left out."""
    with reading(path), Path(path).open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise UserError("a single array; name the file .npy")
        found: dict[str, np.ndarray] = {}
        for name in loaded.files:
            with _no_objects(f"{name!r} holds"):
                found[name] = loaded[name]
        return {name: array for name, array in found.items() if array.dtype.kind in "fiub"}


@contextmanager
def _no_objects(what: str) -> Iterator[None]:
    """NumPy stores arrays of objects as a pickle, which could run code when it is read."""
    try:
        yield
    except ValueError as error:
        if "Object arrays" not in str(error) and "Python objects" not in str(error):
            raise
        raise UserError(
            f"{what} Python objects instead of numbers, which are not read for safety; save it as numbers, "
            "np.asarray(x, float)"
        ) from None


def _real(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise UserError(f"{name} is not an array of real numbers; give one")
    return array


def read_text(path: str | Path) -> str:
    """Text of a file in UTF-8, or in UTF-16 with its mark, without the mark. `UserError` for anything else."""
    with reading(path):
        data = Path(path).read_bytes()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, with or without the mark that Windows tools write. `UserError` for anything else."""
    text = read_text(path)
    with reading(path):
        return json.loads(text)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_litter(path: Path) -> bool:
    """Whether a file is hidden or was left by a file manager: `._0000.png`, `.DS_Store`, `Thumbs.db`, `__MACOSX`."""
    return path.name.startswith(".") or path.name.lower() in LITTER


def is_partial(path: Path) -> bool:
    """Whether a file is one that is being written (`partial_path`)."""
    return path.suffix == ".partial"
