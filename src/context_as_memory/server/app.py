"""HTTP and WebSocket around the hub."""

import asyncio
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.websockets import WebSocketState

from context_as_memory.errors import UserError
from context_as_memory.formats.places import start_folder, start_names
from context_as_memory.formats.video import VideoWriter
from context_as_memory.server.guard import Guard, Pace, has_token, is_own_page, without_paths
from context_as_memory.server.hub import Broadcast, Hub, TooMany, log_event
from context_as_memory.server.limits import Limits
from context_as_memory.server.outbox import Packed
from context_as_memory.server.pictures import column
from context_as_memory.server.programs import Programs
from context_as_memory.server.protocol import (
    CLIENT,
    MAX_MESSAGE_BYTES,
    Alive,
    Event,
    Failure,
    Init,
    Message,
    ProtocolError,
    TooLarge,
    decode,
    encode,
)
from context_as_memory.server.register import Register
from context_as_memory.server.room import Removed, removed
from context_as_memory.server.session import picture_format
from context_as_memory.server.store import Kept, WorldStore, stored_frames
from context_as_memory.storage import MAIN, BranchStore, LeaseTaken, WorldFile, export_world

PATH, OPENAPI = "/v1/realtime_video/generate", "/v1/openapi.json"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOVIE_FPS = 20
MOST_FRAMES = 64  # in one answer
FIRST_S, STRANGER_S = 20.0, 2.0  # within which one must say what one wants, with the token and without
HEARTBEAT = b"heartbeat"
SEND_S = 30.0  # who takes longer for one packet is gone
POLICY_VIOLATION, TOO_BIG, TRY_LATER, GOING_AWAY, FAULT = 1008, 1009, 1013, 1001, 1011


