"""Looking after worlds: finding damage, giving space back, and one file to send to a friend."""

import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.formats.files import partial_path
from context_as_memory.storage import schema
from context_as_memory.storage.file import FRAMES, LATENTS, ChunkInfo, WorldFile, appearing

_MEMBER = re.compile(rf"{schema.DATABASE}|{FRAMES}/[0-9a-f]{{32}}\.png|{LATENTS}/[0-9a-f]{{32}}\.safetensors")
MAX_MEMBER_BYTES = 4_000_000_000


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
    for info in chunks:
        found = _problems(world, info, size)
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


def _problems(world: WorldFile, info: ChunkInfo, size: tuple[int, int]) -> list[str]:
    found = [] if info.whole else ["its row in the database is damaged"]
    for read in (lambda: world.frames_u8(info, size), lambda: world.latents(info), lambda: world.cameras([info])):
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
    """Write the whole world into one file (an uncompressed tar archive), whole or not at all. Returns its path.

    Raises `UserError` when a file is missing that is not known to be lost; `verify` makes it known.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target} already exists; remove it or choose another name")
    partial = partial_path(target)
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as scratch:
            copy = schema.tuned(sqlite3.connect(Path(scratch) / schema.DATABASE))
            with schema.clear_errors(world.folder):
                world._database.backup(copy)  # a consistent picture, also while another process writes
                copy.execute("PRAGMA journal_mode = DELETE")
            copy.close()
            with WorldFile(world.folder, schema.connect(Path(scratch), write=False), None) as held:
                chunks = held.chunks()  # those of the copy, and no later ones
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
                archive.add(Path(scratch) / schema.DATABASE, schema.DATABASE, filter=_anonymous)
                for info in chunks:
                    for folder in (FRAMES, LATENTS):
                        path = world.file_path(info, folder)
                        if path.is_file() and not path.is_symlink():
                            archive.add(path, f"{folder}/{path.name}", filter=_anonymous)
                        elif not info.lost:  # one that is known as lost is missing in the export too
                            raise UserError(
                                f"{path} of chunk {info.id} is missing; `cam world verify {world.folder}` marks the "
                                "chunk as lost, then the rest can be exported"
                            )
        os.replace(partial, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); nothing was kept") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def import_world(source: Path | str, folder: Path | str) -> Path:
    """Unpack an exported world into a new folder, whole or not at all. Returns the folder.

    The file may come from a stranger: only plain files with the names of a world are taken, so nothing is written
    outside the folder, and a database with anything but a world's tables is refused. Nothing in it is executed.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise UserError(f"{folder} already exists; choose another folder")
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
    database.execute("PRAGMA journal_mode = WAL")
    database.close()


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
