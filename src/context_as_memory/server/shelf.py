"""Where the explorer's worlds are kept: in working memory, or as world files in a folder."""

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from context_as_memory.errors import UserError

if TYPE_CHECKING:
    from context_as_memory.world import World

NAME = re.compile(r"[0-9a-f]{16}")  # names are made here and never by a viewer


class Shelf(Protocol):
    """Makes worlds and finds them again."""

    def create(self, seed: int) -> tuple[str | None, "World"]:
        """A world with an empty memory, and the name under which it can be opened again (None: it cannot)."""
        ...

    def open(self, name: str) -> "World":
        """A kept world, as it was left; `UserError` if there is none, or somebody is walking in it."""
        ...

    def rewind(self, name: str, world: "World", frame: int) -> "World":
        """Close a world, go back to the chunk that holds `frame`, and open it there. What came after is kept as a
        branch."""
        ...


class MemoryShelf:
    """Worlds that end with their session."""

    def __init__(self, make_world: Callable[[int], "World"]) -> None:
        self._make_world = make_world

    def create(self, seed: int) -> tuple[str | None, "World"]:
        return None, self._make_world(seed)

    def open(self, name: str) -> "World":
        raise UserError("this server keeps no worlds; start it with --worlds FOLDER")

    def rewind(self, name: str, world: "World", frame: int) -> "World":
        return self.open(name)


class FolderShelf:
    """World files in a folder, one per world: every chunk is safe when it is seen."""

    def __init__(self, folder: Path, weights: str | Path = "default", device: str = "auto") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.weights, self.device = folder, weights, device

    def path(self, name: str) -> Path:
        """The folder of a world; `UserError` for what is no name."""
        if not NAME.fullmatch(name):
            raise UserError("that is no name of a world")
        return self.folder / name

    def create(self, seed: int) -> tuple[str | None, "World"]:
        from context_as_memory.world import World

        name = secrets.token_hex(8)
        return name, World.create(self.path(name), self.weights, device=self.device, seed=seed)

    def open(self, name: str) -> "World":
        from context_as_memory.world import World

        return World.open(self.path(name), device=self.device)

    def rewind(self, name: str, world: "World", frame: int) -> "World":
        file = world.file
        if file is None:
            raise UserError("this world is not kept; it cannot go back")
        chunks = file.history(file.branch_head("main"))
        at = next((chunk for chunk in chunks if chunk.first <= frame < chunk.first + chunk.frames), None)
        if at is None:
            raise UserError(f"frame {frame} is not in this world; it has {len(world.bank)}")
        if at is not chunks[-1]:
            file.fork(f"before going back to frame {frame} ({len(file.branches())})")
            file.rewind("main", at.id)
        world.close()
        return self.open(name)
