"""A world as a file: durable memory with save, load, fork, rewind, export and verify. See docs/world-format.md."""

from context_as_memory.worldfile.care import Verdict, compact, export_world, import_world, verify
from context_as_memory.worldfile.file import MAIN, BranchInfo, BranchStore, ChunkInfo, WorldFile

__all__ = [
    "MAIN",
    "BranchInfo",
    "BranchStore",
    "ChunkInfo",
    "Verdict",
    "WorldFile",
    "compact",
    "export_world",
    "import_world",
    "verify",
]