def create_app(
    store: WorldStore,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] = LOOPBACK,
    root_path: str = "",
    register: Register | None = None,
) -> FastAPI:
    """The application.

    store: where worlds are stored. token: what viewers must give as `?token=`; None asks for none. hosts: names under
    which the server may be addressed ("*": any): without a token, a page of another site whose name points here must
    not get in. With one, no page can that does not know it, so tunnels and proxies may call the server as they like.
    root_path: a prefix that a proxy leaves in front of every path. register: where sessions of programs are written
    down, if other processes serve the same worlds.
    """
    hub = Hub(store, limits or Limits())
    programs = Programs(hub, token, hosts, register)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        log_event("started")
        async with programs.sweeping():
            yield
        # The sockets are closed by now, and every session with them; each chunk was committed when it was made.
        log_event("stopped", chunks=hub.chunks)

    app = FastAPI(
        title="Context as Memory: explorer", docs_url=None, redoc_url=None, openapi_url=OPENAPI, lifespan=lifespan
    )
    app.add_middleware(Guard, hosts=hosts, root_path=root_path, most_bytes=2 * hub.limits.upload_bytes)
    app.state.hub, app.state.programs = hub, programs
    app.include_router(programs.router)
    exporting, looking = asyncio.Semaphore(1), asyncio.Semaphore(2)
    sending = Counter()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> str:
        if not has_token(request.query_params.get("token"), token):
            raise HTTPException(403, "this server wants a token")
        return hub.metrics()

    @app.get("/v1/worlds")
    async def worlds(request: Request) -> list[Kept]:
        """The stored worlds, the last one walked in first; none for those who may only watch."""
        if not has_token(request.query_params.get("token"), token):
            return []
        return await asyncio.to_thread(store.kept)

    @app.get("/v1/removed")
    async def gone(request: Request) -> list[Removed]:
        """The worlds that were removed to make room, the last one first; none for those who may only watch."""
        if not has_token(request.query_params.get("token"), token):
            return []
        return await asyncio.to_thread(removed, store.folder)

    @app.get("/v1/starts/{name}.png")
    async def start(name: str) -> FileResponse:
        """The picture of a shipped start place."""
        if name not in start_names():
            raise HTTPException(404, "there is no start place of that name")
        return FileResponse(start_folder() / f"{name}.png")

    async def shown(world: Path, branch: str, numbers: list[int], kind: str) -> Response:
        async with looking:
            data = await asyncio.to_thread(lambda: column(stored_frames(world, branch, numbers), kind))
        return Response(data, media_type=f"image/{kind}")

    @app.get("/v1/worlds/{name}/picture.jpg")
    async def picture(request: Request, name: str) -> Response:
        """Where one stands in a stored world."""
        if not has_token(request.query_params.get("token"), token):
            raise HTTPException(403, "this server wants a token")
        try:
            return await shown(store.path(name), MAIN, [-1], "jpeg")
        except UserError as error:
            raise HTTPException(404, without_paths(str(error), store.folder)) from error

    @app.get("/v1/walks/{share}/frames.{kind}")
    async def frames(share: str, kind: str, numbers: str = "-1") -> Response:
        """Frames of a walk that is under way, one below the other; a share link's word is enough. No content where one
        cannot be had: a page may ask for what has just been gone back behind."""
        walk = hub.walk_of(share)
        if walk is None or walk.session.world_name is None or kind not in ("jpeg", "png"):
            raise HTTPException(404, "nobody walks there now")
        wanted = numbers.split(",")
        if len(wanted) > MOST_FRAMES or not all(re.fullmatch(r"-1|[0-9]{1,7}", one) for one in wanted):
            raise HTTPException(400, f"numbers are 1 to {MOST_FRAMES} frame numbers with commas between them")
        try:
            return await shown(store.path(walk.session.world_name), walk.session.branch, [int(x) for x in wanted], kind)
        except UserError:
            return Response(status_code=204)

    @app.get("/v1/worlds/{name}/{what}")
    async def export(request: Request, name: str, what: str, branch: str = MAIN) -> Response:
        """A stored world as a film of one branch (walk.mp4), or as one file to send to a friend (world.tar)."""
        if not has_token(request.query_params.get("token"), token):
            raise HTTPException(403, "this server wants a token")
        make = {"walk.mp4": _film, "world.tar": _archive}.get(what)
        if make is None:
            raise HTTPException(404, "there is walk.mp4 and world.tar")
        if sending.count >= hub.limits.downloads:
            raise HTTPException(503, f"{sending.count} downloads are under way; try again when one has ended")
        sending.count += 1
        try:
            async with exporting:  # one is made at a time; the others wait
                file = await asyncio.to_thread(_exported, make, store.path(name), branch)
        except UserError as error:
            sending.count -= 1
            raise HTTPException(404, without_paths(str(error), store.folder)) from error
        except BaseException:
            sending.count -= 1
            raise
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        log_event("exported", what=what, bytes=size)
        headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{name}-{what}"'}
        return Download(file, sending, headers)

    @app.websocket(PATH)
    async def generate(socket: WebSocket) -> None:
        await socket.accept()  # a refusal before it would reach the browser as a mere failure to connect
        known = has_token(socket.query_params.get("token"), token)
        try:
            own = is_own_page(socket.headers.get("origin"), socket.headers.get("host", ""), hosts)
            if token is None and not own:
                raise ProtocolError(
                    "this server wants pages of its own: open the address it has printed; behind a proxy, start it "
                    "with --allow-host NAME"
                )
            await _serve(socket, hub, known)
        except Exception as error:
            await _say_goodbye(socket, hub, error)

    static = resources.files("context_as_memory.server") / "static"
    app.mount("/", StaticFiles(directory=str(static), html=True), name="static")
    return app


# -- sockets ---------------------------------------------------------------------------------------------------------


async def _serve(socket: WebSocket, hub: Hub, may_walk: bool) -> None:
    """The first message says whether somebody wants to walk or to watch; for the latter a share link is enough. Who
    says nothing takes no place from others, and goes soon."""
    line = Line(socket, hub.limits)
    if hub.silent[may_walk] >= hub.limits.strangers:
        raise TooMany("too many connections; try later")
    hub.silent[may_walk] += 1
    try:
        async with asyncio.timeout(FIRST_S if may_walk else STRANGER_S):
            first = [await line.receive(hub.limits.upload_bytes if may_walk else MAX_MESSAGE_BYTES)]
    finally:
        hub.silent[may_walk] -= 1
    hub.connections += 1
    try:
        if isinstance(first[0], Init) and first[0].watch is not None:
            await _watch(socket, hub, first[0])
            return
        if not may_walk:
            raise ProtocolError("this server wants a token: open the address it has printed")
        broadcast = hub.enter()
        try:
            await _walk(line, hub, broadcast, first)
        finally:
            await hub.leave(broadcast)
    finally:
        hub.connections -= 1


