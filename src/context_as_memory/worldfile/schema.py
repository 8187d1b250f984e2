"""The database of a world file: its tables, its version, and how a connection is opened.

The format is specified in docs/world-format.md.
"""

import re
import sqlite3
from pathlib import Path

from context_as_memory.errors import UserError

APPLICATION_ID = 0x43614D31  # "CaM1": tells this database from others
VERSION = 1
DATABASE = "world.sqlite"
TOKEN = re.compile(r"[0-9a-f]{32}")  # what a chunk's files are called; anything else in a database is refused

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
    # Where and when each frame was taken: position in metres and frame number, as 32-bit intervals.
    "CREATE VIRTUAL TABLE place USING rtree (id, x0, x1, y0, y1, z0, z1, t0, t1)",
    "CREATE TABLE branch (name TEXT PRIMARY KEY, head INTEGER REFERENCES chunk (id), created_s REAL NOT NULL)",
)

# MIGRATIONS[v] turns a database of version v into one of version v + 1.
MIGRATIONS: dict[int, tuple[str, ...]] = {}


def connect(folder: Path, *, write: bool) -> sqlite3.Connection:
    """Open the database of a world. Raises `UserError` if there is none, or it is damaged, foreign, or too new."""
    path = folder / DATABASE
    if not path.is_file():
        raise UserError(f"no world in {folder}: {DATABASE} is missing; make one with `cam generate --world {folder}`")
    try:
        database = sqlite3.connect(
            f"file:{_quoted(path)}?mode={'rw' if write else 'ro'}", uri=True, timeout=10.0, check_same_thread=False
        )
        database.isolation_level = None  # transactions are begun and ended by hand
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "foreign_keys = ON", "synchronous = FULL"):
            database.execute(f"PRAGMA {pragma}")
        _check(database, folder, write)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is damaged or no world ({error}); restore it from an export or a copy") from error
    return database


def create(folder: Path) -> sqlite3.Connection:
    """Make the database of a new world in an existing folder."""
    database = sqlite3.connect(folder / DATABASE, check_same_thread=False)
    database.isolation_level = None
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


def _check(database: sqlite3.Connection, folder: Path, write: bool) -> None:
    if _number(database, "application_id") != APPLICATION_ID:
        raise UserError(f"{folder / DATABASE} is a database, but no world")
    version = _number(database, "user_version")
    if version > VERSION:
        raise UserError(
            f"the world in {folder} has format version {version}, this package knows up to {VERSION}; "
            "install a newer context-as-memory"
        )
    if version < VERSION:
        _migrate(database, folder, version, write)
    if _shape(database) != _expected_shape():
        raise UserError(f"{folder / DATABASE} has other tables than a world of version {VERSION}; it is not opened")


def _migrate(database: sqlite3.Connection, folder: Path, version: int, write: bool) -> None:
    if any(step not in MIGRATIONS for step in range(version, VERSION)):
        raise UserError(f"the world in {folder} has format version {version}, which no package could write")
    if not write:
        raise UserError(
            f"the world in {folder} has format version {version}; open it for writing once, which makes it {VERSION}"
        )
    database.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, VERSION):
            for statement in MIGRATIONS[step]:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _number(database: sqlite3.Connection, pragma: str) -> int:
    return int(database.execute(f"PRAGMA {pragma}").fetchone()[0])


def _shape(database: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Everything a database defines; statistics of the query planner aside."""
    rows = database.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(kind, name, " ".join(sql.split())) for kind, name, sql in rows if not name.startswith("sqlite_stat")}


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
