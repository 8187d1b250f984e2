"""Whose turn it is: all walks of a server share one model."""

import asyncio
import contextlib
import ctypes
import itertools
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.server.limits import Limits, resident_mb
from context_as_memory.server.outbox import Output, Packed, Viewer, pack
from context_as_memory.server.protocol import Edit, Event, Failure, Init, Message, encode
from context_as_memory.server.room import make_room
from context_as_memory.server.session import Session
from context_as_memory.server.store import WorldStore
from context_as_memory.server.upload import Upload, Uploads

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
TRIM_EVERY = 16  # chunks
TAKE_S = 20.0  # to finish a chunk of a walk that another tab takes over


class TooMany(UserError):
    """A limit is reached; trying later may help."""


class Broadcast:
    """One walk: its session, and who watches it."""

    def __init__(self, session: Session, number: int) -> None:
        self.session, self.number = session, number
        self.taken = asyncio.Event()  # somebody goes on with this walk in another tab
        self.closed = asyncio.Event()
        self.viewers: set[Viewer] = set()
        self.rests_until = 0.0  # by `time.perf_counter`: no message but events is answered before
        self.gives_way_until = 0.0  # the same for chunks that nobody holds keys for

    def pack(self, outputs: Sequence[Output]) -> Packed:
        """Outputs of the session, in every format that somebody here wants."""
        kinds = [self.session.format, *(viewer.kind for viewer in tuple(self.viewers))]
        return pack(outputs, kinds, self.session.limits)