class Line:
    """Messages of one connection, no faster than the limits say. Heartbeats are answered here."""

    def __init__(self, socket: WebSocket, limits: Limits) -> None:
        self.socket, self.limits = socket, limits
        self._pace = Pace(limits.message_rate)

    async def receive(self, max_bytes: int) -> Message:
        """The next message; `TimeoutError` if none comes but heartbeats: a page that is left open and forgotten must
        not keep a place for ever."""
        async with asyncio.timeout(self.limits.idle_s):
            while True:
                try:
                    data = await self.socket.receive_bytes()
                except KeyError:
                    raise ProtocolError("a text message; send MessagePack as bytes") from None
                message = decode(data, max_bytes)
                if (wait_s := self._pace.wait_s(len(data))) > 0:
                    await asyncio.sleep(wait_s)
                if not isinstance(message, CLIENT):
                    raise ProtocolError(f"{message.type} is a message of the server")
                if not (isinstance(message, Event) and message.kind == "heartbeat"):
                    return message
                await self.send(encode(Alive()))

    async def send(self, packet: bytes) -> None:
        """Send a packet; `TimeoutError` if it is not taken for long."""
        async with asyncio.timeout(SEND_S):
            await self.socket.send_bytes(packet)


async def _walk(line: Line, hub: Hub, broadcast: Broadcast, first: list[Message]) -> None:
    """Read and write until the visitor leaves. Frames are sent before the next chunk is made: a slow visitor slows down
    its own world, and nothing piles up.

    first: the first message; it is taken out, since it may hold a large picture.
    """
    wanted: list[str | None] = []  # the world that the last `init` named
    moved, speaking = asyncio.Event(), asyncio.Lock()  # answers and chunks are sent whole, one after the other
    session = broadcast.session

    async def send(work: Awaitable[Packed]) -> None:
        try:
            packed = await work
        except UserError as error:  # the visitor's affair: viewers are not told
            hub.failed += 1
            await line.send(encode(_failure(error, hub, wanted)))
            return
        for viewer in broadcast.viewers:
            viewer.show(packed)
        for packet in packed.packets[session.format]:
            await line.send(packet)

    async def listen() -> None:
        while True:
            message = first.pop() if first else await line.receive(hub.limits.upload_bytes)
            if isinstance(message, Event):
                await send(hub.receive(broadcast, message))
            else:
                async with speaking:
                    wanted[:] = [message.world] if isinstance(message, Init) else []
                    await send(hub.receive(broadcast, message))
            moved.set()

    async def walk() -> None:
        while True:
            await moved.wait()
            if not session.wants_to_move:
                moved.clear()
                continue
            if (early_s := session.early_s) > 0:
                await asyncio.sleep(early_s)
                continue
            began = time.monotonic()
            async with speaking:
                await send(hub.step(broadcast))
            session.last_chunk_s = time.monotonic() - began

    async def taken() -> None:
        await broadcast.taken.wait()
        raise Taken("this walk goes on in another tab")

    await _until_one_ends(listen(), walk(), taken())


class Taken(UserError):
    """Another tab took the walk over."""


def _failure(error: UserError, hub: Hub, wanted: Sequence[str | None]) -> Failure:
    """What a visitor is told of an error. Who has a world open is told to other visitors in their own words, not in
    those for the server's owner."""
    if not isinstance(error, LeaseTaken):
        return Failure(content=without_paths(str(error), hub.store.folder))
    holder = hub.who_walks_in(wanted[0]) if wanted else None
    if holder is None:
        return Failure(content="another program on the server walks in this world; end that first", code="busy")
    text = "this world is open in another tab or window: go there, take it over, or watch"
    return Failure(content=text, code="busy", share=holder.session.share)


