"""What browser and server say to each other: MessagePack maps with a `type`, one class per message.

The outline is that of SGLang's realtime video protocol (`init`, `event`, `frame_batch`, `chunk_stats`), extended by
`memory`: which frames were given to the model, and why. docs/protocol.md lists every field.
"""

from dataclasses import asdict, dataclass, field, fields
from types import GenericAlias, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import msgpack

from context_as_memory.errors import UserError

MAX_MESSAGE_BYTES = 64 * 1024  # of a client's message; pictures are uploaded elsewhere
KEYS = frozenset("wasdijkl")


class ProtocolError(UserError):
    """A message that is not part of the protocol; the connection is closed."""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Client: begin a world, or go on with one."""

    type: ClassVar[str] = "init"
    world: str | None = None  # name of a kept world, to go on with; a new one if None
    start: str | None = None  # name of a shipped start picture; the first one if None
    seed: int = 0
    memory: str = "coverage"
    max_context: int | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Client: the keys that are held down now. Only the latest counts; it takes effect at the next chunk."""

    type: ClassVar[str] = "event"
    seq: int
    keys: list[str]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Client: from the next chunk on, choose the context like this."""

    type: ClassVar[str] = "settings"
    memory: str
    max_context: int


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Client: go back to the chunk that holds this frame. What came after stays in the world file as a branch."""

    type: ClassVar[str] = "rewind"
    frame: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Server: the world stands; what can be asked of it."""

    type: ClassVar[str] = "ready"
    world: str | None  # its name, if it is kept
    poses: list[list[float]]  # of all frames but the last, which comes as a frame batch
    width: int
    height: int
    chunk_frames: int
    starts: list[str]
    strategies: list[str]
    memory: str
    max_context: int
    half_width_tan: float


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Server: new frames as JPEG, the first of them frame `first` of the world, and where they were seen from."""

    type: ClassVar[str] = "frame_batch"
    first: int
    jpegs: list[bytes]
    poses: list[list[float]]  # x, y in metres, heading in radians, for each frame
    applied: int  # seq of the event that these frames follow


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Server: the context of the last chunk, the most recent frame last."""

    type: ClassVar[str] = "memory"
    frames: list[int]
    scores: list[float]
    ages: list[int]  # frames ago
    jpegs: list[bytes]
    candidates: int  # how many stored frames overlap with the target at all


@dataclass(frozen=True, kw_only=True)
class ChunkStats:
    """Server: what the last chunk cost."""

    type: ClassVar[str] = "chunk_stats"
    chunk: int
    frames: int  # remembered so far
    frames_per_second: float
    received: int  # seq of the last event that arrived
    applied: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Server: something cannot be done; the session goes on unless the connection closes."""

    type: ClassVar[str] = "error"
    message: str


Message = Init | Event | Settings | Rewind | Ready | FrameBatch | Memory | ChunkStats | Failure
_KINDS: dict[str, Any] = {kind.type: kind for kind in get_args(Message)}
CLIENT = (Init, Event, Settings, Rewind)


def encode(message: Message) -> bytes:
    """A message as MessagePack."""
    packed: bytes = msgpack.packb({"type": message.type, **asdict(message)})
    return packed


def decode(data: bytes) -> Message:
    """The message in a packet; `ProtocolError` for anything that is not one, fields and their types included."""
    try:
        value = msgpack.unpackb(data)  # no list or text in it can be larger than the packet
    except Exception as error:  # the library raises many kinds; all mean the same here
        raise ProtocolError(f"no MessagePack map ({type(error).__name__})") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProtocolError("a message is a map with text keys")
    kind = _KINDS.get(str(value.pop("type", None)))
    if kind is None:
        raise ProtocolError(f"unknown message type; known are {', '.join(sorted(_KINDS))}")
    known = get_type_hints(kind)
    for key, content in value.items():
        if key not in {entry.name for entry in fields(kind)}:
            raise ProtocolError(f"{kind.type}: unknown field {key[:40]!r}")
        if not _fits(content, known[key]):
            raise ProtocolError(f"{kind.type}: field {key} has the wrong type")
    try:
        message: Message = kind(**value)
    except TypeError:
        missing = [entry.name for entry in fields(kind) if entry.name not in value]
        raise ProtocolError(f"{kind.type}: one of the fields {', '.join(missing)} is missing") from None
    return message


def _fits(value: object, hint: Any) -> bool:
    """Whether a decoded value has the annotated type; a whole number is also a fine float."""
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if isinstance(hint, GenericAlias) or get_origin(hint) is not None:
        inner = get_args(hint)
        if get_origin(hint) is list:
            return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)