class Hub:
    """All walks of a server. Whoever waits longest for the model is served next; scripts give way to held keys."""

    def __init__(self, store: WorldStore, limits: Limits) -> None:
        self.store, self.limits = store, limits
        self.broadcasts: set[Broadcast] = set()
        self.connections = 0  # of those who may walk, or watch
        # Those who have not said yet what they want, with the token and without: neither takes the other's place.
        self.silent = {True: 0, False: 0}
        self.uploads = Uploads()
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()  # asyncio's lock is fair
        self._clearing = asyncio.Lock()
        # Always the same thread: torch keeps workers, and the allocator keeps memory, for each thread that asks.
        self._worker = ThreadPoolExecutor(1, "model")
        self.chunks, self.chunk_seconds, self.refused, self.failed = 0, 0.0, 0, 0
        self._began = time.time()

    def enter(self) -> Broadcast:
        """A walk for another visitor; `TooMany` if all are taken."""
        if len(self.broadcasts) >= self.limits.sessions:
            self.refused += 1
            raise TooMany(f"all {self.limits.sessions} places are taken; try later")
        broadcast = Broadcast(Session(self.store, self.limits), next(self._numbers))
        self.broadcasts.add(broadcast)
        log_event("session_opened", session=broadcast.number, open=len(self.broadcasts))
        return broadcast

    async def leave(self, broadcast: Broadcast) -> None:
        """The visitor is gone: tell those who watched, and close the world when its chunk is finished."""
        self.broadcasts.discard(broadcast)
        end = encode(Failure(content="the visitor has left", code="ended"))
        for viewer in broadcast.viewers:
            viewer.offer([end, None])
        # Handed to a thread at once: it is closed even if this task, or the whole loop, ends now.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._worker, broadcast.session.close))
        broadcast.closed.set()
        log_event("session_closed", session=broadcast.number, open=len(self.broadcasts))

    def who_walks_in(self, name: str | None) -> Broadcast | None:
        """The walk in the world of that name; None if nobody walks there, on this server."""
        return next((one for one in self.broadcasts if name is not None and one.session.world_name == name), None)

    def walk_of(self, share: str) -> Broadcast | None:
        """The walk that a share link's word names; None if nobody walks there now."""
        return next((one for one in self.broadcasts if one.session.share == share), None)

    async def take(self, name: str | None, by: Broadcast) -> None:
        """End the walk in a world, so that another one can go on there; returns when it is closed."""
        holder = self.who_walks_in(name)
        if holder is not None and holder is not by:
            holder.taken.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TAKE_S):
                    await holder.closed.wait()

    async def watch(self, share: str, kind: str) -> tuple[Broadcast, Viewer]:
        """Join those who watch a walk. `UserError` if there is none of that name."""
        broadcast = self.walk_of(share)
        scene = [] if broadcast is None else await self.alone(lambda: broadcast.session.scene(driver=False))
        if broadcast is None or broadcast not in self.broadcasts or not scene:  # it may have ended meanwhile
            raise UserError("nobody walks there now; ask for a new link")
        if len(broadcast.viewers) >= self.limits.viewers:
            self.refused += 1
            raise TooMany(f"{self.limits.viewers} already watch this walk; try later")
        viewer = Viewer(kind, self.limits)
        viewer.offer(pack(scene, [kind], self.limits).packets[kind])
        broadcast.viewers.add(viewer)
        return broadcast, viewer

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

    async def receive(self, broadcast: Broadcast, message: Message) -> Packed:
        """Let a session take in a message; its answers. An event never waits. Whoever takes the model's time with other
        messages is heard again after as long a while, so that at least half of it is left to others."""
        picture = None
        if isinstance(message, Init):
            if message.take:
                await self.take(message.world, broadcast)
            if message.world is None:
                await self.make_room()
            if message.first_frame is not None:
                picture = await self._unpacked(message.first_frame)
                message = replace(message, first_frame=None)
        elif isinstance(message, Edit):
            picture = await self._unpacked(message.picture, exact=True)
            message = replace(message, picture=b"")

        def answers() -> tuple[Packed, float]:  # reads files and may run the autoencoder
            began = time.perf_counter()
            packed = broadcast.pack(broadcast.session.receive(message, picture))
            return packed, time.perf_counter() - began

        if isinstance(message, Event):
            return answers()[0]
        await asyncio.sleep(max(0.0, broadcast.rests_until - time.perf_counter()))
        packed, seconds = await self.alone(answers)
        broadcast.rests_until = time.perf_counter() + seconds
        return packed

    async def make_room(self) -> None:
        """Remove worlds that were not walked in for longest, where they take more than `Limits.keep_worlds_gb`."""
        if self.limits.keep_worlds_gb is None:
            return
        most_bytes, rest_s = self.limits.keep_worlds_gb * 1e9, self.limits.idle_s
        async with self._clearing:
            await asyncio.to_thread(lambda: make_room(self.store.folder, self.store.names(), most_bytes, rest_s))

    async def _unpacked(self, data: bytes, exact: bool = False) -> np.ndarray:
        """A picture file as a frame of the store's worlds, unpacked in a process of its own."""
        width, height = self.store.size
        upload = Upload(width=width, height=height, max_pixels=self.limits.upload_pixels, exact=exact)
        return await self.uploads.frame(data, upload)

    async def step(self, broadcast: Broadcast) -> Packed:
        """The next chunk of a walk along the keys that are held, or along a script."""
        if not broadcast.session.holds_keys:
            await self._give_way(broadcast)
        return await self._made(broadcast, broadcast.session.step, broadcast.pack)

    async def step_along(
        self, broadcast: Broadcast, path: frozenset[str] | np.ndarray, answer: Callable[[Sequence[Output]], _Result]
    ) -> _Result:
        """The next chunk of a walk along given keys or poses [T, 4, 4], as what `answer` makes of it, beside the
        model."""
        await self._give_way(broadcast)
        return await self._made(broadcast, lambda: broadcast.session.step_along(path), answer)

    async def _give_way(self, broadcast: Broadcast) -> None:
        """Scripts and programs leave two turns in three to those who hold keys: these see every picture come."""
        if any(other.session.holds_keys for other in self.broadcasts if other is not broadcast):
            await asyncio.sleep(max(0.0, broadcast.gives_way_until - time.perf_counter()))

    async def _made(
        self, broadcast: Broadcast, make: Callable[[], list[Output]], answer: Callable[[Sequence[Output]], _Result]
    ) -> _Result:
        def timed() -> tuple[_Result, bool, float]:
            began = time.perf_counter()
            outputs = make()
            if self.chunks % TRIM_EVERY == 0:
                give_back_memory()
            return answer(outputs), bool(outputs), time.perf_counter() - began

        found, walked, seconds = await self.alone(timed)
        if walked:
            self.chunks += 1
            self.chunk_seconds += seconds
            broadcast.gives_way_until = time.perf_counter() + 2 * seconds
        return found

    def metrics(self) -> str:
        """Counters in the text format of Prometheus."""
        viewers = sum(len(broadcast.viewers) for broadcast in self.broadcasts)
        rows = {
            ("cam_sessions_open", "gauge"): len(self.broadcasts),
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


def log_event(event: str, error: BaseException | None = None, **details: object) -> None:
    """One structured line in the log; with an error, one that is shown without a log too."""
    log.log(logging.ERROR if error else logging.INFO, event, exc_info=error, extra={"details": details})


class JsonLines(logging.Formatter):
    """Log records as one JSON object each: time, level, event, and what `log_event` was given."""

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
