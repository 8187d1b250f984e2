"""Where the explorer stores its worlds: world files in a folder, every chunk safe when it is seen."""

import bisect
import contextlib
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from context_as_memory.adapters.text import check
from context_as_memory.errors import UserError
from context_as_memory.server.room import removed
from context_as_memory.storage import MAIN, WorldFile, create_world, export_world, import_world, open_world
from context_as_memory.world import World

NAME = re.compile(r"[0-9a-f]{16}")  # names are made here and never by a viewer


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A stored world in the list of them."""

    name: str
    frames: int
    """Of its longest branch; 0 where it cannot be read."""
    branches: int
    walked_s: float
    """When the last frame was stored, seconds since 1970."""


class WorldStore(Protocol):
    """Makes worlds and finds them again."""

    folder: Path  # where they lie: viewers are not told
    truth: str | None  # the name of the true world that is walked in, where none is generated
    size: tuple[int, int]  # width and height of the pictures

    def create(self, seed: int) -> tuple[str, World]:
        """A world with an empty memory, and the name under which it can be opened again."""
        ...

    def open(self, name: str, branch: str = MAIN) -> World:
        """A stored world at the end of a branch; `UserError` if there is none, or somebody is walking in it."""
        ...

    def path(self, name: str) -> Path:
        """The folder of a world file, which may not exist; `UserError` for what is no name."""
        ...

    def names(self) -> list[str]:
        """The stored worlds, the last one walked in first."""
        ...

    def kept(self) -> list[Kept]:
        """The same with what a visitor wants to know of each."""
        ...

    def free_bytes(self) -> int:
        """Room on the disk that they lie on."""
        ...

    def copy(self, name: str) -> str:
        """A copy of a stored world, which may be in use; its name."""
        ...

    def remove(self, name: str) -> None:
        """Throw a world away that nobody walked in; it must be closed."""
        ...


class StoredWorlds:
    """World files in a folder, one per world."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.truth: str | None = None

    def path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise UserError("that is no name of a world")
        return self.folder / name

    def names(self) -> list[str]:
        self.folder.mkdir(parents=True, exist_ok=True)  # it may have been taken away while the server runs
        found = [folder for folder in self.folder.iterdir() if NAME.fullmatch(folder.name) and folder.is_dir()]
        return [folder.name for folder in sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)]

    def kept(self) -> list[Kept]:
        found = []
        for name in self.names():
            try:
                with WorldFile.open(self.path(name), write=False) as file:
                    branches = file.branches()
                    walked_s = file.walked_s() or 0.0
                    longest = max((branch.frames for branch in branches), default=0)
                found.append(Kept(name=name, frames=longest, branches=len(branches), walked_s=walked_s))
            except UserError:  # a damaged one does not hide the others; opening it says what is wrong
                found.append(Kept(name=name, frames=0, branches=0, walked_s=0.0))
        return sorted(found, key=lambda one: one.walked_s, reverse=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder if self.folder.exists() else self.folder.anchor or ".").free

    def copy(self, name: str) -> str:
        """A copy of a stored world, which may be in use; its name."""
        twin = secrets.token_hex(8)
        with tempfile.TemporaryDirectory(prefix="copy-", dir=self.folder) as folder:
            with WorldFile.open(self.path(name), write=False) as file:
                archive = export_world(file, Path(folder) / "world.tar")
            import_world(archive, self.path(twin))
        return twin

    def remove(self, name: str) -> None:
        shutil.rmtree(self.path(name), ignore_errors=True)


class FolderStore(StoredWorlds):
    """Generated worlds. The networks are loaded once and shared by all of them.

    kind: the class of the worlds. prompt: of new worlds, None: as stored with the weights; `UserError` if the weights
    cannot read it.
    """

    def __init__(
        self,
        folder: Path,
        weights: str | Path = "default",
        device: str = "auto",
        kind: type[World] = World,
        prompt: str | None = None,
    ) -> None:
        super().__init__(folder)
        self.weights = weights
        self._networks = kind.from_pretrained(weights, device=device)
        self.size = self._networks.config.width, self._networks.config.height
        self._prompt = self._networks.config.prompt if prompt is None else prompt
        check(self._networks.model.words, self._networks.config.guidance, self._prompt, None)

    def create(self, seed: int) -> tuple[str, World]:
        name = secrets.token_hex(8)
        world = create_world(self.path(name), self.weights, networks=self._networks, seed=seed, prompt=self._prompt)
        return name, world

    def open(self, name: str, branch: str = MAIN) -> World:
        if not self.path(name).is_dir():
            went = next((one for one in removed(self.folder) if one.name == name), None)
            if went is not None:
                day = time.strftime("%Y-%m-%d", time.localtime(went.removed_s))
                raise UserError(f"world {name} was removed on {day} to make room (--keep-worlds-gb); begin a new one")
            raise UserError(f"this server keeps no world {name}; it may lie in another folder (--worlds)")
        return open_world(self.path(name), branch, weights=self.weights, networks=self._networks)


def chunk_of(file: WorldFile, branch: str, frame: int) -> int:
    """The chunk of a branch that holds a frame; `UserError` if none does."""
    for chunk in file.history(file.branch_head(branch)):
        if chunk.first <= frame < chunk.first + chunk.frames:
            return chunk.id
    raise UserError(f"frame {frame} is not in this walk; it has {file.branch(branch).frames}")


def stored_frames(folder: Path, branch: str, numbers: Sequence[int]) -> np.ndarray:
    """Frames of a branch, uint8 [n, H, W, 3], read beside whoever walks in it; -1 is the last one.

    Grey where a chunk is damaged. `UserError` for numbers that it does not have.
    """
    with WorldFile.open(folder, write=False) as file:
        width, height = file.size
        chunks = file.history(file.branch_head(branch))
        firsts = [chunk.first for chunk in chunks]
        count = firsts[-1] + chunks[-1].frames if chunks else 0
        found = np.full((len(numbers), height, width, 3), 128, np.uint8)
        held: dict[int, np.ndarray] = {}
        wanted = [count - 1 if number == -1 else number for number in numbers]
        for row, number in enumerate(wanted):
            if not 0 <= number < count:
                raise UserError(f"frame {number} is not in this walk; it has {count}")
            at = bisect.bisect_right(firsts, number) - 1
            if at not in held:
                held = {at: np.empty(0)}
                with contextlib.suppress(UserError):
                    held[at] = file.frames_u8(chunks[at], (width, height))
            if len(held[at]):
                found[row] = held[at][number - firsts[at]]
    return found


def check_branches(file: WorldFile, most: int) -> None:
    """`UserError` if a world has as many branches as it may."""
    if len(file.branches()) >= most:
        raise UserError(f"this world has {most} branches, the most that are kept here; go on with one of them")


def rewind(file: WorldFile, branch: str, frame: int, branches: int = 64) -> None:
    """Let a branch end with the chunk that holds `frame`; what came after stays as a branch of its own."""
    at = chunk_of(file, branch, frame)
    if at != file.branch_head(branch):
        check_branches(file, branches)
        file.fork(f"before going back to frame {frame} ({len(file.branches())})", branch)
        file.rewind(branch, at)
