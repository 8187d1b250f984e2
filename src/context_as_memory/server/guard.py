"""The door of the server: the names it answers to, what browsers may do with its pages, how fast one may speak."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(:\d+)?")
HEADERS = {
    # Nothing from elsewhere, and in nobody's frame: a page around ours could have its buttons clicked through.
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'self'; "
    "base-uri 'none'; form-action 'none'; object-src 'none'",
    "x-frame-options": "SAMEORIGIN",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the token stands in the address
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # Pages and scripts belong together: whoever comes back asks for all of them again.
    "cache-control": "no-cache",
}


class Guard:
    """Around an ASGI application: refuses foreign names, takes a path prefix off, adds HEADERS to every answer.

    hosts: names under which the server may be addressed, without a port; "*" for any. root_path: a prefix that a proxy
    leaves in front of every path, such as "/cam"; requests without it are answered too. most_bytes: of a request's
    body, which is read before anybody looks at its token.
    """

    def __init__(
        self, app: Any, hosts: Sequence[str] = ("*",), root_path: str = "", most_bytes: int = 16_000_000
    ) -> None:
        self.most_bytes = most_bytes
        self.app, self.hosts, self.root = app, {host.lower() for host in hosts}, root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        host = host_name(header(scope, b"host"))
        if "*" not in self.hosts and host not in self.hosts:
            await _refuse(scope, send, f"this server does not answer to {host[:80]!r}; --allow-host adds names")
            return
        if self.root and (scope["path"] == self.root or scope["path"].startswith(self.root + "/")):
            scope = {**scope, "path": scope["path"][len(self.root) :] or "/"}
            scope["raw_path"] = scope["path"].encode()

        length = header(scope, b"content-length")
        if length.isdigit() and int(length) > self.most_bytes:
            await _refuse(scope, send, f"a request of {length} bytes; at most {self.most_bytes} are taken", 413)
            return
        left = self.most_bytes

        async def limited() -> MutableMapping[str, Any]:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b"")) if message["type"] == "http.request" else 0
            return message if left >= 0 else {"type": "http.disconnect"}  # one that does not say how long it is

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                added = [(name, value) for name, value in added if name not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, limited, guarded)


def header(scope: Scope, name: bytes) -> str:
    """A header of a request; empty if it is not there."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def host_name(host: str) -> str:
    """The name in a Host header, without the port, in small letters; IPv6 keeps its brackets."""
    found = _HOST.fullmatch(host.strip())
    return found.group(1).lower() if found else ""


def is_own_page(origin: str | None, host: str, hosts: Sequence[str]) -> bool:
    """Whether a page of this origin may drive the server. A page of another site must not; programs send no origin and
    may. hosts: other names of the server."""
    if origin is None:
        return True
    name = origin.split("://", 1)[-1]
    return name == host or host_name(name) in {known.lower() for known in hosts} - {"*"}


def has_token(given: str | None, token: str | None) -> bool:
    """Whether somebody may walk here; None as the server's token lets everybody in."""
    return token is None or secrets.compare_digest((given or "").encode(), token.encode())


def without_paths(text: str, folder: Path) -> str:
    """What a stranger may read of an error: no folders of this computer, and not a book."""
    return text.replace(f"{folder}/", "")[:300]


async def _refuse(scope: Scope, send: Send, text: str, status: int = 400) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Pace:
    """How fast one connection may speak: `rate` small messages a second, large ones count for more. Who is faster is
    read more slowly, and the network holds the rest back: nobody else waits for it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._room, self._at = rate, time.monotonic()  # a second's worth at once

    def wait_s(self, size: int) -> float:
        """Seconds to wait before the next message is read, after one of so many bytes."""
        now = time.monotonic()
        self._room = min(self.rate, self._room + (now - self._at) * self.rate)
        self._at = now
        self._room -= min(1 + size / 128, 2 * self.rate)
        return max(0.0, -self._room / self.rate)
