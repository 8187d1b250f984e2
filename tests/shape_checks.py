"""What the import hook of conftest.py checks: the types and array shapes that the functions of the method declare."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

METHOD = [
    f"context_as_memory.{name}"
    for name in ("camera", "codec", "diffusion", "memory", "retrieval", "tokens", "transformer", "world")
]

# These say themselves, in a sentence, what is wrong with what a user gives them; tests give them the worst.
BOUNDARIES = {
    "Cameras.__init__",
    "Candidates.__init__",
    "MemoryBank.append",
    "World.__init__",  # the true world of the explorer has no networks
    "World.remember",
    "World.reset",
    "cameras_from_keys",
    "checked_profiles",
    "eye_level",
    "floats",
    "look",
    "pinhole",
    "retrieve",
}

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand where a float is asked for


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    return function if getattr(function, "__qualname__", "") in BOUNDARIES else _check(function)
