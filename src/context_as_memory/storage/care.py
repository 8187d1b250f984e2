"""Looking after worlds: finding damage, giving space back, and one file to send to a friend."""

import json
import re
import shutil
import sqlite3
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, check_plain
from context_as_memory.storage import schema
from context_as_memory.storage.file import FRAMES, LATENTS, ChunkInfo, WorldFile, appearing

_MEMBER = re.compile(rf"{schema.DATABASE}|{FRAMES}/[0-9a-f]{{32}}\.png|{LATENTS}/[0-9a-f]{{32}}\.safetensors")
MAX_MEMBER_BYTES = 4_000_000_000
TRIES = 5  # to pack a world that another process compacts


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. problems: chunk -> what is wrong with it; database: complaints of the database itself;
    orphans: files that no chunk refers to (harmless, `compact` removes them)."""

    chunks: int
    problems: dict[int, list[str]] = field(default_factory=dict)
    database: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems and not self.database


def verify(world: WorldFile) -> Verdict:
    """Read everything once. In a world open for writing, damaged chunks are marked as lost (and whole ones as found
    again): memory then leaves them out, and the rest of the world works on. A reader may ask too, also while somebody
    writes; then nothing is marked, and the files of a chunk that is being written count as orphans."""
    database = world._database
    try:
        answers = [row[0] for row in database.execute("PRAGMA integrity_check")]
        complaints = [] if answers == ["ok"] else [str(answer) for answer in answers]
        complaints += [
            f"row of table {row[0]} refers to nothing" for row in database.execute("PRAGMA foreign_key_check")
        ]
    except sqlite3.DatabaseError as error:
        complaints = [str(error)]
    for branch in world.branches():
        try:
            world.history(branch.head)
        except UserError as error:
            complaints.append(str(error))
    files = _files(world)  # before the chunks: what a writer adds meanwhile is no orphan
    chunks = world.chunks()
    size = world.size
    problems: dict[int, list[str]] = {}
    shapes: set[tuple[int, ...]] = set()
    for info in chunks:
        found = _problems(world, info, size, shapes)
        if found:
            problems[info.id] = found
    if problems and not world.writable:  # a writer may have removed some meanwhile
        left = {info.id for info in world.chunks()}
        chunks = [info for info in chunks if info.id in left]
        problems = {number: found for number, found in problems.items() if number in left}
    if world.writable:
        changed = [(int(info.id in problems), info.id) for info in chunks if info.lost != (info.id in problems)]
        with world.transaction():
            database.executemany("UPDATE chunk SET lost = ? WHERE id = ?", changed)
    return Verdict(len(chunks), problems, complaints, [path.name for path in _orphans(world, files, chunks)])


def _problems(world: WorldFile, info: ChunkInfo, size: tuple[int, int], shapes: set[tuple[int, ...]]) -> list[str]:
    """What is wrong with a chunk. shapes: [C, h, w] of the first whole latents, which those of all others must have."""
    found = [] if info.whole else ["its row in the database is damaged"]

    def read_latents() -> None:
        shape = tuple(world.latents(info).shape)
        shapes.update([] if shapes else [(shape[0], *shape[2:])])
        if (shape[0], *shape[2:]) not in shapes:
            raise UserError(f"latents of chunk {info.id} are {list(shape)}, unlike those before")

    for read in (lambda: world.frames_u8(info, size), read_latents, lambda: world.cameras([info])):
        try:
            read()
        except UserError as error:
            found.append(str(error).split(";")[0])
    return found


def _files(world: WorldFile) -> list[Path]:
    """Everything in the folders of the chunks."""
    folders = [world.folder / name for name in (FRAMES, LATENTS)]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def _orphans(world: WorldFile, files: list[Path], chunks: list[ChunkInfo]) -> list[Path]:
    """Files of chunks that no longer exist or were never committed."""
    known = {world.file_path(info, folder).name for info in chunks for folder in (FRAMES, LATENTS)}
    return [path for path in files if path.name not in known]


def compact(world: WorldFile) -> tuple[int, int]:
    """Remove chunks that no branch reaches, files that no chunk refers to, and empty space in the database.

    Returns (chunks removed, bytes given back).
    """
    schema.refuse_links(world.folder)  # also those that came since it was opened
    for branch in world.branches():
        world.history(branch.head)  # raises if it is damaged: then what no branch seems to reach may be reached
    before = _size(world.folder)
    with world.transaction():
        reached = "WITH RECURSIVE reached (id) AS (SELECT head FROM branch WHERE head IS NOT NULL UNION "
        reached += "SELECT chunk.parent FROM chunk JOIN reached ON chunk.id = reached.id WHERE parent IS NOT NULL) "
        gone = f"SELECT id FROM chunk WHERE id NOT IN ({reached} SELECT id FROM reached)"
        database = world._database
        removed = [row[0] for row in database.execute(gone)]
        # Children before parents: a chunk may be referred to only by other chunks that go.
        for number in sorted(removed, reverse=True):
            database.execute("DELETE FROM frame WHERE chunk = ?", (number,))
            database.execute("DELETE FROM checksum WHERE chunk = ?", (number,))
            database.execute("DELETE FROM chunk WHERE id = ?", (number,))
    with schema.clear_errors(world.folder):
        for path in _orphans(world, _files(world), world.chunks()):
            path.unlink(missing_ok=True)
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(removed), max(0, before - _size(world.folder))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def export_world(world: WorldFile, target: Path | str) -> Path:
    """Write the whole world into one file (an uncompressed tar archive), whole or not at all. Returns its path, when it
    is on the disk. Every picture and latent is read and checked; the path of the weights stays here, only its last part
    goes along.

    Raises `UserError` when a file is missing or damaged that is not known to be lost; `verify` makes it known.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target} already exists; remove it or choose another name")
    try:
        with atomic(target, sync=True) as partial:
            for left in reversed(range(TRIES)):
                try:
                    _pack(world, partial)
                    break
                except _Compacted:
                    if not left:
                        raise
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); nothing was kept") from error
    return target


