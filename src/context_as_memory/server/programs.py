"""Sessions for programs: begin, step, reset, fork, close; JSON over HTTP, one answer to each question.

The same walks as those of the page, under the same limits and the same token. A program gives keys or poses for one
chunk and gets its frames. `/v1/openapi.json` describes it.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from context_as_memory.errors import UserError
from context_as_memory.server.guard import has_token, is_own_page, without_paths
from context_as_memory.server.hub import Broadcast, Hub, TooMany
from context_as_memory.server.outbox import NewFrames, Output, Packed
from context_as_memory.server.protocol import VIEWS, ChunkStats, ContextFrames, Init, Ready, poses_of
from context_as_memory.server.register import Register

ROOM_S = 60.0  # how often room is made, where that is wanted
SWEEP_S = 5.0  # how often places of forgotten sessions are looked for
Key = Literal["w", "s", "a", "d", "j", "l", "i", "k"]
Name = Annotated[str, Field(max_length=64, pattern="^[A-Za-z0-9_-]+$")]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Begin(Asked):
    """Where a walk begins. Without anything: in the first start place, with one picture."""

    start: str | None = Field(None, max_length=64, description="a shipped start place")
    known: bool = Field(False, description="remember all that was seen there when looking around")
    first_frame: str | None = Field(None, description="a picture file (JPEG, PNG, WebP) as base64, to start from")
    world: Name | None = Field(None, description="a stored world to go on with")
    branch: Name | None = Field(None, description="of that world")
    seed: int = Field(0, ge=0, lt=2**32)
    strategy: str = Field("coverage", max_length=32, description="how the context is chosen")
    max_context: int | None = Field(None, ge=1, le=1024)
    prompt: str | None = Field(None, max_length=4000, description="for weights that read text")
    format: Literal["jpeg", "raw"] = Field("jpeg", description="of the pictures; raw: RGB bytes")


class Keys(Asked):
    """One chunk with these keys held."""

    keys: list[Key] = Field(max_length=8)


class Poses(Asked):
    """One chunk along a pose for each of its frames."""

    poses: list[list[list[float]]] = Field(
        max_length=64,
        description="camera to world, 4x4 in rows, OpenCV axes, metres; as many as the world has frames a chunk",
    )


class Empty(Asked):
    """Nothing is asked."""


class FramesAnswer(BaseModel):
    """Frames of a session, with their poses."""

    first: int = Field(description="the number of the first of these frames in the world")
    images: list[str] = Field(description="base64: a JPEG file each, or RGB bytes")
    poses: list[list[list[float]]] = Field(description="camera to world, 4x4")
    reopened: bool = Field(
        False,
        description="the process of this session died; its world was opened again from its file, at its last chunk. "
        "True in the first answer after that: a chunk whose answer was lost may lie before `first`",
    )


class Standing(FramesAnswer):
    """A session and the frame that it stands on."""

    session: str
    world: str
    branch: str
    branches: list[str]
    width: int
    height: int
    chunk_frames: int
    strategies: list[str]
    starts: list[str]


class Walked(FramesAnswer):
    """The frames of one chunk."""

    context: list[int] = Field(description="the frames that the model was given, by number, the most recent one last")
    scores: list[float]
    seconds: dict[str, float]
    frames_per_second: float


class _Program:
    """One session of a program. One question at a time: the next one waits."""

    def __init__(self, broadcast: Broadcast, kind: str) -> None:
        self.broadcast, self.kind, self.turn = broadcast, kind, asyncio.Lock()
        self.heard_at = time.monotonic()
        self.reopened = False  # and nobody was told yet


class Programs:
    """The sessions of programs on a server. `router` answers them; `sweeping` closes those that were forgotten.

    register: where sessions are written down so that another process can go on with them; None: nowhere.
    """

    def __init__(self, hub: Hub, token: str | None, hosts: Sequence[str], register: Register | None = None) -> None:
        self.hub, self._token, self._hosts, self._register = hub, token, hosts, register
        self._sessions: dict[str, _Program] = {}
        self._opening = asyncio.Lock()
        self.router = APIRouter(prefix="/v1/sessions", dependencies=[Depends(self._may)], tags=["sessions"])
        errors: dict[int | str, dict[str, object]] = {
            400: {"description": "it cannot be done, and why"},
            403: {"description": "a token is missing, or a page of another site asks"},
            404: {"description": "there is no such session"},
            429: {"description": "all places are taken; try later"},
        }
        answers = {"responses": errors}
        self.router.post("", status_code=201, **answers)(self.begin)  # type: ignore[arg-type]
        self.router.post("/{session}/step", **answers)(self.step)  # type: ignore[arg-type]
        self.router.post("/{session}/reset", **answers)(self.reset)  # type: ignore[arg-type]
        self.router.post("/{session}/fork", status_code=201, **answers)(self.fork)  # type: ignore[arg-type]
        self.router.post("/{session}/close", status_code=204, **answers)(self.close)  # type: ignore[arg-type]

    def _may(self, request: Request) -> None:
        given = request.query_params.get("token")
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        given = value if scheme.lower() == "bearer" else given
        if not has_token(given, self._token):
            raise HTTPException(403, "this server wants a token: Authorization: Bearer TOKEN, or ?token=")
        if not is_own_page(request.headers.get("origin"), request.headers.get("host", ""), self._hosts):
            raise HTTPException(403, "pages of other sites may not drive this server")

    def names(self) -> list[str]:
        """The sessions that are open here."""
        return list(self._sessions)

    # -- questions ---------------------------------------------------------------------------------------------------

    async def begin(self, asked: Begin) -> Standing:
        """Begin a walk, or go on with a stored one."""
        with _told(self.hub):
            return await self._enter(self._new_name(), _init(asked))

    async def reset(self, session: str, asked: Begin) -> Standing:
        """Begin anew in the same session; the world before stays stored."""
        program = await self._known(session)
        async with program.turn:
            with _told(self.hub):
                program.kind = asked.format
                return await self._begin(session, program, _init(asked))

    async def step(self, session: str, asked: Keys | Poses) -> Walked:
        """Walk on by one chunk."""
        program = await self._known(session)
        async with program.turn:
            with _told(self.hub):
                path = frozenset[str](asked.keys) if isinstance(asked, Keys) else poses_of(asked.poses)
                walked = await self.hub.step_along(program.broadcast, path, lambda made: self._walked(program, made))
                program.heard_at = time.monotonic()
                return walked

    async def fork(self, session: str, asked: Empty | None = None) -> Standing:
        """A second session, in a copy of the world, that stands where this one does."""
        program = await self._known(session)
        async with program.turn:
            with _told(self.hub):
                ready = await self._ready(program)
                twin, name = _Program(self.hub.enter(), program.kind), ""
                try:
                    name = await self.hub.alone(program.broadcast.session.copied)
                    init = Init(
                        world=name,
                        branch=ready.branch,
                        strategy=ready.strategy,
                        max_context=ready.max_context,
                        realtime_output_format=program.kind,
                    )
                    return await self._begin(self._new_name(), twin, init)
                except BaseException:
                    await self.hub.leave(twin.broadcast)
                    if name:
                        self.hub.store.remove(name)
                    raise

    async def close(self, session: str) -> None:
        """End a session; its world stays stored."""
        program = await self._known(session)
        async with program.turn:
            if self._sessions.pop(session, None) is not None:
                await self.hub.leave(program.broadcast)
                self._forget(session)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _new_name(self) -> str:
        return secrets.token_hex(16) if self._register is None else self._register.new_name()

    def _forget(self, session: str) -> None:
        if self._register is not None:
            self._register.forget(session)

    async def _known(self, session: str) -> _Program:
        program = self._sessions.get(session) or await self._again(session)
        program.heard_at = time.monotonic()
        if self._register is not None:
            self._register.hear(session)
        return program

    async def _again(self, session: str) -> _Program:
        """A session of another process, which is gone: opened again from its world file."""
        async with self._opening:
            if session in self._sessions:
                return self._sessions[session]
            init = None if self._register is None else self._register.find(session)
            if init is None:
                raise HTTPException(404, "there is no such session; it may have been closed, or forgotten for too long")
            with _told(self.hub):
                await self._enter(session, init)
            program = self._sessions[session]
            program.reopened = True
            return program

    async def _enter(self, session: str, init: Init) -> Standing:
        """Take a place and begin there."""
        program = _Program(self.hub.enter(), init.realtime_output_format or "jpeg")
        try:
            return await self._begin(session, program, init)
        except BaseException:
            await self.hub.leave(program.broadcast)
            raise

    async def _begin(self, session: str, program: _Program, init: Init) -> Standing:
        packed = await self.hub.receive(program.broadcast, init)
        self._sessions[session] = program
        program.heard_at = time.monotonic()
        if self._register is not None:
            ready = next(one for one in packed.outputs if isinstance(one, Ready))
            told = {name: getattr(ready, name) for name in ("world", "branch", "strategy", "max_context")}
            self._register.note(session, Init(**told, realtime_output_format=program.kind))
        return self._standing(session, program, packed)

    def _standing(self, session: str, program: _Program, packed: Packed) -> Standing:
        ready = next(one for one in packed.outputs if isinstance(one, Ready))
        frames = next(one for one in packed.outputs if isinstance(one, NewFrames))
        return Standing(
            **self._pictures(program, frames),
            session=session,
            world=ready.world or "",
            branch=ready.branch,
            branches=ready.branches,
            width=ready.width,
            height=ready.height,
            chunk_frames=ready.chunk_frames,
            strategies=ready.strategies,
            starts=ready.starts,
        )

    def _walked(self, program: _Program, outputs: Sequence[Output]) -> Walked:
        frames = next(one for one in outputs if isinstance(one, NewFrames) and one.view == VIEWS[0])
        context = next(one for one in outputs if isinstance(one, ContextFrames))
        cost = next(one for one in outputs if isinstance(one, ChunkStats))
        return Walked(
            **self._pictures(program, frames),
            context=context.frames,
            scores=context.scores,
            seconds=cost.seconds,
            frames_per_second=cost.frames_per_second,
        )

    async def _ready(self, program: _Program) -> Ready:
        scene = await self.hub.alone(program.broadcast.session.scene)
        return next(one for one in scene if isinstance(one, Ready))

    def _pictures(self, program: _Program, frames: NewFrames) -> dict[str, Any]:
        message = frames.message(program.kind, self.hub.limits.jpeg_quality)
        ends = np.cumsum(message.payload_lengths).tolist()
        parts = [message.payload[end - size : end] for end, size in zip(ends, message.payload_lengths, strict=True)]
        poses = program.broadcast.session.poses(frames.first)[: len(frames.frames_u8)]
        images = [base64.b64encode(part).decode() for part in parts]
        told, program.reopened = program.reopened, False
        return {"first": frames.first, "images": images, "poses": poses.tolist(), "reopened": told}

    # -- sessions that nobody asks any more ----------------------------------------------------------------------------

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        """While inside, sessions that were not asked anything for `Limits.idle_s` are closed; in the end all are.
        Worlds are removed where they take too much, see `Hub.make_room`."""

        async def make_room() -> None:
            while True:
                await self.hub.make_room()
                await asyncio.sleep(ROOM_S)

        async def sweep() -> None:
            while True:
                await asyncio.sleep(min(SWEEP_S, self.hub.limits.idle_s))
                late = time.monotonic() - self.hub.limits.idle_s
                for name, program in list(self._sessions.items()):
                    if program.heard_at < late and not program.turn.locked():
                        del self._sessions[name]
                        await self.hub.leave(program.broadcast)
                        self._forget(name)
                if self._register is not None:
                    await asyncio.to_thread(self._register.clear)

        tasks = [asyncio.create_task(sweep()), asyncio.create_task(make_room())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for program in self._sessions.values():
                await self.hub.leave(program.broadcast)
            self._sessions.clear()


@contextmanager
def _told(hub: Hub) -> Iterator[None]:
    """Errors of the user as answers of HTTP."""
    try:
        yield
    except UserError as error:
        hub.failed += 1
        status = 429 if isinstance(error, TooMany) else 400
        raise HTTPException(status, without_paths(str(error), hub.store.folder)) from error


def _init(asked: Begin) -> Init:
    try:
        frame = None if asked.first_frame is None else base64.b64decode(asked.first_frame, validate=True)
    except ValueError:
        raise UserError("first_frame is no base64; encode the bytes of a picture file") from None
    same = asked.model_dump(exclude={"first_frame", "format"})
    return Init(**same, first_frame=frame, realtime_output_format=asked.format)
