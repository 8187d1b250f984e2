"""A world as a folder: every chunk committed whole, history as a tree, branches that share it.

    world.sqlite            tables: see schema.py
    frames/<token>.png      pictures of one chunk, lossless, one below the other
    latents/<token>.safetensors

A chunk's files are written and synchronised first, then one transaction adds it to the tree and moves its branch. A
process that dies in between leaves files that nothing refers to, and no chunk that lacks files. Nothing is ever
unpickled, and file names come only from tokens of 32 hexadecimal digits.
"""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.video import partial_path
from context_as_memory.worldfile import schema
from context_as_memory.worldfile.lease import Lease

MAIN = "main"  # the branch of a new world
FRAMES, LATENTS = "frames", "latents"  # folders
KEPT_CHUNKS = 32  # whose pictures and latents stay in working memory
MAX_PIXELS = 64_000_000  # of one chunk's picture file: a limit for files from strangers

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class ChunkInfo:
    """One node of the tree. `first` is the frame number of its first frame, `steps` how many chunks were generated up
    to and with it, `note` where its frames come from."""

    id: int
    parent: int | None
    first: int
    frames: int
    steps: int
    token: str
    frames_sha256: str
    latents_sha256: str
    note: dict[str, Any]
    created_s: float
    lost: bool


@dataclass(frozen=True)
class BranchInfo:
    """A name for one path through the tree. `head` is its last chunk (None: still empty)."""

    name: str
    head: int | None
    frames: int
    created_s: float


