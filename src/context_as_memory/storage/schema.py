"""The database of a world file: its tables, its version, and how a connection is opened.

The format is specified in docs/world-format.md.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from context_as_memory.errors import UserError

APPLICATION_ID = 0x43614D31  # "CaM1": tells this database from others
VERSION = 3
DATABASE = "world.sqlite"
TOKEN = re.compile(r"[0-9a-f]{32}")  # what a chunk's files are called; anything else in a database is refused

FOLDERS = ("frames", "latents")

# SHA-256 of what a chunk's rows say, so that a flipped bit in a pose or a note is not taken for truth: see
# `file.row_sha256` and `file.cameras_sha256`.
CHECKSUM = """CREATE TABLE checksum (
        chunk INTEGER PRIMARY KEY REFERENCES chunk (id),
        row_sha256 TEXT NOT NULL,
        cameras_sha256 TEXT NOT NULL
    )"""

TABLES = (
    # Settings of the world, as JSON values.
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # The tree of history. `first`: number of the chunk's first frame in its branch; `steps`: generated chunks up to and
    # with this one, which with the seed is the whole random state; `lost`: its files are damaged, found by `verify`.
    """CREATE TABLE chunk (
        id INTEGER PRIMARY KEY,
        parent INTEGER REFERENCES chunk (id),
        first INTEGER NOT NULL,
        frames INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        token TEXT NOT NULL UNIQUE,
        frames_sha256 TEXT NOT NULL,
        latents_sha256 TEXT NOT NULL,
        note TEXT NOT NULL,
        created_s REAL NOT NULL,
        lost INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX chunk_parent ON chunk (parent)",
    # Cameras: c2w is 16 and K 4 little-endian float64.
    """CREATE TABLE frame (
        id INTEGER PRIMARY KEY,
        chunk INTEGER NOT NULL REFERENCES chunk (id),
        row INTEGER NOT NULL,
        c2w BLOB NOT NULL,
        K BLOB NOT NULL
    )""",
    "CREATE INDEX frame_chunk ON frame (chunk, row)",
    "CREATE TABLE branch (name TEXT PRIMARY KEY, head INTEGER REFERENCES chunk (id), created_s REAL NOT NULL)",
    CHECKSUM,
)

_OF_SQLITE = {("table", "sqlite_stat1"), ("table", "sqlite_stat4")}  # statistics of the query planner
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_BARRED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH}
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def connect(folder: Path, *, write: bool) -> sqlite3.Connection:
    """Open the database of a world. Raises `UserError` if there is none, or it is damaged, foreign, too new, in use, or
    out of reach."""
    path = folder / DATABASE
    if not path.is_file():
        if folder.exists():  # with something in it no world can be made there
            what = f"{DATABASE} is missing" if folder.is_dir() else "it is a file"
            raise UserError(f"no world in {folder}: {what}; name the folder of a world, `cam world list` shows some")
        raise UserError(f"no world in {folder}: there is no such folder; make one with `cam generate --world {folder}`")
    refuse_links(folder)
    mode = "rw" if write else "ro"
    log, index = (folder / (DATABASE + end) for end in ("-wal", "-shm"))
    barred = not write and not os.access(folder, os.W_OK)
    if barred and log.exists() and not index.exists():
        return _copied(folder)
    if barred and not log.exists():
        # Even a reader makes two files beside a database in WAL mode, unless it is told that nobody writes. Who writes
        # has made them.
        mode += "&immutable=1"
    with clear_errors(folder):
        database = sqlite3.connect(f"file:{_quoted(path)}?mode={mode}", uri=True, timeout=10.0, check_same_thread=False)
        try:
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "foreign_keys = ON", "synchronous = FULL"):
                database.execute(f"PRAGMA {pragma}")
            _check(tuned(database), folder)
        except BaseException:
            database.close()
            raise
    return database