class _Compacted(UserError):
    """Another process removed chunks that no branch reaches, while they were packed."""


def _pack(world: WorldFile, partial: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        copy = schema.tuned(sqlite3.connect(Path(scratch) / schema.DATABASE))
        with schema.clear_errors(world.folder):
            world._database.backup(copy)  # a consistent picture, also while another process writes
            copy.execute("PRAGMA journal_mode = DELETE")
            named = Path(str(world.settings.get("weights", ""))).name
            copy.execute("UPDATE setting SET value = ? WHERE key = 'weights'", (json.dumps(named),))
            copy.execute("VACUUM")  # what was there before is not left in free space
        copy.close()
        with WorldFile(world.folder, schema.connect(Path(scratch), write=False), None) as held:
            chunks, size = held.chunks(), held.size  # those of the copy, and no later ones
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(Path(scratch) / schema.DATABASE, schema.DATABASE, filter=_anonymous)
            for info in chunks:
                _pack_chunk(world, archive, info, size)


def _pack_chunk(world: WorldFile, archive: tarfile.TarFile, info: ChunkInfo, size: tuple[int, int]) -> None:
    """Add the files of a chunk; of one that is known as lost, those that are there."""
    try:
        paths = [world.file_path(info, folder) for folder in (FRAMES, LATENTS)]
        there = [path for path in paths if path.is_file() and not path.is_symlink()]
        if not info.lost:
            if len(there) < len(paths):
                raise UserError(f"chunk {info.id} is missing a file")
            world.frames_u8(info, size)
            world.latents(info)
        for path in there:
            archive.add(path, f"{path.parent.name}/{path.name}", filter=_anonymous)
    except (UserError, FileNotFoundError) as error:
        if info.id not in {held.id for held in world.chunks()}:
            raise _Compacted(
                f"chunks of the world in {world.folder} were removed while it was packed; try again"
            ) from error
        told = str(error).split(";")[0]
        raise UserError(
            f"{told}; `cam world verify {world.folder}` marks the chunk as lost, then the rest can be exported"
        ) from error


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def import_world(source: Path | str, folder: Path | str) -> Path:
    """Unpack an exported world into a new folder, whole or not at all. Returns the folder.

    The file may come from a stranger: only plain files with the names of a world are taken, so nothing is written
    outside the folder, and a database with anything but a world's tables is refused. Nothing in it is executed. Every
    checksum is read before the world appears; what is damaged and not marked as lost is refused.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise UserError(f"{folder} already exists; choose another folder")
    check_plain(source)
    try:
        with appearing(folder) as scratch:
            _unpack(source, scratch)
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{source} cannot be imported ({error}); nothing was kept") from error
    return folder


def _unpack(source: Path, folder: Path) -> None:
    """Take the members of an archive into the folders of a world, and make sure that they are one."""
    room = source.stat().st_size  # plain members cannot hold more than the archive itself
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                room -= member.size
                _take(archive, member, folder, source, room)
    except tarfile.TarError as error:
        raise UserError(f"{source} is no exported world, or cut short ({error})") from error
    if not (folder / schema.DATABASE).exists():
        raise UserError(f"{source} is no exported world: {schema.DATABASE} is missing in it")
    try:
        database = schema.connect(folder, write=True)  # refuses what is no world
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    with WorldFile(folder, database, None) as world:
        try:
            known = {info.id for info in world.chunks() if info.lost and info.whole}
            verdict = verify(world)
        except UserError as error:
            raise UserError(f"{source}: {_here(str(error), folder)}") from error
        bad = [f"chunk {number}: {told[0]}" for number, told in verdict.problems.items() if number not in known]
        if verdict.database or bad:
            told = _here((verdict.database + bad)[0], folder)
            raise UserError(f"{source} is damaged ({told}); it is not imported, get the file once more")
        database.execute("PRAGMA journal_mode = WAL")


def _here(text: str, folder: Path) -> str:
    """What an error says, without the hidden folder that it happened in."""
    return text.replace(f"{folder}/", "").replace(str(folder), "it")


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, source: Path, room: int) -> None:
    """Copy one member, if it is what a world is made of."""
    if not member.isreg() or member.issparse() or not _MEMBER.fullmatch(member.name):
        raise UserError(f"{source} holds {member.name!r}, which is no part of a world; it is not imported")
    if member.size > MAX_MEMBER_BYTES or room < 0 or (folder / member.name).exists():
        raise UserError(f"{source} holds {member.name!r} twice, or too large; it is not imported")
    data = archive.extractfile(member)
    assert data is not None
    with open(folder / member.name, "wb") as file:
        shutil.copyfileobj(data, file)
