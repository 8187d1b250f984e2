"""A world as a file: durable memory with save, load, fork, rewind, export and verify. See docs/world-format.md."""

from context_as_memory.worldfile.care import Verdict, compact, export_world, import_world, verify
from context_as_memory.worldfile.file import MAIN, BranchInfo, ChunkInfo, Comparison, WorldFile
from context_as_memory.worldfile.lease import LeaseTaken, NotWritable
from context_as_memory.worldfile.store import BranchStore

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
    "export_world",
    "import_world",
    "verify",
]
