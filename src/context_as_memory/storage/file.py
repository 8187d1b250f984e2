"""The world file, a folder: every chunk committed whole, history as a tree, branches that share it.

    world.sqlite            tables: see schema.py
    frames/<token>.png      pictures of one chunk, lossless, one below the other
    latents/<token>.safetensors

A chunk's files are written and synchronised first, then one transaction adds it to the tree and moves its branch. A
process that dies in between leaves files that nothing refers to, and no chunk that lacks files. Nothing is ever
unpickled, and file names come only from tokens of 32 hexadecimal digits.
"""

import json
import os
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from safetensors.torch import save
from torch import Tensor

from context_as_memory.camera import Cameras
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, sync_path
from context_as_memory.storage import schema
from context_as_memory.storage.content import (
    are_cameras,
    cameras_sha256,
    decode_frames,
    decode_latents,
    encode_frames,
    is_note,
    row_sha256,
    sha256,
)
from context_as_memory.storage.lease import Lease

MAIN = "main"  # the branch of a new world
FRAMES, LATENTS = schema.FOLDERS
LARGEST_SIDE = 8192  # pixels, of pictures in a world
CAMERA_BYTES = 160  # that the database holds for every frame


@dataclass(frozen=True)
class ChunkInfo:
    """One node of the tree. `first` is the frame number of its first frame, `steps` how many chunks were generated up
    to and with it, `note` where its frames come from. `lost`: found damaged, now or by `verify`. `whole`: its row in
    the database is what was written, as far as can be told; else its note is empty. `cameras_sha256` is None where the
    database has lost it: then the chunk counts as lost."""

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
    whole: bool = True
    cameras_sha256: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Two branches side by side. common: their last common chunk (None: they share nothing); common_frames: how many
    frames they share; frames_since: how many each has after those."""

    common: int | None
    common_frames: int
    frames_since: tuple[int, int]


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
        self._process = os.getpid()

    @classmethod
    def create(cls, folder: Path | str, settings: Mapping[str, Any]) -> Self:
        """Make a new world with one empty branch, `main`, open for writing. The folder must not exist or be empty."""
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder; choose another place for the world")
        with schema.clear_errors(folder), appearing(folder) as scratch:
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
        rows = self._query("SELECT key, value FROM setting")
        try:
            return {key: json.loads(value) for key, value in rows}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"the settings of the world in {self.folder} are damaged ({error}); restore it from an export or a copy"
            ) from error

    @property
    def up(self) -> np.ndarray | None:
        """Upwards in this world, unit [3]; None in files that do not say it, whose frames tell."""
        value = self.settings.get("up")
        if value is None:
            return None
        if isinstance(value, list) and len(value) == 3 and all(type(part) in (int, float) for part in value):
            up = np.array(value, np.float64)
            length = np.linalg.norm(up)
            if np.isfinite(length) and length > 1e-6:
                return np.asarray(up / length)
        raise UserError(f"the world in {self.folder} has {str(value)[:60]} for up; restore it from an export or a copy")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        settings = self.settings
        width, height = settings.get("width"), settings.get("height")
        if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in (width, height)):
            raise UserError(
                f"the world in {self.folder} says that its pictures are {str(width)[:20]}x{str(height)[:20]}; restore "
                "it from an export or a copy"
            )
        return int(width or 0), int(height or 0)

    def branches(self) -> list[BranchInfo]:
        """All branches by name."""
        return [self.branch(row[0]) for row in self._query("SELECT name FROM branch ORDER BY name")]

    def walked_s(self) -> float | None:
        """When the last frame of any branch was stored, seconds since 1970; None if there is none."""
        ends = [self.chunk(branch.head).created_s for branch in self.branches() if branch.head is not None]
        return max(ends, default=None)

    def branch(self, name: str) -> BranchInfo:
        """One branch; `UserError` lists the existing ones."""
        rows = self._query(
            "SELECT branch.head, coalesce(first + frames, 0), branch.created_s FROM branch "
            "LEFT JOIN chunk ON chunk.id = branch.head WHERE name = ?",
            (name,),
        )
        if not rows:
            known = [row[0] for row in self._query("SELECT name FROM branch ORDER BY name")]
            raise UserError(f"the world in {self.folder} has no branch {name!r}; it has {', '.join(known)}")
        return BranchInfo(name, *rows[0])

    def chunk(self, number: int) -> ChunkInfo:
        """One chunk by its id."""
        found = self._chunks("WHERE id = ?", (number,))
        if not found:
            raise UserError(f"the world in {self.folder} has no chunk {number}; `cam world info` lists them")
        return found[0]

    def chunks(self) -> list[ChunkInfo]:
        """All chunks, those that no branch reaches included, in the order of their making."""
        return self._chunks("", ())

    def frames_in_all(self) -> int:
        """Frames of all chunks, those of every branch and those that no branch reaches."""
        return int(self._query("SELECT coalesce(sum(frames), 0) FROM chunk")[0][0])

    def history(self, head: int | None) -> list[ChunkInfo]:
        """The chunks from the root to `head`, oldest first. Raises `UserError` if they do not follow each other."""
        if head is None:
            return []
        path = (
            "WITH RECURSIVE path (id) AS (SELECT ? UNION ALL SELECT chunk.parent FROM chunk JOIN path ON "
            "chunk.id = path.id WHERE chunk.parent < chunk.id) "
        )
        found = self._chunks("WHERE id IN (SELECT id FROM path)", (head,), prefix=path)
        parent, frames = None, 0
        for info in found:
            if (info.parent, info.first) != (parent, frames):
                break
            parent, frames = info.id, frames + info.frames
        if parent != head or info.id != head:
            back = (
                f"`cam world rewind {self.folder} --at {parent}` goes back there" if parent else "nothing is before it"
            )
            raise UserError(f"the history of chunk {head} in {self.folder} is damaged after chunk {parent}; {back}")
        return found

    def compare(self, a: str, b: str) -> Comparison:
        """Where two branches part: their last common chunk, and the frames of each since then. Reads no pictures."""
        ours, theirs = (self.history(self.branch_head(name)) for name in (a, b))
        common, frames = None, 0
        for one, other in zip(ours, theirs, strict=False):
            if one.id != other.id:
                break
            common, frames = one.id, one.first + one.frames
        ends = [path[-1].first + path[-1].frames if path else 0 for path in (ours, theirs)]
        return Comparison(common, frames, (ends[0] - frames, ends[1] - frames))

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with schema.clear_errors(self.folder):
            return self._database.execute(sql, values).fetchall()

    def _chunks(self, where: str, values: Sequence[Any], prefix: str = "") -> list[ChunkInfo]:
        rows = self._query(
            f"{prefix}SELECT id, parent, first, frames, steps, token, frames_sha256, latents_sha256, note, created_s, "
            f"lost, row_sha256, cameras_sha256 FROM chunk LEFT JOIN checksum ON chunk = id {where} ORDER BY first, id",
            values,
        )
        most = self._most_frames() if rows else 0
        return [self._chunk(most, *row) for row in rows]

    def _most_frames(self) -> int:
        """More than the database can hold cameras of: memory is made ready for no larger number."""
        pages, size = (int(self._query(f"PRAGMA {name}")[0][0]) for name in ("page_count", "page_size"))
        return pages * size // CAMERA_BYTES

    def _chunk(self, most: int, number: int, *columns: Any) -> ChunkInfo:
        """A row of the database as far as it can be trusted: frames are numbered and files are named by it."""
        *content, created_s, lost, row, cameras = columns
        parent, first, frames, steps, token, frames_sha256, latents_sha256, note = content
        if not isinstance(token, str) or not schema.TOKEN.fullmatch(token):
            raise UserError(f"chunk {number} of {self.folder} names files outside the world; it is not read")
        counts = (0 if parent is None else parent, first, frames, steps)
        if not all(isinstance(count, int) and count >= 0 for count in counts) or first + frames > most:
            raise UserError(f"chunk {number} of {self.folder} is damaged; restore the world from an export or a copy")
        whole = row == row_sha256(*content)
        try:
            noted = json.loads(note)
        except (ValueError, TypeError, RecursionError):
            noted = None
        if not whole or not is_note(noted, first, frames):
            whole, noted = False, {}
        created_s = created_s if isinstance(created_s, float) else 0.0
        return ChunkInfo(
            number, parent, first, frames, steps, token, str(frames_sha256), str(latents_sha256), noted, created_s,
            bool(lost) or not whole, whole, cameras,
        )  # fmt: skip

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
        self,
        branch: str,
        frames_u8: np.ndarray,
        cameras: Cameras,
        latents: Tensor,
        note: Mapping[str, Any],
        *,
        after: int | None | Literal["head"] = "head",
        packed: bytes | None = None,
    ) -> ChunkInfo:
        """Commit one chunk at the end of a branch: t frames uint8 [t, H, W, 3], t cameras, latents [C, t, h, w].

        A `note` with the key "step" marks a generated chunk. `after`: the chunk that must be the last one so far (None:
        the branch must be empty), for who made the new one from what it remembers of the branch. `packed`: what
        `encode_frames` makes of the frames, if that was done before. Raises `UserError`
        when another is, or when it cannot be written (a full disk, a folder taken away); nothing of it is kept then,
        and the world is as it was.
        """
        self._check_writable()
        head = self.branch_head(branch)
        if after != "head" and after != head:
            raise UserError(
                f"branch {branch!r} of the world in {self.folder} was moved meanwhile (its last chunk was {after}, now "
                f"it is {head}); open the world again"
            )
        before = None if head is None else self.chunk(head)
        if before is not None and not before.whole:  # frames are numbered by it
            raise UserError(
                f"chunk {head}, the last one of branch {branch!r} of the world in {self.folder}, is damaged; rewind to "
                f"chunk {before.parent}"
            )
        token = uuid.uuid4().hex
        pictures = encode_frames(frames_u8) if packed is None else packed
        tensors = save({"latents": latents.detach().cpu().contiguous()})
        written: list[Path] = []
        try:
            with schema.clear_errors(self.folder):
                for folder, suffix, data in ((FRAMES, ".png", pictures), (LATENTS, ".safetensors", tensors)):
                    written.append(self.folder / folder / f"{token}{suffix}")
                    _write_file(written[-1], data)
                with self.transaction():
                    first = 0 if before is None else before.first + before.frames
                    steps = (0 if before is None else before.steps) + ("step" in note)
                    row = (
                        head, first, len(frames_u8), steps, token, sha256(pictures), sha256(tensors),
                        json.dumps(dict(note)),
                    )  # fmt: skip
                    cursor = self._database.execute(
                        "INSERT INTO chunk (parent, first, frames, steps, token, frames_sha256, latents_sha256, note, "
                        "created_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (*row, time.time()),
                    )
                    chunk = cursor.lastrowid
                    assert chunk is not None
                    poses = self._append_cameras(chunk, cameras)
                    self._database.execute(
                        "INSERT INTO checksum VALUES (?, ?, ?)", (chunk, row_sha256(*row), cameras_sha256(poses))
                    )
                    moved = self._database.execute(
                        "UPDATE branch SET head = ? WHERE name = ? AND head IS ?", (chunk, branch, head)
                    )
                    if moved.rowcount != 1:
                        raise UserError(f"branch {branch!r} of {self.folder} was moved meanwhile; open it again")
        except BaseException:
            if not self._may_hold(token):
                for path in written:
                    path.unlink(missing_ok=True)
            raise
        return self.chunk(chunk)

    def _may_hold(self, token: str) -> bool:
        """Whether a chunk is, or may be, in the database. Ctrl-C can come when a commit is done: then its files stay;
        where nobody can tell, they are left to `compact`."""
        try:
            return bool(self._query("SELECT 1 FROM chunk WHERE token = ?", (token,)))
        except UserError:
            return True

    def _append_cameras(self, chunk: int, cameras: Cameras) -> list[tuple[bytes, bytes]]:
        poses = [
            (c2w.astype("<f8").tobytes(), K.astype("<f8").tobytes())
            for c2w, K in zip(cameras.c2w, cameras.K, strict=True)
        ]
        for row, pose in enumerate(poses):
            self._database.execute("INSERT INTO frame (chunk, row, c2w, K) VALUES (?, ?, ?, ?)", (chunk, row, *pose))
        return poses

    def branch_head(self, name: str) -> int | None:
        """The last chunk of a branch."""
        return self.branch(name).head

    def cameras(self, chunks: Sequence[ChunkInfo]) -> tuple[np.ndarray, np.ndarray]:
        """c2w float64 [N, 4, 4] and K [N, 4] of all frames of the given chunks, in their order. Raises `UserError`
        when they are damaged."""
        found = self.whole_cameras(chunks)
        for info in chunks:
            if info.id not in found:
                raise UserError(
                    f"cameras of chunk {info.id} in {self.folder} are damaged; run `cam world verify {self.folder}`"
                )
        parts = [found[info.id] for info in chunks]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def whole_cameras(self, chunks: Sequence[ChunkInfo]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """c2w [t, 4, 4] and K [t, 4] of each of the given chunks whose cameras are what was stored."""
        wanted = [info.id for info in chunks]
        held: dict[int, list[tuple[bytes, bytes]]] = {number: [] for number in wanted}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT chunk, c2w, K FROM frame WHERE chunk IN ({marks}) ORDER BY chunk, row"
            for chunk, c2w, K in self._query(query, part):
                if chunk in held:  # a damaged index leads to other rows
                    held[chunk].append((c2w, K))
        found = {}
        for info in chunks:
            poses = held[info.id]
            if len(poses) != info.frames or any(
                not isinstance(c2w, bytes) or not isinstance(K, bytes) or (len(c2w), len(K)) != (128, 32)
                for c2w, K in poses
            ):
                continue
            if info.cameras_sha256 == cameras_sha256(poses):
                c2w = np.frombuffer(b"".join(pose[0] for pose in poses), "<f8").reshape(-1, 4, 4)
                found[info.id] = c2w, np.frombuffer(b"".join(pose[1] for pose in poses), "<f8").reshape(-1, 4)
        if not are_cameras(list(found.values())):  # all at once is fast, and the rule
            found = {number: poses for number, poses in found.items() if are_cameras([poses])}
        return found

    def frames_u8(self, info: ChunkInfo, size: tuple[int, int]) -> np.ndarray:
        """Pictures of a chunk, uint8 [t, H, W, 3], checked against their hash; size is (width, height)."""
        data = self._checked(info, FRAMES, ".png", info.frames_sha256)
        return decode_frames(data, info.frames, *size, f"pictures of chunk {info.id} in {self.folder}")

    def latents(self, info: ChunkInfo) -> Tensor:
        """Latents of a chunk, [C, t, h, w], checked against their hash; `UserError` too if they are not finite."""
        data = self._checked(info, LATENTS, ".safetensors", info.latents_sha256)
        return decode_latents(data, info.frames, f"latents of chunk {info.id} in {self.folder}")

    def file_path(self, info: ChunkInfo, folder: str) -> Path:
        """Where a chunk's pictures (`FRAMES`) or latents (`LATENTS`) lie."""
        return self.folder / folder / (info.token + (".png" if folder == FRAMES else ".safetensors"))

    def _checked(self, info: ChunkInfo, folder: str, suffix: str, expected: str) -> bytes:
        path = self.folder / folder / f"{info.token}{suffix}"
        try:
            # Not through a link: it could lead anywhere, and wait there for ever.
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(number, "rb") as file:
                data = file.read()
        except OSError as error:
            data, reason = b"", f"cannot be read ({error.strerror or error})"
        else:
            reason = "is damaged"
        if sha256(data) != expected:
            raise UserError(
                f"chunk {info.id} (frames {info.first} to {info.first + info.frames - 1}): {path} {reason}; "
                f"`cam world verify {self.folder}` says what else is, `rewind` goes back before it"
            )
        return data

    def _check_writable(self) -> None:
        if self._lease is None:
            raise UserError(f"the world in {self.folder} is open for reading only; open it with write=True")
        if os.getpid() != self._process:  # a database and its locks do not survive fork()
            raise UserError(f"the world in {self.folder} was opened by another process; open it in this one")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; needs a world that is open for writing."""
        self._check_writable()
        with schema.clear_errors(self.folder):
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """The folders of a world under a hidden name beside `folder`. They get that name when the block ends well, and go
    when it does not: a world appears whole or not at all, and is on the disk when it has appeared."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        scratch.chmod(0o755)  # mkdtemp makes private folders
        for part in (FRAMES, LATENTS):
            (scratch / part).mkdir()
        yield scratch
        for path in (*scratch.rglob("*"), scratch):
            sync_path(path)
        os.rename(scratch, folder)
        sync_path(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is on the disk, whole, when this returns."""
    with atomic(path, sync=True) as partial:
        partial.write_bytes(data)