class WorldFile:
    """An open world. `WorldFile.create` or `WorldFile.open`; a `with` block closes it."""

    def __init__(self, folder: Path, database: sqlite3.Connection, lease: Lease | None) -> None:
        self.folder, self._database, self._lease = folder, database, lease

    @classmethod
    def create(cls, folder: Path | str, settings: Mapping[str, Any]) -> Self:
        """Make a new world with one empty branch, `main`, open for writing. The folder must not exist or be empty."""
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder; choose another place for the world")
        with _clear_errors(folder), appearing(folder) as scratch:
            database = schema.create(scratch)
            database.execute("BEGIN IMMEDIATE")
            rows = [(key, json.dumps(value)) for key, value in settings.items()]
            database.executemany("INSERT INTO setting VALUES (?, ?)", rows)
            database.execute("INSERT INTO branch VALUES (?, NULL, ?)", (MAIN, time.time()))
            database.execute("COMMIT")
            database.close()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path | str, *, write: bool = True) -> Self:
        """Open a world; one process at a time may write. Raises `UserError` if there is none, it is damaged, of an
        unknown version, or being written by somebody else."""
        folder = Path(folder)
        if not (folder / schema.DATABASE).is_file():
            schema.connect(folder, write=False)  # says what is missing
        lease = Lease(folder) if write else None
        try:
            return cls(folder, schema.connect(folder, write=write), lease)
        except BaseException:
            if lease is not None:
                lease.release()
            raise

    def close(self) -> None:
        """Close the database and give the writer's lease back; calling twice does nothing."""
        self._database.close()
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def writable(self) -> bool:
        """Whether this object holds the writer's lease."""
        return self._lease is not None

    # -- the tree --------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """What the world was made with: seed, sizes, weights and their hash."""
        rows = self._database.execute("SELECT key, value FROM setting").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def branches(self) -> list[BranchInfo]:
        """All branches by name."""
        names = [row[0] for row in self._database.execute("SELECT name FROM branch ORDER BY name")]
        return [self.branch(name) for name in names]

    def branch(self, name: str) -> BranchInfo:
        """One branch; `UserError` lists the existing ones."""
        row = self._database.execute(
            "SELECT branch.head, coalesce(first + frames, 0), branch.created_s FROM branch "
            "LEFT JOIN chunk ON chunk.id = branch.head WHERE name = ?",
            (name,),
        ).fetchone()
        if row is None:
            known = [r[0] for r in self._database.execute("SELECT name FROM branch ORDER BY name")]
            raise UserError(f"the world in {self.folder} has no branch {name!r}; it has {', '.join(known)}")
        return BranchInfo(name, row[0], row[1], row[2])

    def chunk(self, number: int) -> ChunkInfo:
        """One chunk by its id."""
        found = self._chunks("WHERE id = ?", (number,))
        if not found:
            raise UserError(f"the world in {self.folder} has no chunk {number}; `cam world info` lists them")
        return found[0]

    def chunks(self) -> list[ChunkInfo]:
        """All chunks, those that no branch reaches included, in the order of their making."""
        return self._chunks("", ())

    def history(self, head: int | None) -> list[ChunkInfo]:
        """The chunks from the root to `head`, oldest first."""
        if head is None:
            return []
        path = (
            "WITH RECURSIVE path (id) AS (SELECT ? UNION ALL SELECT chunk.parent FROM chunk JOIN path ON "
            "chunk.id = path.id WHERE chunk.parent IS NOT NULL) "
        )
        return self._chunks("WHERE id IN (SELECT id FROM path)", (head,), prefix=path)

    def _chunks(self, where: str, values: Sequence[Any], prefix: str = "") -> list[ChunkInfo]:
        columns = (
            "id, parent, first, frames, steps, token, frames_sha256, latents_sha256, note, created_s, lost FROM chunk"
        )
        with _clear_errors(self.folder):
            rows = self._database.execute(f"{prefix}SELECT {columns} {where} ORDER BY first, id", values).fetchall()
        names = columns.removesuffix(" FROM chunk").split(", ")
        found = [ChunkInfo(**dict(zip(names, row, strict=True))) for row in rows]
        found = [replace(info, note=json.loads(str(info.note)), lost=bool(info.lost)) for info in found]
        for info in found:
            if not schema.TOKEN.fullmatch(info.token):
                raise UserError(f"chunk {info.id} of {self.folder} names files outside the world; it is not read")
        return found

    def fork(self, name: str, source: str = MAIN, at: int | None = None) -> BranchInfo:
        """A new branch that shares all history of `source` up to chunk `at` (its head if None). Costs a row."""
        head = self.branch_head(source) if at is None else self.chunk(at).id
        if not name or len(name) > 200 or not name.isprintable():
            raise UserError(f"{name!r} is no name for a branch; use 1 to 200 printable characters")
        with self.transaction():
            try:
                self._database.execute("INSERT INTO branch VALUES (?, ?, ?)", (name, head, time.time()))
            except sqlite3.IntegrityError:
                raise UserError(
                    f"the world in {self.folder} has a branch {name!r} already; choose another name"
                ) from None
        return self.branch(name)

    def rewind(self, name: str, at: int | None) -> BranchInfo:
        """Let a branch end with chunk `at` (None: empty it). What came after stays until `compact`. Costs a row."""
        self.branch(name)
        head = None if at is None else self.chunk(at).id
        with self.transaction():
            self._database.execute("UPDATE branch SET head = ? WHERE name = ?", (head, name))
        return self.branch(name)

    def delete(self, name: str) -> None:
        """Remove a branch; its chunks stay until `compact`. The last one cannot be removed."""
        self.branch(name)
        with self.transaction():
            if self._database.execute("SELECT count(*) FROM branch").fetchone()[0] == 1:
                raise UserError(f"{name!r} is the only branch of the world in {self.folder}; remove the folder instead")
            self._database.execute("DELETE FROM branch WHERE name = ?", (name,))

    # -- content ---------------------------------------------------------------------------------------------------

    def append(
        self, branch: str, frames_u8: np.ndarray, cameras: Cameras, latents: Tensor, note: Mapping[str, Any]
    ) -> ChunkInfo:
        """Commit one chunk at the end of a branch: t frames uint8 [t, H, W, 3], t cameras, latents [C, t, h, w].

        A `note` with the key "step" marks a generated chunk. Raises `UserError` when it cannot be written (a full disk,
        a folder taken away); nothing of it is kept then, and the world is as it was.
        """
        head = self.branch_head(branch)
        before = None if head is None else self.chunk(head)
        token = uuid.uuid4().hex
        pictures, tensors = encode_frames(frames_u8), save({"latents": latents.detach().cpu().contiguous()})
        written: list[Path] = []
        try:
            with _clear_errors(self.folder):
                for folder, suffix, data in ((FRAMES, ".png", pictures), (LATENTS, ".safetensors", tensors)):
                    written.append(self.folder / folder / f"{token}{suffix}")
                    _write_file(written[-1], data)
                with self.transaction():
                    first = 0 if before is None else before.first + before.frames
                    steps = (0 if before is None else before.steps) + ("step" in note)
                    cursor = self._database.execute(
                        "INSERT INTO chunk (parent, first, frames, steps, token, frames_sha256, latents_sha256, note, "
                        "created_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (
                            head, first, len(frames_u8), steps, token, _sha256(pictures), _sha256(tensors),
                            json.dumps(dict(note)), time.time(),
                        ),
                    )  # fmt: skip
                    chunk = cursor.lastrowid
                    assert chunk is not None
                    self._append_cameras(chunk, first, cameras)
                    moved = self._database.execute(
                        "UPDATE branch SET head = ? WHERE name = ? AND head IS ?", (chunk, branch, head)
                    )
                    if moved.rowcount != 1:
                        raise UserError(f"branch {branch!r} of {self.folder} was moved meanwhile; open it again")
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        return self.chunk(chunk)

    def _append_cameras(self, chunk: int, first: int, cameras: Cameras) -> None:
        for row in range(len(cameras)):
            cursor = self._database.execute(
                "INSERT INTO frame (chunk, row, c2w, K) VALUES (?, ?, ?, ?)",
                (chunk, row, cameras.c2w[row].astype("<f8").tobytes(), cameras.K[row].astype("<f8").tobytes()),
            )
            x, y, z = cameras.position[row].tolist()
            time_ = first + row
            place = (cursor.lastrowid, x, x, y, y, z, z, time_, time_)
            self._database.execute("INSERT INTO place VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", place)

    def branch_head(self, name: str) -> int | None:
        """The last chunk of a branch."""
        row = self._database.execute("SELECT head FROM branch WHERE name = ?", (name,)).fetchone()
        if row is None:
            self.branch(name)  # says which branches there are
        head: int | None = row[0]
        return head

    def cameras(self, chunks: Sequence[ChunkInfo]) -> tuple[np.ndarray, np.ndarray]:
        """c2w float64 [N, 4, 4] and K [N, 4] of all frames of the given chunks, in their order."""
        wanted = [info.id for info in chunks]
        found: dict[int, list[tuple[bytes, bytes]]] = {number: [] for number in wanted}
        with _clear_errors(self.folder):
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                marks = ",".join("?" * len(part))
                query = f"SELECT chunk, c2w, K FROM frame WHERE chunk IN ({marks}) ORDER BY chunk, row"
                for chunk, c2w, K in self._database.execute(query, part):
                    found[chunk].append((c2w, K))
        for info in chunks:
            if len(found[info.id]) != info.frames:
                raise UserError(f"chunk {info.id} of {self.folder} lacks cameras; run `cam world verify {self.folder}`")
        rows = [row for number in wanted for row in found[number]]
        c2w = np.frombuffer(b"".join(row[0] for row in rows), "<f8").reshape(-1, 4, 4)
        return c2w, np.frombuffer(b"".join(row[1] for row in rows), "<f8").reshape(-1, 4)

    def frames_u8(self, info: ChunkInfo, size: tuple[int, int]) -> np.ndarray:
        """Pictures of a chunk, uint8 [t, H, W, 3], checked against their hash; size is (width, height)."""
        data = self._checked(info, FRAMES, ".png", info.frames_sha256)
        return decode_frames(data, info.frames, *size, f"pictures of chunk {info.id} in {self.folder}")

    def latents(self, info: ChunkInfo) -> Tensor:
        """Latents of a chunk, [C, t, h, w], checked against their hash."""
        data = self._checked(info, LATENTS, ".safetensors", info.latents_sha256)
        try:
            return load(data)["latents"]
        except (SafetensorError, KeyError) as error:
            raise UserError(f"latents of chunk {info.id} in {self.folder} cannot be read ({error})") from error

    def file_path(self, info: ChunkInfo, folder: str) -> Path:
        """Where a chunk's pictures (`FRAMES`) or latents (`LATENTS`) lie."""
        return self.folder / folder / (info.token + (".png" if folder == FRAMES else ".safetensors"))

    def _checked(self, info: ChunkInfo, folder: str, suffix: str, sha256: str) -> bytes:
        path = self.folder / folder / f"{info.token}{suffix}"
        try:
            data = path.read_bytes()
        except OSError as error:
            data, reason = b"", f"cannot be read ({error.strerror or error})"
        else:
            reason = "is damaged"
        if _sha256(data) != sha256:
            raise UserError(
                f"chunk {info.id} (frames {info.first} to {info.first + info.frames - 1}): {path} {reason}; "
                f"`cam world verify {self.folder}` says what else is, `rewind` goes back before it"
            )
        return data

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; needs a world that is open for writing."""
        if self._lease is None:
            raise UserError(f"the world in {self.folder} is open for reading only; open it with write=True")
        with _clear_errors(self.folder):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise


class BranchStore:
    """One branch of a world file as the `Store` of a memory bank."""

    def __init__(self, file: WorldFile, branch: str = MAIN) -> None:
        self.file, self.branch = file, branch
        self.chunks = file.history(file.branch_head(branch))
        self._first = [info.first for info in self.chunks]
        settings = file.settings
        self._size = (int(settings["width"]), int(settings["height"]))
        self._frames: _Kept[np.ndarray] = _Kept(lambda info: file.frames_u8(info, self._size))
        self._latents: _Kept[Tensor] = _Kept(file.latents)

    @property
    def steps(self) -> int:
        """Generated chunks so far: the random state of what comes next, together with the world's seed."""
        return self.chunks[-1].steps if self.chunks else 0

    def append(self, frames_u8: np.ndarray, cameras: Cameras, latents: Tensor, note: Mapping[str, Any]) -> None:
        if (cameras.width, cameras.height) != self._size:
            raise UserError(f"the world in {self.file.folder} is of {self._size} pictures")
        info = self.file.append(self.branch, frames_u8, cameras, latents, note)
        self.chunks.append(info)
        self._first.append(info.first)

    def cameras(self) -> Cameras | None:
        if not self.chunks:
            return None
        c2w, K = self.file.cameras(self.chunks)
        return Cameras(c2w, K, *self._size)

    def frames_u8(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([self._frames(info)[row] for info, row in self._locate(rows)])

    def latents(self, rows: Sequence[int]) -> Tensor:
        return torch.stack([self._latents(info)[:, row] for info, row in self._locate(rows)], dim=1)

    def readable(self) -> np.ndarray | None:
        if not any(info.lost for info in self.chunks):
            return None
        return np.repeat([not info.lost for info in self.chunks], [info.frames for info in self.chunks])

    def notes(self) -> list[tuple[int, Mapping[str, Any]]]:
        return [(info.frames, info.note) for info in self.chunks]

    def _locate(self, rows: Sequence[int]) -> list[tuple[ChunkInfo, int]]:
        """For each entry its chunk and its row there."""
        at = np.searchsorted(self._first, rows, side="right") - 1
        return [(self.chunks[i], row - self._first[i]) for i, row in zip(at.tolist(), rows, strict=True)]


class _Kept(Generic[_Value]):
    """What was read of the chunks used last."""

    def __init__(self, read: Callable[[ChunkInfo], _Value]) -> None:
        self._read, self._held = read, OrderedDict[int, _Value]()

    def __call__(self, info: ChunkInfo) -> _Value:
        if info.id not in self._held:
            self._held[info.id] = self._read(info)
        self._held.move_to_end(info.id)
        if len(self._held) > KEPT_CHUNKS:
            self._held.popitem(last=False)
        return self._held[info.id]


def encode_frames(frames_u8: np.ndarray) -> bytes:
    """Pictures uint8 [t, H, W, 3] as one lossless PNG, one below the other."""
    from PIL import Image

    buffer = io.BytesIO()
    strip = np.ascontiguousarray(frames_u8).reshape(-1, *frames_u8.shape[2:])
    Image.fromarray(strip).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def decode_frames(data: bytes, frames: int, width: int, height: int, what: str) -> np.ndarray:
    """The inverse of `encode_frames`, uint8 [frames, height, width, 3]. `what` names the pictures in errors."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (width, frames * height) or width * frames * height > MAX_PIXELS or image.mode != "RGB":
                raise UserError(f"{what} are {image.size} {image.mode}, expected {(width, frames * height)} RGB")
            return np.array(image, dtype=np.uint8).reshape(frames, height, width, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{what} cannot be read ({error})") from error


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """The folders of a world under a hidden name beside `folder`. They get that name when the block ends well, and go
    when it does not: a world appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        scratch.chmod(0o755)  # mkdtemp makes private folders
        for part in (FRAMES, LATENTS):
            (scratch / part).mkdir()
        yield scratch
        os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is on the disk, whole, when this returns."""
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and the database into one sentence about this world."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the world in {folder} cannot be written ({error.strerror or error}); nothing of the last chunk was kept, "
            "all before it is safe"
        ) from error
    except sqlite3.Error as error:
        raise UserError(f"the database of the world in {folder} reports: {error}; committed chunks are safe") from error