def _copied(folder: Path) -> sqlite3.Connection:
    """The database of a writer that was killed, on a disk that takes no files: a copy in working memory."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    with clear_errors(folder), tempfile.TemporaryDirectory(prefix="world-") as scratch:
        for end in ("", "-wal"):
            shutil.copyfile(folder / (DATABASE + end), Path(scratch) / (DATABASE + end))
        with contextlib.closing(connect(Path(scratch), write=True)) as copy:
            copy.backup(database)
    return tuned(database)


def tuned(database: sqlite3.Connection) -> sqlite3.Connection:
    """A connection as this package uses it."""
    database.isolation_level = None  # transactions are begun and ended by hand
    # A damaged character is found by its chunk's checksum; by itself it does not stop a query.
    database.text_factory = lambda data: data.decode("utf-8", "replace")
    return database


def refuse_links(folder: Path) -> None:
    """Raise `UserError` if a part of a world lies elsewhere: writing and `compact` would go there."""
    for name in (*FOLDERS, DATABASE, DATABASE + "-wal", DATABASE + "-shm", DATABASE + "-journal"):
        if (folder / name).is_symlink():
            raise UserError(f"{folder / name} is a link; a world is one folder with everything in it, it is not opened")


@contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and the database into one sentence about this world that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the world in {folder} cannot be written ({error.strerror or error}); nothing of the last chunk was kept, "
            "all before it is safe"
        ) from error
    except UnicodeDecodeError as error:  # Python's sqlite3 cannot tell what is wrong with a damaged name
        raise UserError(f"{folder / DATABASE} is damaged or no world; restore it from an export or a copy") from error
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError) as error:
        raise UserError(f"the database of the world in {folder} reports: {error}; committed chunks are safe") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the rest says where it happened
        if code in _BUSY:
            told = f"the world in {folder} is in use by another program ({error}); try again when that is done"
        elif code in _BARRED:
            told = (
                f"the world in {folder} cannot be reached ({error}); check the permissions of the folder and its files"
            )
        elif code in _DISK:
            told = f"the disk of the world in {folder} reports: {error}; committed chunks are safe"
        else:
            told = f"{folder / DATABASE} is damaged or no world ({error}); restore it from an export or a copy"
        raise UserError(told) from error


def create(folder: Path) -> sqlite3.Connection:
    """Make the database of a new world in an existing folder."""
    database = tuned(sqlite3.connect(folder / DATABASE, check_same_thread=False))
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        database.execute(statement)
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")
    return database


def _check(database: sqlite3.Connection, folder: Path) -> None:
    if _number(database, "application_id") != APPLICATION_ID:
        raise UserError(f"{folder / DATABASE} is a database, but no world")
    version = _number(database, "user_version")
    if version > VERSION:
        raise UserError(
            f"the world in {folder} has format version {version}, this package knows up to {VERSION}; "
            "install a newer context-as-memory"
        )
    if version < VERSION:
        raise UserError(
            f"the world in {folder} has format version {version}, of a draft before the first release, and this "
            f"package reads {VERSION}; make the world anew"
        )
    if _shape(database) != _expected_shape():
        raise UserError(f"{folder / DATABASE} has other tables than a world of version {VERSION}; it is not opened")
    # History is followed from chunk to parent: that it ends is a matter of the file, not of trust.
    if database.execute("SELECT 1 FROM chunk WHERE parent >= id LIMIT 1").fetchone():
        raise UserError(f"{folder / DATABASE} has a chunk that comes before its parent; it is not opened")


def _number(database: sqlite3.Connection, pragma: str) -> int:
    return int(database.execute(f"PRAGMA {pragma}").fetchone()[0])


def _shape(database: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Everything a database defines; statistics of the query planner aside."""
    rows = database.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(kind, name, " ".join(sql.split())) for kind, name, sql in rows if (kind, name) not in _OF_SQLITE}


def _expected_shape() -> set[tuple[str, str, str]]:
    """What a fresh world defines. A file from a stranger may hold no trigger, no view and no other table."""
    blank = sqlite3.connect(":memory:")
    for statement in TABLES:
        blank.execute(statement)
    found = _shape(blank)
    blank.close()
    return found


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
