"""How the functions of voxel worlds are compiled."""

from collections.abc import Callable
from typing import Any

from context_as_memory.errors import UserError, install


def compiled(function: Callable[..., Any]) -> Any:
    """Decorator: compile with numba at the first call; without numba the first call raises `UserError`.

    No fastmath, so that every x86 machine gives the same bytes. The interpreter's lock is released, so that threads
    work side by side. Compiled code is kept on disk.
    """
    try:
        from numba import njit
    except ImportError:

        def missing(*arguments: Any) -> Any:
            require_compiler()

        return missing
    return njit(function, nogil=True, error_model="numpy", cache=True, forceinline=True)


def require_compiler() -> None:
    """Raise `UserError` without numba: before long work, rather than in the middle of it."""
    try:
        import numba  # noqa: F401
    except ImportError:
        raise UserError(f"voxel worlds need numba; {install('render')}") from None
