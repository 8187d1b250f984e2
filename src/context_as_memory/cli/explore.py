"""`cam explore`: the explorer in the browser."""

import ipaddress
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from context_as_memory.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Explore:
    """Walk in a world in the browser and see what it remembers (needs the `explore` extra)."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback demands a token."""
    port: int = 8000
    """Port to listen on."""
    weights: str = "default"
    """`default` or a folder made by `cam train world`."""
    token: str | None = None
    """What viewers must give as ?token=...; made up if --host is not loopback and none is given."""
    worlds: Path | None = None
    """Folder to keep worlds in: a page that is loaded again goes on, and any frame can be gone back to."""
    sessions: int = 8
    """Most worlds at once."""
    threads: int | None = None
    """CPU threads of the model."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def explore(command: Explore) -> int:
    """Run the server until it is interrupted."""
    try:
        import uvicorn

        from context_as_memory.server.app import create_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'context-as-memory[explore]'") from error
    import torch

    from context_as_memory.server.session import Limits
    from context_as_memory.server.shelf import FolderShelf, MemoryShelf
    from context_as_memory.world import World

    if command.sessions < 1 or not 0 < command.port < 65536:
        raise UserError("--sessions must be at least 1, --port 1 to 65535")
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    base = World.from_pretrained(command.weights)

    def make_world(seed: int) -> World:
        return World(base.model, base.codec, replace(base.config, seed=seed))

    shelf = MemoryShelf(make_world) if command.worlds is None else FolderShelf(command.worlds, command.weights)
    token = command.token or (None if is_loopback(command.host) else secrets.token_urlsafe(16))
    query = "" if token is None else f"?token={token}"
    print(f"walk at http://{command.host}:{command.port}/{query}", flush=True)
    app = create_app(shelf, Limits(sessions=command.sessions), token)
    uvicorn.run(app, host=command.host, port=command.port, log_level="warning", ws_max_size=64 * 1024)
    return 0
