"""`cam explore`: the explorer in the browser."""

import ipaddress
import logging
import os
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_as_memory.errors import UserError
from context_as_memory.server.limits import Limits

if TYPE_CHECKING:
    from context_as_memory.server.store import WorldStore


@dataclass(frozen=True, kw_only=True)
class Explore:
    """Walk in a world in the browser and see what it remembers (needs the `explore` extra)."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback demands a token."""
    port: int = 8000
    """Port to listen on."""
    weights: str = "default"
    """`default` or a folder made by `cam train denoiser`."""
    token: str | None = None
    """What viewers must give as ?token=...; made up if --host is not loopback and none is given."""
    worlds: Path = Path("outputs/worlds")
    """Folder to store worlds in: a page that is loaded again goes on, also with another server."""
    limits: Limits = field(default_factory=Limits)
    """What the server and one session may cost."""
    threads: int | None = None
    """CPU threads of the model."""
    log: Path | None = None
    """Write a structured log (JSON lines) to this file; without it only warnings are shown."""
    browser: bool = True
    """Open the page in this computer's browser, where there is a screen."""
    record: Path | None = None
    """Walk a short walk in a real browser (needs playwright and Chromium), film the page into this .mp4 or .webp, and
    end."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def view(name: str, width: int, height: int, hfov_deg: float, port: int) -> int:
    """Serve the true voxel world of that name, drawn by the renderer, until it is interrupted."""
    with tempfile.TemporaryDirectory(prefix="view-") as folder:

        def store() -> "WorldStore":
            from context_as_memory.data.voxel.styles import build_world
            from context_as_memory.server.truth import Place, TrueStore

            print(f"building {name} and its renderer", flush=True)
            store = TrueStore(Path(folder), Place(build_world(name), width, height, hfov_deg))
            print(f"this is the true world {name}, drawn and not generated; `cam explore` walks in a generated one")
            return store

        return explore(Explore(port=port, worlds=Path(folder)), store)


def explore(command: Explore, store: "Callable[[], WorldStore] | None" = None) -> int:
    """Run the server until it is interrupted. store: makes the worlds; None: generated ones, by `command`."""
    try:
        import uvicorn

        from context_as_memory.server.app import LOOPBACK, create_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'context-as-memory[explore]'") from error
    from context_as_memory.compute import use_threads
    from context_as_memory.server.store import FolderStore

    limits = command.limits
    if not 0 < command.port < 65536:
        raise UserError(f"--port is {command.port}; give 1 to 65535")
    for name, value in vars(limits).items():
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    use_threads(command.threads)
    if command.log is not None:
        _log_to(command.log)
    local = is_loopback(command.host)
    token = command.token or (None if local else secrets.token_urlsafe(16))
    token = None if command.record else token  # the film is made on this machine alone
    hosts = list(LOOPBACK) if local else ["*"]  # elsewhere the token guards the door
    app = create_app(store() if store else FolderStore(command.worlds, command.weights), limits, token, hosts)
    # Sizes are judged again when a message is read; a little room is left so that the answer can say what is wrong.
    settings: dict[str, Any] = {
        "log_level": "warning",
        "ws_max_size": limits.upload_bytes + 1_000_000,
        "ws_per_message_deflate": False,  # pictures are compressed already
        "ws_ping_timeout": 60.0,  # whoever waits for a turn does not read its pongs meanwhile
    }
    if command.record is not None:
        from context_as_memory.server.record import record

        print(f"wrote {record(app, command.record, settings)}")
        return 0
    query = "" if token is None else f"?token={token}"
    host = f"[{command.host}]" if ":" in command.host else command.host
    address = f"http://{host}:{command.port}/{query}"
    print(f"walk at {address}", flush=True)
    print("Ctrl-C ends" if store else f"worlds are stored in {command.worlds}; Ctrl-C ends", flush=True)
    if local and command.browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        threading.Timer(1.0, webbrowser.open, [address]).start()  # when the server listens
    # A chunk that is being made when the server is told to end is finished first; so long it may take.
    uvicorn.run(app, host=command.host, port=command.port, timeout_graceful_shutdown=20, **settings)
    return 0


def _log_to(path: Path) -> None:
    from context_as_memory.server.hub import JsonLines

    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("context_as_memory.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
