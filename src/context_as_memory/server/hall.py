"""Everybody on a server: walkers, those who watch them, and the model that they share."""

import asyncio
import contextlib
import ctypes
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from context_as_memory.errors import UserError
from context_as_memory.server.limits import Limits
from context_as_memory.server.protocol import Event, Failure, Message, Ready, encode
from context_as_memory.server.session import Session, Told, resident_mb, told_to
from context_as_memory.server.shelf import Shelf

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
TRIM_EVERY = 16  # chunks


class TooMany(UserError):
    """A limit is reached; trying later may help."""


class Viewer:
    """Somebody who watches: a bounded queue of packets. One who lags behind it is let go, and slows down nobody."""

    def __init__(self, kind: str, limits: Limits) -> None:
        """kind: the format of the pictures."""
        self.kind = kind
        self.packets: asyncio.Queue[bytes | None] = asyncio.Queue(limits.waiting_messages)
        self.lagging = False

    def offer(self, packets: Iterable[bytes | None]) -> None:
        """Queue packets; None is the end."""
        for packet in packets:
            if self.packets.full():
                self.lagging = True
                return
            self.packets.put_nowait(packet)


class Room:
    """One walk: its session, and who watches it."""

    def __init__(self, session: Session, number: int) -> None:
        self.session, self.number = session, number
        self.viewers: set[Viewer] = set()

    def pack(self, told: list[Told]) -> dict[str, list[bytes]]:
        """What is told, as packets in every format that somebody here wants; takes a while."""
        kinds = {self.session.format, *(viewer.kind for viewer in tuple(self.viewers))}
        return {kind: packets(told, kind, self.session.limits) for kind in kinds}

    def show(self, told: list[Told], packed: dict[str, list[bytes]]) -> None:
        """Pass on to those who watch what the walker is told, less what is the walker's alone."""
        for viewer in self.viewers:
            if any(isinstance(item, Ready) for item in told) or viewer.kind not in packed:
                theirs = [for_viewers(item) for item in told]
                viewer.offer(packets(theirs, viewer.kind, self.session.limits))
            else:
                viewer.offer(packed[viewer.kind])


def for_viewers(item: Told) -> Told:
    """The same for those who only watch: not the name that opens the world."""
    return replace(item, world=None, driver=False) if isinstance(item, Ready) else item


def packets(told: Sequence[Told], kind: str, limits: Limits) -> list[bytes]:
    """What is told, as packets with pictures of `kind`."""
    return [encode(message) for message in told_to(told, kind, limits.jpeg_quality)]


class Hall:
    """All walks of a server. Whoever waits longest for the model is served next."""

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self.shelf, self.limits = shelf, limits
        self.rooms: set[Room] = set()
        self.connections = 0
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()  # asyncio's lock is fair
        # Always the same thread: torch keeps workers, and the allocator keeps memory, for each thread that asks.
        self._worker = ThreadPoolExecutor(1, "model")
        self.chunks, self.chunk_seconds, self.refused, self.failed = 0, 0.0, 0, 0
        self._began = time.time()

    def enter(self) -> Room:
        """A room for another walker; `TooMany` if all are taken."""
        if len(self.rooms) >= self.limits.sessions:
            self.refused += 1
            raise TooMany(f"all {self.limits.sessions} places are taken; try later")
        room = Room(Session(self.shelf, self.limits), next(self._numbers))
        self.rooms.add(room)
        note("session_opened", session=room.number, open=len(self.rooms))
        return room

    async def leave(self, room: Room) -> None:
        """The walker is gone: tell those who watched, and close the world when its chunk is finished."""
        self.rooms.discard(room)
        end = encode(Failure(content="the walker has left", code="ended"))
        for viewer in room.viewers:
            viewer.offer([end, None])
        # Handed to a thread at once: it is closed even if this task, or the whole loop, ends now.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._worker, room.session.close))
        note("session_closed", session=room.number, open=len(self.rooms))

    async def watch(self, share: str, kind: str) -> tuple[Room, Viewer]:
        """Join those who watch a walk. `UserError` if there is none of that name."""
        room = next((room for room in self.rooms if room.session.share == share), None)
        scene = [] if room is None else await self.alone(lambda: room.session.scene(driver=False))
        if room is None or room not in self.rooms or not scene:  # it may have ended meanwhile
            raise UserError("nobody walks there now; ask for a new link")
        if len(room.viewers) >= self.limits.viewers:
            self.refused += 1
            raise TooMany(f"{self.limits.viewers} already watch this walk; try later")
        viewer = Viewer(kind, self.limits)
        viewer.offer(packets(scene, kind, self.limits))
        room.viewers.add(viewer)
        return room, viewer

    async def alone(self, function: Callable[[], _Result]) -> _Result:
        """Run something slow in a thread when it is this caller's turn. What has begun is finished even if nobody waits
        for it any more: a world is not closed in the middle of a chunk."""
        async with self._turn:
            work = asyncio.get_running_loop().run_in_executor(self._worker, function)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise

    async def hear(self, room: Room, message: Message) -> tuple[list[Told], dict[str, list[bytes]]]:
        """Let a session take in a message; its answers, and the same packed."""
        if isinstance(message, Event):  # at once, whoever has the model
            told = room.session.receive(message)
            return told, room.pack(told)

        def answers() -> tuple[list[Told], dict[str, list[bytes]]]:  # reads files and may run the autoencoder
            told = room.session.receive(message)
            return told, room.pack(told)

        return await self.alone(answers)

    async def step(self, room: Room) -> tuple[list[Told], dict[str, list[bytes]]]:
        """The next chunk of a walk, and the same packed."""

        def timed() -> tuple[list[Told], dict[str, list[bytes]], float]:
            began = time.perf_counter()
            told = room.session.step()
            if self.chunks % TRIM_EVERY == 0:
                give_back_memory()
            return told, room.pack(told), time.perf_counter() - began

        told, packed, seconds = await self.alone(timed)
        if told:
            self.chunks += 1
            self.chunk_seconds += seconds
        return told, packed

    def metrics(self) -> str:
        """Counters in the text format of Prometheus."""
        viewers = sum(len(room.viewers) for room in self.rooms)
        rows = {
            ("cam_sessions_open", "gauge"): len(self.rooms),
            ("cam_viewers_open", "gauge"): viewers,
            ("cam_refused_total", "counter"): self.refused,
            ("cam_failures_total", "counter"): self.failed,
            ("cam_chunks_total", "counter"): self.chunks,
            ("cam_chunk_seconds_total", "counter"): round(self.chunk_seconds, 3),
            ("cam_uptime_seconds", "gauge"): round(time.time() - self._began, 1),
            ("cam_resident_megabytes", "gauge"): resident_mb() or 0,
        }
        return "".join(f"# TYPE {name} {kind}\n{name} {value}\n" for (name, kind), value in rows.items())


def give_back_memory() -> None:
    """Return to the system what was freed. The C library of Linux keeps it otherwise, in pieces too small for the next
    large picture: 88 MB after 600 chunks of four walks."""
    with contextlib.suppress(OSError, AttributeError):  # other systems have other libraries
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def note(event: str, error: BaseException | None = None, **details: object) -> None:
    """One structured line in the log; with an error, one that is shown without a log too."""
    log.log(logging.ERROR if error else logging.INFO, event, exc_info=error, extra={"details": details})


class JsonLines(logging.Formatter):
    """Log records as one JSON object each: time, level, event, and what `note` was given."""

    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "details", {}),
        }
        if record.exc_info:
            row["error"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)
