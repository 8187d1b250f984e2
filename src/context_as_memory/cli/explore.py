"""`cam explore`: the explorer in the browser."""

import errno
import ipaddress
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_as_memory.errors import UserError, install
from context_as_memory.server.limits import Limits

if TYPE_CHECKING:
    from context_as_memory.server.store import WorldStore


@dataclass(frozen=True, kw_only=True)
class Explore:
    """Walk in a world in the browser and see what it remembers (needs the `explore` extra)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    weights: str = "default"
    """`default`, a folder made by `cam train denoiser` or `cam adapt`, or a name on the hub."""
    prompt: str | None = None
    """What new worlds are to look like, for weights that read text; it can be changed while walking."""
    token: str | None = None
    """What visitors must give as ?token=..., at least 16 characters. Made up if none is given, here or in the
    environment variable CAM_TOKEN, which other users of this computer cannot see."""
    guard: bool = True
    """Ask for a token. With --no-guard every user of this computer may walk in."""
    allow_host: tuple[str, ...] = ()
    """With --no-guard behind a proxy: names under which it is addressed, such as walks.example.org."""
    root_path: str = ""
    """Prefix that a proxy leaves in front of every path, such as /cam. One that takes it off needs no flag."""
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
    cluster: str | None = None
    """Serve from the machines of a Ray cluster (needs the `cluster` extra): auto, the one that this machine is part of,
    or its HOST:PORT. All its machines must see the folder of worlds under the same path."""
    replicas: int | None = None
    """With --cluster: servers, each with the model and --sessions places. Default: one for each GPU, or each machine
    where there is none."""


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
            from context_as_memory.server.truth import TrueStore, VoxelPlace

            print(f"building {name} and its renderer", flush=True)
            store = TrueStore(Path(folder), VoxelPlace(build_world(name), width, height, hfov_deg))
            print(f"this is the true world {name}, drawn and not generated; `cam explore` walks in a generated one")
            return store

        return explore(Explore(port=port, worlds=Path(folder)), store)


def explore(command: Explore, store: "Callable[[], WorldStore] | None" = None) -> int:
    """Run the server until it is interrupted. store: makes the worlds; None: generated ones, by `command`."""
    try:
        import uvicorn

        from context_as_memory.server.app import LOOPBACK, create_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {install('explore')}") from error
    from context_as_memory.compute import use_threads
    from context_as_memory.server.store import FolderStore

    limits = command.limits
    if not 0 < command.port < 65536:
        raise UserError(f"--port is {command.port}; give 1 to 65535")
    for name, value in vars(limits).items():
        if name == "keep_worlds_gb":
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--keep-worlds-gb is {value}; give gigabytes, more than 0")
        elif not value >= 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    local = is_loopback(command.host)
    if command.cluster is not None:
        return _explore_on(command, _token(command, local))
    if command.replicas is not None:
        raise UserError("--replicas is for --cluster; give the cluster too, or leave it out")
    token = None if command.record else _token(command, local)  # the film is made on this machine alone
    use_threads(command.threads)
    if command.log is not None:
        _log_to(command.log)
    listening = None if command.record else listen(command.host, command.port)  # before networks are loaded
    hosts = [*LOOPBACK, *command.allow_host] if token is None else ["*"]  # else the token guards the door
    try:
        worlds = store() if store else FolderStore(command.worlds, command.weights, prompt=command.prompt)
    except BaseException:
        if listening is not None:
            listening.close()
        raise
    app = create_app(worlds, limits, token, hosts, command.root_path)
    # Sizes are judged again when a message is read; a little room is left so that the answer can say what is wrong.
    settings: dict[str, Any] = {
        "log_level": "warning",
        "ws_max_size": limits.upload_bytes + 1_000_000,
        "ws_per_message_deflate": False,  # pictures are compressed already
        "ws_ping_timeout": 60.0,  # whoever waits for a turn does not read its pongs meanwhile
    }
    if listening is None:
        from context_as_memory.server.record import record

        assert command.record is not None
        print(f"wrote {record(app, command.record, settings)}")
        return 0
    address = _address(command, token)
    # A chunk that is being made when the server is told to end is finished first; so long it may take.
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=20, **settings))
    screen = local and command.browser and bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    greeting = "Ctrl-C ends" if store else f"worlds are stored in {command.worlds}; Ctrl-C ends"
    threading.Thread(target=_greet, args=(server, address, greeting, screen), daemon=True).start()
    server.run(sockets=[listening])
    return 0


def _explore_on(command: Explore, token: str | None) -> int:
    """Serve from a cluster until interrupted."""
    from context_as_memory.cluster.serve import ReplicaConfig, serve_walks
    from context_as_memory.server.app import LOOPBACK
    from context_as_memory.weights import resolve

    if command.log is not None or command.record is not None:
        raise UserError("--log and --record are for one machine; leave them out with --cluster")
    if command.replicas is not None and command.replicas < 1:
        raise UserError(f"--replicas is {command.replicas}; give at least 1")
    listen(command.host, command.port).close()
    resolve(command.weights)  # says what is wrong before anything is started
    weights = os.path.abspath(command.weights) if os.path.isdir(command.weights) else command.weights
    replica = ReplicaConfig(
        worlds=command.worlds.absolute(),
        weights=weights,
        prompt=command.prompt,
        limits=command.limits,
        token=token,
        hosts=[*LOOPBACK, *command.allow_host] if token is None else ["*"],
        root_path=command.root_path,
        threads=command.threads,
    )

    def ready() -> None:
        print(f"walk at {_address(command, token)}", flush=True)
        print(f"worlds are stored in {command.worlds}; Ctrl-C ends", flush=True)

    assert command.cluster is not None
    serve_walks(command.cluster, replica, command.replicas, command.host, command.port, ready)
    return 0


def _address(command: Explore, token: str | None) -> str:
    """What to open in a browser."""
    query = "" if token is None else f"?token={token}"
    host = f"[{command.host}]" if ":" in command.host else command.host
    return f"http://{host}:{command.port}{command.root_path.rstrip('/')}/{query}"


MIN_TOKEN = 16  # characters


def _token(command: Explore, local: bool) -> str | None:
    """The token of this server; None where none is asked for."""
    if not command.guard:
        if not local:
            raise UserError(f"--no-guard would let everybody in who reaches {command.host}; leave it out")
        return None
    token = command.token or os.environ.get("CAM_TOKEN") or secrets.token_urlsafe(16)
    if len(token) < MIN_TOKEN:
        raise UserError(f"the token has {len(token)} characters; give at least {MIN_TOKEN}, or none to have one made")
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; `UserError` if the port is in use or the address is not of this machine."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host} is no address of this machine ({error.strerror or error})") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use; choose another one: --port {port + 1}") from None
        told = error.strerror or str(error)
        raise UserError(f"{host}:{port} cannot be listened on ({told}); check --host and --port") from error
    return found


def _greet(server: Any, address: str, greeting: str, screen: bool) -> None:
    """Say where one walks, once that is so."""
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.02)
    print(f"walk at {address}", flush=True)
    print(greeting, flush=True)
    if screen:
        webbrowser.open(address)


def _log_to(path: Path) -> None:
    from context_as_memory.server.hub import JsonLines

    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("context_as_memory.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
