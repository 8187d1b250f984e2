"""The commands `cam world ...`: looking at world files, branching, sharing and repairing them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True, kw_only=True)
class List:
    """The world files in a folder."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("outputs/worlds")
    """Folder whose subfolders are world files."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a world file holds: settings, branches and, with --chunks, every chunk."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    chunks: bool = False
    """List every chunk with its parent and frames: the numbers that --at takes."""


@dataclass(frozen=True, kw_only=True)
class ForkBranch:
    """A new branch that shares all history up to a chunk."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    name: Annotated[str, tyro.conf.Positional]
    """Name of the new branch."""
    branch: str = "main"
    """Branch to fork."""
    at: int | None = None
    """Last chunk to share (`cam world info WORLD --chunks`); the last one of the branch if not given."""


@dataclass(frozen=True, kw_only=True)
class RewindBranch:
    """Let a branch end at an earlier chunk. What came after stays in the world file until `compact`."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    at: int
    """Chunk that becomes the last one (`cam world info WORLD --chunks`)."""
    branch: str = "main"
    """Branch to rewind."""


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Remove a branch. Its chunks stay in the world file until `compact`."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    branch: Annotated[str, tyro.conf.Positional]
    """Branch to remove."""


@dataclass(frozen=True, kw_only=True)
class CompareBranches:
    """Where two branches part, and how far each has gone since."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    a: Annotated[str, tyro.conf.Positional]
    """One branch."""
    b: Annotated[str, tyro.conf.Positional]
    """The other branch."""


@dataclass(frozen=True, kw_only=True)
class ExportWorld:
    """Write a world file into one archive, to keep or to send."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    target: Annotated[Path, tyro.conf.Positional]
    """Archive to write, e.g. attic.camworld."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Unpack an exported world file into a new folder. Safe for archives of strangers: nothing is executed."""

    source: Annotated[Path, tyro.conf.Positional]
    """An exported world file."""
    world: Annotated[Path, tyro.conf.Positional]
    """Folder to make."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read everything once and say which chunks are damaged; memory leaves those out from then on.

    A world file that somebody writes to, or in a folder that cannot be written, is read only, and nothing is marked.
    """

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Remove what no branch reaches, and leftovers of interrupted runs."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""


