"""Context-as-Memory (arXiv 2506.03141): camera-controlled long video in which every generated frame is memory.

    from context_as_memory import Cameras, RetrievalConfig, World

The public names are loaded on first use, so that `import context_as_memory` is quick, writes nothing and imports
neither torch nor numpy. It only says how threads wait (`machine.settle_threads`). `Cameras`, `RetrievalConfig`,
`Retrieval` and `retrieve` never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from context_as_memory.machine import settle_threads

if TYPE_CHECKING:
    from context_as_memory.camera import Cameras
    from context_as_memory.errors import UserError
    from context_as_memory.memory import MemoryBank
    from context_as_memory.retrieval import Retrieval, RetrievalConfig, retrieve
    from context_as_memory.world import World

settle_threads()  # before torch is loaded, or it is too late

__version__ = "0.1.0"

__all__ = ["Cameras", "MemoryBank", "Retrieval", "RetrievalConfig", "UserError", "World", "__version__", "retrieve"]

_HOME = {
    "Cameras": "camera",
    "MemoryBank": "memory",
    "Retrieval": "retrieval",
    "RetrievalConfig": "retrieval",
    "UserError": "errors",
    "World": "world",
    "retrieve": "retrieval",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
