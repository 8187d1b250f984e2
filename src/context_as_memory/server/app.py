"""HTTP and WebSocket around sessions. One model serves all sessions in turn, a chunk at a time."""

import asyncio
import secrets
import time
from importlib import resources

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles

from context_as_memory.errors import UserError
from context_as_memory.server.protocol import (
    CLIENT,
    MAX_MESSAGE_BYTES,
    Failure,
    Init,
    ProtocolError,
    Rewind,
    decode,
    encode,
)
from context_as_memory.server.session import Limits, Session
from context_as_memory.server.shelf import Shelf

PATH = "/v1/realtime_video/generate"
POLICY_VIOLATION, TOO_BIG, TRY_LATER, GOING_AWAY = 1008, 1009, 1013, 1001


class Hall:
    """All sessions of a server, and the model's queue: whoever waits longest is served next."""

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self.shelf, self.limits = shelf, limits
        self.turn = asyncio.Lock()  # asyncio's lock is fair
        self.open = 0
        self.chunks, self.chunk_seconds, self.refused = 0, 0.0, 0
        self.began = time.time()

    def metrics(self) -> str:
        """Counters in the text format of Prometheus."""
        rows = {
            "cam_sessions_open": self.open,
            "cam_sessions_refused_total": self.refused,
            "cam_chunks_total": self.chunks,
            "cam_chunk_seconds_total": round(self.chunk_seconds, 3),
            "cam_uptime_seconds": round(time.time() - self.began, 1),
        }
        return "".join(f"{name} {value}\n" for name, value in rows.items())


def create_app(shelf: Shelf, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """The application. shelf: where worlds come from and are kept. token: what viewers must give as `?token=`; None
    asks for none (loopback only)."""
    hall = Hall(shelf, limits or Limits())
    app = FastAPI(title="Context as Memory: explorer", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.hall = hall

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        return hall.metrics()

    @app.websocket(PATH)
    async def generate(socket: WebSocket) -> None:
        if not _same_origin(socket) or not _has_token(socket, token):
            await socket.close(POLICY_VIOLATION)
            return
        if hall.open >= hall.limits.sessions:
            hall.refused += 1
            await socket.accept()
            await socket.send_bytes(encode(Failure(message=f"all {hall.limits.sessions} places are taken; try later")))
            await socket.close(TRY_LATER)
            return
        await socket.accept()
        hall.open += 1
        session = Session(hall.shelf, hall.limits)
        try:
            await _serve(socket, session, hall)
        finally:
            hall.open -= 1
            session.close()

    static = resources.files("context_as_memory.server") / "static"
    app.mount("/", StaticFiles(directory=str(static), html=True), name="static")
    return app


def _same_origin(socket: WebSocket) -> bool:
    """A page of another site must not drive this server. Programs send no origin and may."""
    origin = socket.headers.get("origin")
    return origin is None or origin.split("://", 1)[-1] == socket.headers.get("host")


def _has_token(socket: WebSocket, token: str | None) -> bool:
    return token is None or secrets.compare_digest(socket.query_params.get("token", ""), token)


async def _serve(socket: WebSocket, session: Session, hall: Hall) -> None:
    """Read and write until the viewer leaves. Frames are sent before the next chunk is made: a slow viewer slows down
    its own world, and nothing piles up."""
    moved = asyncio.Event()

    async def listen() -> None:
        while True:
            data = await asyncio.wait_for(socket.receive_bytes(), hall.limits.idle_s)
            if len(data) > MAX_MESSAGE_BYTES:
                await socket.close(TOO_BIG)
                return
            message = decode(data)
            if not isinstance(message, CLIENT):
                raise ProtocolError(f"{message.type} is a message of the server")
            try:
                if isinstance(message, (Init, Rewind)):  # reads files and may run the autoencoder
                    async with hall.turn:
                        answers = await asyncio.to_thread(session.receive, message)
                else:
                    answers = session.receive(message)
            except UserError as error:
                answers = [Failure(message=str(error))]
            for answer in answers:
                await socket.send_bytes(encode(answer))
            moved.set()

    async def walk() -> None:
        while True:
            await moved.wait()
            if not session.wants_to_move:
                moved.clear()
                continue
            try:
                async with hall.turn:
                    began = time.perf_counter()
                    messages = await asyncio.to_thread(session.step)
                    hall.chunks += 1
                    hall.chunk_seconds += time.perf_counter() - began
            except UserError as error:
                messages = [Failure(message=str(error))]
            for message in messages:
                await socket.send_bytes(encode(message))

    tasks = [asyncio.create_task(listen()), asyncio.create_task(walk())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await _say_goodbye(socket, task.exception())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _say_goodbye(socket: WebSocket, error: BaseException | None) -> None:
    """Close with a code that says why."""
    if isinstance(error, ProtocolError):
        await socket.send_bytes(encode(Failure(message=str(error))))
        await socket.close(POLICY_VIOLATION)
    elif isinstance(error, TimeoutError):
        await socket.send_bytes(encode(Failure(message="nothing was heard for long; connect again to go on")))
        await socket.close(GOING_AWAY)
    elif error is not None and not isinstance(error, (WebSocketDisconnect, KeyError)):
        raise error  # KeyError: a text message where bytes were expected
    elif isinstance(error, KeyError):
        await socket.close(POLICY_VIOLATION)
