"""World files: durable memory with save, load, fork, rewind, export and verify. See docs/world-format.md."""

from context_as_memory.storage.care import Verdict, compact, export_world, import_world, verify
from context_as_memory.storage.file import MAIN, BranchInfo, ChunkInfo, Comparison, WorldFile
from context_as_memory.storage.lease import LeaseTaken, NotWritable
from context_as_memory.storage.store import BranchStore
from context_as_memory.storage.worlds import create_world, file_of, open_world

__all__ = [
    "MAIN",
    "BranchInfo",
    "BranchStore",
    "ChunkInfo",
    "Comparison",
    "LeaseTaken",
    "NotWritable",
    "Verdict",
    "WorldFile",
    "compact",
    "create_world",
    "export_world",
    "file_of",
    "import_world",
    "open_world",
    "verify",
]