@dataclass(frozen=True, kw_only=True)
class EditView:
    """Change what a world remembers: give one of its frames, painted over. What shows the changed surface as it was is
    not remembered from then on. Undo it with `rewind`; `fork` first to keep both."""

    world: Annotated[Path, tyro.conf.Positional]
    """Folder of the world file."""
    frame: int
    """Number of the remembered frame in its branch, from 0."""
    image: Path
    """The edited frame: a picture of the same size (PNG; strong JPEG noise counts as paint)."""
    branch: str = "main"
    """Branch to edit."""
    weights: str | None = None
    """The model folder that the world was made with, if it lies elsewhere now."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""


_named = tyro.conf.subcommand
WorldCommand = Annotated[
    Annotated[List, _named("list")]
    | Annotated[Info, _named("info")]
    | Annotated[ForkBranch, _named("fork")]
    | Annotated[RewindBranch, _named("rewind")]
    | Annotated[Delete, _named("delete")]
    | Annotated[CompareBranches, _named("compare")]
    | Annotated[EditView, _named("edit")]
    | Annotated[ExportWorld, _named("export")]
    | Annotated[Import, _named("import")]
    | Annotated[Verify, _named("verify")]
    | Annotated[Compact, _named("compact")],
    tyro.conf.subcommand("world", description="World files: look, fork, rewind, edit, share, verify."),
]


def _list(command: List) -> int:
    from context_as_memory.errors import UserError
    from context_as_memory.storage import WorldFile
    from context_as_memory.storage.schema import DATABASE

    if not command.folder.is_dir():
        raise UserError(f"{command.folder} is no folder; name one that holds world files")
    found = sorted(path.parent for path in command.folder.glob(f"*/{DATABASE}"))
    for folder in found:
        try:
            with WorldFile.open(folder, write=False) as file:
                branches = [f"{info.name} ({info.frames} frames)" for info in file.branches()]
                print(f"{folder}: {', '.join(branches)}")
        except UserError as error:  # one damaged world does not hide the others
            print(f"{folder}: {' '.join(str(error).split())[:300]}")
    if not found:
        print(f"no world files in {command.folder}")
    return 0


def _info(command: Info) -> int:
    from context_as_memory.storage import WorldFile

    with WorldFile.open(command.world, write=False) as file:
        width, height = file.size
        print(f"{command.world}: {width}x{height}, weights {str(file.settings.get('weights', '?'))[:200]}")
        for branch in file.branches():
            print(f"  branch {branch.name}: {branch.frames} frames, last chunk {branch.head}")
        chunks = file.chunks()
        lost = sum(info.lost for info in chunks)
        print(f"  {len(chunks)} chunks" + (f", {lost} of them damaged" if lost else ""))
        for info in chunks if command.chunks else ():
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.created_s))
            span = f"frames {info.first} to {info.first + info.frames - 1}"
            print(f"  chunk {info.id} after {info.parent}: {span}, {when}" + (", damaged" if info.lost else ""))
    return 0


def _fork(command: ForkBranch) -> int:
    from context_as_memory.storage import WorldFile

    with WorldFile.open(command.world) as file:
        branch = file.fork(command.name, command.branch, command.at)
    print(f"branch {branch.name} of {command.world} has {branch.frames} frames; go on with")
    print(f'  cam generate --world {command.world} --branch {branch.name} --actions "w-40" --out outputs/{branch.name}')
    return 0


def _rewind(command: RewindBranch) -> int:
    from context_as_memory.storage import WorldFile

    with WorldFile.open(command.world) as file:
        before = file.branch(command.branch).head
        branch = file.rewind(command.branch, command.at)
    print(f"branch {branch.name} of {command.world} has {branch.frames} frames; its last chunk was {before} before")
    return 0


def _delete(command: Delete) -> int:
    from context_as_memory.storage import WorldFile

    with WorldFile.open(command.world) as file:
        head = file.branch(command.branch).head
        file.delete(command.branch)
    print(
        f"branch {command.branch} of {command.world} is gone; its last chunk was {head}, and `compact` frees its space"
    )
    return 0


def _compare(command: CompareBranches) -> int:
    from context_as_memory.storage import WorldFile

    with WorldFile.open(command.world, write=False) as file:
        found = file.compare(command.a, command.b)
    shared = f"share chunk {found.common}, {found.common_frames} frames" if found.common else "share nothing"
    since = [f"{name} has {count}" for name, count in zip((command.a, command.b), found.frames_since, strict=True)]
    print(f"{command.a} and {command.b} {shared}; since then {', '.join(since)}")
    return 0


def _edit(command: EditView) -> int:
    from context_as_memory.edits import edit
    from context_as_memory.formats.pictures import read_image
    from context_as_memory.storage import file_of, open_world

    picture = read_image(command.image)
    world = open_world(command.world, command.branch, weights=command.weights, device=command.device)
    try:
        file = file_of(world)
        assert file is not None, "open_world opens worlds in files"
        before = file.branch(command.branch).head
        done = edit(world, command.frame, picture)
    finally:
        world.close()
    share = done.changed.mean()
    print(
        f"{command.world}: frame {done.frame} is frame {done.entry} now ({share:.1%} of its pixels changed); "
        f"{len(done.withdrawn)} of {done.of} frames showed what changed and are not remembered any more as they were; "
        f"{len(done.carried)} of them are with the change in them"
    )
    if done.still_seen:
        print("the last frame of the branch shows it too, as it was: look away before you look again, or edit that one")
    print(f"to undo: cam world rewind {command.world} --branch {command.branch} --at {before}")
    return 0


def _export(command: ExportWorld) -> int:
    from context_as_memory.storage import WorldFile, export_world

    with WorldFile.open(command.world, write=False) as file:
        print(export_world(file, command.target))
    return 0


def _import(command: Import) -> int:
    from context_as_memory.storage import import_world

    print(import_world(command.source, command.world))
    return 0


def _verify(command: Verify) -> int:
    from context_as_memory.storage import LeaseTaken, NotWritable, WorldFile, verify

    try:
        world = WorldFile.open(command.world)
    except (LeaseTaken, NotWritable) as error:
        print(f"only read, nothing is marked: {error}")
        world = WorldFile.open(command.world, write=False)
    with world as file:
        verdict = verify(file)
        chunks = {info.id: info for info in file.chunks()}
    for number, problems in verdict.problems.items():
        info = chunks[number]
        print(f"lost: chunk {number}, frames {info.first} to {info.first + info.frames - 1}: {'; '.join(problems)}")
    for complaint in verdict.database:
        print(f"database: {complaint}")
    if verdict.orphans and world.writable:  # else they may be those of a chunk that is being written
        print(
            f"{len(verdict.orphans)} files belong to no chunk: left by a writer that was killed in a chunk, or chunks "
            "whose entries were in a damaged log. `cam world compact` removes them; copy the folder first if frames "
            "are missing"
        )
    if verdict.sound:
        print(f"{command.world}: all {verdict.chunks} chunks are whole")
    return 0 if verdict.sound else 1


def _compact(command: Compact) -> int:
    from context_as_memory.storage import WorldFile, compact

    with WorldFile.open(command.world) as file:
        removed, freed = compact(file)
    print(f"{command.world}: {removed} chunks removed, {freed / 1e6:.1f} MB given back")
    return 0


RUN: dict[type, Callable[[Any], int]] = {
    List: _list,
    Info: _info,
    ForkBranch: _fork,
    RewindBranch: _rewind,
    Delete: _delete,
    CompareBranches: _compare,
    EditView: _edit,
    ExportWorld: _export,
    Import: _import,
    Verify: _verify,
    Compact: _compact,
}