async def _watch(socket: WebSocket, hub: Hub, init: Init) -> None:
    """Pass on what a visitor sees until one of both leaves."""
    broadcast, viewer = await hub.watch(init.watch or "", picture_format(init))

    async def listen() -> None:
        pace = Pace(hub.limits.message_rate)
        while (packet := await socket.receive())["type"] != "websocket.disconnect":
            # Whatever it is: who watches touches nothing. A heartbeat is answered.
            data = packet.get("bytes") or b""
            await asyncio.sleep(pace.wait_s(len(data)))
            if HEARTBEAT in data[:200]:
                viewer.offer([encode(Alive())])

    async def show() -> None:
        while not viewer.lagging:
            packet = await viewer.packets.get()
            if packet is None:
                await socket.close(GOING_AWAY)
                return
            await asyncio.wait_for(socket.send_bytes(packet), SEND_S)
        raise TooMany("this connection is too slow to watch")

    try:
        await _until_one_ends(listen(), show())
    finally:
        broadcast.viewers.discard(viewer)


async def _until_one_ends(*parts: object) -> None:
    """Run coroutines side by side until the first one ends; raises what it raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]  # type: ignore[call-overload]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _say_goodbye(socket: WebSocket, hub: Hub, error: Exception) -> None:
    """Close with a code that says why, and the reason before it."""
    if isinstance(error, WebSocketDisconnect) or socket.client_state is WebSocketState.DISCONNECTED:
        return
    reasons = (
        (TooLarge, TOO_BIG, "protocol"),
        (ProtocolError, POLICY_VIOLATION, "protocol"),
        (TooMany, TRY_LATER, "too_many"),
        (Taken, POLICY_VIOLATION, "taken"),
        (UserError, POLICY_VIOLATION, "refused"),
        (TimeoutError, GOING_AWAY, "idle"),
    )
    code, name = next(((code, name) for kind, code, name in reasons if isinstance(error, kind)), (FAULT, "fault"))
    text = without_paths(str(error), hub.store.folder)
    if name == "idle":
        text = "nothing was received for long"
    if name == "fault":
        hub.failed += 1
        log_event("fault", error)
        text = "the server made a mistake"
    try:
        await socket.send_bytes(encode(Failure(content=text, code=name)))
        await socket.close(code)
    except (RuntimeError, WebSocketDisconnect):
        return  # it is gone already


# -- exports ---------------------------------------------------------------------------------------------------------

PIECE = 1 << 18  # bytes


def _exported(make: Callable[[Path, str, Path], Path], world: Path, branch: str) -> BinaryIO:
    """What `make` writes, as an open file that has no name any more: it is gone when it is sent, or nobody wants it."""
    with tempfile.TemporaryDirectory(prefix="explorer-") as folder:
        return make(world, branch, Path(folder)).open("rb")


@dataclass
class Counter:
    """How many of something there are now."""

    count: int = 0


class Download(Response):
    """An open file, sent piece by piece and closed; who does not take a piece in time gets no more."""

    def __init__(self, file: BinaryIO, sending: Counter, headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type="application/octet-stream")
        self.file, self.sending = file, sending

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece = b"first"
            while piece:
                piece = await asyncio.to_thread(self.file.read, PIECE)
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})
        except TimeoutError:
            log_event("download_abandoned")
        finally:
            self.sending.count -= 1
            self.file.close()


def _film(world: Path, branch: str, folder: Path) -> Path:
    """The frames of a branch as a film that plays everywhere."""
    with WorldFile.open(world, write=False) as file:
        size = file.size
        with VideoWriter(folder / "walk.mp4", *size, fps=MOVIE_FPS, pix_fmt="yuv420p") as film:
            for chunk in BranchStore(file, branch).chunks:
                if not chunk.lost:
                    film.write(file.frames_u8(chunk, size))
    if not film.num_frames:
        raise UserError(f"branch {branch!r} has no frames yet")
    return folder / "walk.mp4"


def _archive(world: Path, branch: str, folder: Path) -> Path:
    """The whole world, all branches, as one file."""
    with WorldFile.open(world, write=False) as file:
        return export_world(file, folder / "world.tar")
