"""One viewer's world as a state machine: new -> walking -> closed. Knows nothing of sockets."""

import io
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from context_as_memory.camera import Cameras, cameras_from_actions
from context_as_memory.errors import UserError
from context_as_memory.evaluation.start import start_frame, start_names
from context_as_memory.retrieval import STRATEGIES, RetrievalConfig
from context_as_memory.server.protocol import (
    KEYS,
    ChunkStats,
    Event,
    FrameBatch,
    Init,
    Memory,
    Message,
    Ready,
    Rewind,
    Settings,
)
from context_as_memory.server.shelf import Shelf
from context_as_memory.video import fit_frame

if TYPE_CHECKING:
    from context_as_memory.world import World


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server and one session may cost."""

    sessions: int = 8
    history_frames: int = 20_000  # a session ends its walk here
    idle_s: float = 600.0  # without any message
    max_context: int = 32
    jpeg_quality: int = 85


class State(Enum):
    """Where a session stands."""

    NEW = "new"
    WALKING = "walking"
    CLOSED = "closed"


class Session:
    """`receive` what the viewer says, `step` to make the next chunk if keys are held."""

    def __init__(self, shelf: Shelf, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.state = State.NEW
        self._shelf = shelf
        self._name: str | None = None
        self._world: World | None = None
        self._keys: frozenset[str] = frozenset()
        self._received = self._chunks = 0
        self._rule = RetrievalConfig()

    def receive(self, message: Message) -> list[Message]:
        """Take in a message of the viewer; returns the answers. `UserError` when it is not allowed in this state."""
        if self.state is State.CLOSED:
            raise UserError("this session is closed; connect again")
        if isinstance(message, Init):
            return self._begin(message)
        if self.state is State.NEW:
            raise UserError(f"{message.type} before init; begin a world first")
        if isinstance(message, Event):
            wrong = set(message.keys) - KEYS
            if wrong:
                raise UserError(f"unknown keys; known are {', '.join(sorted(KEYS))}")
            if message.seq >= self._received:  # latest wins, whatever order the network keeps
                self._keys, self._received = frozenset(message.keys), message.seq
            return []
        if isinstance(message, Settings):
            self._rule = self._checked(self._rule, message.memory, message.max_context)
            return []
        if isinstance(message, Rewind):
            if self._name is None or self._world is None:
                raise UserError("this world is not kept; it cannot go back (start the server with --worlds FOLDER)")
            self._world = self._shelf.rewind(self._name, self._world, message.frame)
            return self._standing()
        raise UserError(f"{message.type} is a message of the server")

    def _checked(self, rule: RetrievalConfig, memory: str, max_context: int) -> RetrievalConfig:
        if not 1 <= max_context <= self.limits.max_context:
            raise UserError(f"max_context is {max_context}; give 1 to {self.limits.max_context}")
        return replace(rule, strategy=memory, max_context=max_context)

    def _begin(self, init: Init) -> list[Message]:
        start = start_frame(init.start)
        self._checked(self._rule, init.memory, init.max_context or 1)  # before anything is closed
        if self._world is not None:
            self._world.close()
            self._world, self.state = None, State.NEW
        name = init.world
        if name is not None:
            world = self._shelf.open(name)
        else:
            name, world = self._shelf.create(init.seed)
            picture = (world.config.width, world.config.height)
            world.reset(fit_frame(start.frame, *picture)[0][None], start.camera.resized(*picture))
        size = init.max_context or min(world.config.retrieval.max_context, self.limits.max_context)
        self._rule = self._checked(world.config.retrieval, init.memory, size)
        self._name, self._world, self.state = name, world, State.WALKING
        self._received = 0
        return self._standing()

    def _standing(self) -> list[Message]:
        """What a viewer must know to stand where the world is now."""
        world = self._world
        assert world is not None
        self._keys, self._chunks = frozenset(), 0
        cameras, last = world.bank.cameras, len(world.bank) - 1
        poses = _poses(cameras)
        ready = Ready(
            world=self._name,
            poses=poses[:-1],
            width=world.config.width,
            height=world.config.height,
            chunk_frames=world.chunk_frames,
            starts=start_names(),
            strategies=list(STRATEGIES),
            memory=self._rule.strategy,
            max_context=self._rule.max_context,
            half_width_tan=float(cameras.half_width_tan[0]),
        )
        now = self._jpeg(world.bank.frames_u8(last)[0])
        return [ready, FrameBatch(first=last, jpegs=[now], poses=poses[-1:], applied=self._received)]

    @property
    def wants_to_move(self) -> bool:
        """Whether `step` would make a chunk."""
        return self.state is State.WALKING and bool(self._keys)

    def step(self) -> list[Message]:
        """Make the next chunk along the held keys; returns what to tell the viewer. Slow: it runs the model."""
        world = self._world
        if world is None or not self.wants_to_move:
            return []
        held = len(world.bank)
        if held + world.chunk_frames > self.limits.history_frames:
            self._keys = frozenset()
            raise UserError(f"this walk has {held} frames, the most that is kept here; begin a new one")
        applied, actions = self._received, "".join(sorted(self._keys))
        path = cameras_from_actions(world.bank.cameras[held - 1 : held], f"{actions}-{world.chunk_frames}")
        chunk = world.step(path, retrieval=self._rule)
        self._chunks += 1
        found = chunk.retrieval
        pictures = world.bank.frames_u8(found.indices)
        return [
            FrameBatch(
                first=held,
                jpegs=[self._jpeg(frame) for frame in chunk.frames_u8],
                poses=_poses(chunk.cameras),
                applied=applied,
            ),
            Memory(
                frames=found.indices.tolist(),
                scores=[round(score, 4) for score in found.scores.tolist()],
                ages=(held - found.indices).tolist(),
                jpegs=[self._jpeg(frame) for frame in pictures],
                candidates=len(found.candidates),
            ),
            ChunkStats(
                chunk=self._chunks,
                frames=len(world.bank),
                frames_per_second=len(chunk.frames_u8) / max(sum(chunk.seconds.values()), 1e-9),
                received=self._received,
                applied=applied,
                seconds=chunk.seconds,
            ),
        ]

    def close(self) -> None:
        """End the session; closing twice does nothing."""
        self.state = State.CLOSED
        if self._world is not None:
            self._world.close()
            self._world = None

    def _jpeg(self, frame_u8: np.ndarray) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame_u8)).save(buffer, format="JPEG", quality=self.limits.jpeg_quality)
        return buffer.getvalue()


def _poses(cameras: Cameras) -> list[list[float]]:
    """x, y and heading seen from above, per frame; the world's z is up."""
    heading = np.arctan2(cameras.forward[:, 1], cameras.forward[:, 0])
    return np.column_stack([cameras.position[:, :2], heading]).round(4).tolist()
