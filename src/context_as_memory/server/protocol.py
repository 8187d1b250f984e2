"""What browser and server say to each other: MessagePack maps with a `type`, one class per message.

`init`, `event`, `frame_batch`, `chunk_stats` and `error` are those of SGLang's realtime video server, with its field
names, so that its clients can walk here; everything that concerns memory is ours. docs/protocol.md lists every field.
"""

from dataclasses import asdict, dataclass, field, fields
from types import GenericAlias, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import msgpack
import numpy as np

from context_as_memory.camera import Cameras, pinhole
from context_as_memory.errors import UserError

MAX_MESSAGE_BYTES = 64 * 1024  # of any message but `init` and `edit`, which may carry a picture
PICTURES = ("first_frame", "picture")  # fields that hold a picture file
KEYS = frozenset("wasdijkl")
MAX_SCRIPT = 10_000  # frames
MAX_PROMPT = 4_000  # letters
FORMATS = ("jpeg", "h264", "raw")  # of the pictures in frame batches
VIEWS = ("with_memory", "without_memory")  # of a walk: the walk itself, and the same with memory off


class ProtocolError(UserError):
    """A message that is not part of the protocol; the connection is closed."""


class TooLarge(ProtocolError):
    """A message, or a field of one, beyond its limit."""


# -- from the viewer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Init:
    """Begin a world, go on with one, or watch somebody walk. Fields of other servers are accepted and ignored."""

    type: ClassVar[str] = "init"
    first_frame: bytes | None = None  # a picture file to start from
    seed: int = 0
    realtime_output_format: str | None = None  # one of FORMATS; jpeg if None
    condition_inputs: dict[str, Any] | None = None  # may hold `camera_actions`, as in the payload of an event
    max_chunks: int | None = None  # stop after so many chunks
    start: str | None = None  # name of a shipped start place, where no picture is given; the first one if None
    known: bool = False  # of that place remember not one picture but all that was seen when looking around
    world: str | None = None  # name of a stored world, to go on with
    branch: str | None = None  # of that world; the one it was made with if None
    take: bool = False  # of that world: end the walk of whoever has it open in another tab, and go on here
    watch: str | None = None  # the share link's word: see what its visitor sees, and touch nothing
    strategy: str = "coverage"  # the rule that chooses the context
    max_context: int | None = None
    compare: bool = False  # generate the same walk with memory off beside it
    prompt: str | None = None  # what the world is to look like; ignored by weights that read no text


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened: `kind` is `camera_actions`, `prompt`, `shown` or `heartbeat` (any other is refused).

    The payload of `camera_actions` is either the keys that are held from now on, as {"mode": "state", "transitions":
    [{"actions": ["w"]}, ...]} of which the last counts, or a script of keys for each coming frame, [["w"], ["w", "j"],
    []]. The payload of `camera_poses` is a list of poses for the coming frames, each a camera-to-world matrix of 4x4
    numbers in rows (OpenCV axes, metres). The payload of `prompt` is a text that the world is to look like from now on.
    Of each kind only the event with the largest id counts; keys and poses are one kind. It takes effect at the next
    chunk. The payload of `shown` is the index of a chunk
    that the viewer has shown: from the first one on the server runs only a few chunks ahead of it.
    """

    type: ClassVar[str] = "event"
    kind: str
    payload: Any = None
    event_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """From the next chunk on, choose the context like this, and walk beside it without memory or not."""

    type: ClassVar[str] = "settings"
    strategy: str
    max_context: int
    compare: bool = False


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """Go back to the chunk that holds this frame. What came after stays in the world file as a branch."""

    type: ClassVar[str] = "rewind"
    frame: int


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Go on from the chunk that holds this frame in a new branch of that name."""

    type: ClassVar[str] = "fork"
    frame: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Switch:
    """Go on at the end of another branch."""

    type: ClassVar[str] = "switch"
    branch: str


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Replace a remembered view by an edited one; views that show the changed surface as it was are not remembered any
    more. Answered with `ready` and `edited`."""

    type: ClassVar[str] = "edit"
    frame: int
    picture: bytes  # a picture file of the frame's size; PNG, since noise counts as paint


# -- from the server -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The world stands; what can be asked of it."""

    type: ClassVar[str] = "ready"
    world: str | None  # its name; none for those who only watch
    branch: str
    branches: list[str]
    share: str  # the word with which others may watch
    driver: bool  # whether this viewer walks
    poses: list[list[float]]  # of all frames but the last, which comes as a frame batch
    chunks: list[int]  # the first frame of every chunk
    width: int
    height: int
    chunk_frames: int
    starts: list[str]
    strategies: list[str]
    strategy: str
    max_context: int
    compare: bool
    half_width_tan: float
    upload_bytes: int  # at most, of a picture to start from
    version: str = ""  # of the server: a page of another one loads itself again
    truth: str | None = None  # the name of the true world, where frames are rendered and not generated
    prompt: str | None = None  # what the world is told; None where the weights read no text
    edits: list[int] = field(default_factory=list)  # first frames of the chunks that are edits


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """New frames, the first of them frame `first` of the world, and where they were seen from.

    `payload` holds the pictures one after the other, `payload_lengths` bytes each: JPEG files, RGB bytes, or H.264
    pictures (Annex B, each batch begins with a key picture).
    """

    type: ClassVar[str] = "frame_batch"
    chunk_index: int  # -1: the frame one stands on, not a new one
    content_type: str
    format: str  # jpeg, h264, or rgb24 for raw pictures
    num_frames: int
    width: int
    height: int
    total_size: int
    payload_lengths: list[int]
    payload: bytes
    event_id: int | None  # the event that these frames follow
    first: int
    poses: list[list[float]]  # x, y in metres, heading in radians, for each frame
    view: str = VIEWS[0]  # one of VIEWS
    channels: int | None = None  # of raw pictures
    bytes_per_frame: int | None = None
    raw_size: int | None = None
    frame_batch_index: int = 0
    num_frame_batches: int = 1
    is_final_frame_batch: bool = True


@dataclass(frozen=True, kw_only=True)
class ContextFrames:
    """The context of the last chunk, the most recent frame last."""

    type: ClassVar[str] = "context"
    frames: list[int]
    scores: list[float]
    ages: list[int]  # frames ago
    jpegs: list[bytes]
    candidates: int  # how many stored frames overlap with the target at all


@dataclass(frozen=True, kw_only=True)
class ChunkStats:
    """What the last chunk cost."""

    type: ClassVar[str] = "chunk_stats"
    chunk_index: int
    event_id: int | None  # applied
    received_event_id: int | None  # the last one that arrived
    num_frames: int
    chunk_total_ms: int
    content_type: str
    frames: int  # remembered so far
    frames_per_second: float
    resident_mb: int | None  # working memory of the server, if it can tell
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Edited:
    """An edit is done; the world's `ready` came before."""

    type: ClassVar[str] = "edited"
    frame: int  # the view that was edited
    entry: int  # the number of its edited version
    withdrawn: int  # views that showed the surface as it was and are not remembered any more
    carried: int  # how many of them are remembered with the change painted into them
    of: int  # how many were remembered
    still_seen: bool  # whether the last frame shows it as it was: the next chunk goes on with that
    before: int  # the last frame before the edit: `rewind` to it undoes the edit


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something cannot be done; the session goes on unless the connection closes."""

    type: ClassVar[str] = "error"
    content: str
    code: str = "refused"
    share: str | None = None  # with `busy`: the word with which the walk in that world can be watched


@dataclass(frozen=True, kw_only=True)
class Alive:
    """The answer to a heartbeat: the line works both ways."""

    type: ClassVar[str] = "alive"


Message = (
    Init
    | Event
    | Settings
    | Rewind
    | Fork
    | Switch
    | Edit
    | Ready
    | FrameBatch
    | ContextFrames
    | ChunkStats
    | Edited
    | Failure
    | Alive
)  # one class per type
_KINDS: dict[str, Any] = {kind.type: kind for kind in get_args(Message)}
CLIENT = (Init, Event, Settings, Rewind, Fork, Switch, Edit)
_OPEN = (Init, Event)  # messages of other clients too: they carry fields that mean nothing here


def encode(message: Message) -> bytes:
    """A message as MessagePack."""
    packed: bytes = msgpack.packb({"type": message.type, **asdict(message)})
    return packed


def decode(data: bytes, max_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """The message in a packet; `ProtocolError` for anything that is not one, fields and their types included.

    max_bytes: of one with a picture; fields of others must be shorter than MAX_MESSAGE_BYTES.
    """
    if len(data) > max(max_bytes, MAX_MESSAGE_BYTES):
        raise TooLarge(f"a message of {len(data)} bytes; at most {max_bytes} are taken")
    try:
        parts = _parts(data)
        kind = _KINDS.get(str(msgpack.unpackb(parts.pop("type", b"\xc0"))))
    except Exception as error:  # the library raises many kinds; all mean the same here
        raise ProtocolError(f"no MessagePack map with text keys ({type(error).__name__})") from error
    if kind is None:
        raise ProtocolError(f"unknown message type; known are {', '.join(sorted(_KINDS))}")
    known = get_type_hints(kind)
    names = {entry.name for entry in fields(kind)}
    value = {}
    for key, part in parts.items():
        if key not in names:
            if kind in _OPEN:
                continue
            raise ProtocolError(f"{kind.type}: unknown field {key[:40]!r}")
        if kind in CLIENT and key not in PICTURES and len(part) > MAX_MESSAGE_BYTES:
            raise TooLarge(f"{kind.type}: field {key} has {len(part)} bytes; at most {MAX_MESSAGE_BYTES} are taken")
        try:
            value[key] = msgpack.unpackb(part)
        except Exception as error:  # text that is no text, keys that are no text
            raise ProtocolError(f"{kind.type}: field {key} cannot be read ({type(error).__name__})") from error
        if not _fits(value[key], known[key]):
            raise ProtocolError(f"{kind.type}: field {key} has the wrong type")
    try:
        message: Message = kind(**value)
    except TypeError:
        missing = [entry.name for entry in fields(kind) if entry.name not in value]
        raise ProtocolError(f"{kind.type}: one of the fields {', '.join(missing)} is missing") from None
    return message


def _parts(data: bytes) -> dict[str, bytes]:
    """The fields of a packed map, still packed: nothing is built before its size was looked at, since a megabyte of
    empty lists would become a hundred."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data) + 1)
    unpacker.feed(data)
    parts: dict[str, bytes] = {}
    for _ in range(unpacker.read_map_header()):
        head = data[unpacker.tell()]
        if head >> 5 != 0b101 and head not in (0xD9, 0xDA):  # short, longer and long text
            raise ValueError("a key that is no text")
        key = unpacker.unpack()
        start = unpacker.tell()
        unpacker.skip()
        parts[key] = data[start : unpacker.tell()]
    if unpacker.tell() != len(data):
        raise ValueError("more than one value")
    return parts


def told_prompt(payload: object) -> str:
    """The text in the payload of a `prompt` event. `UserError` for anything else."""
    if not isinstance(payload, str):
        raise UserError("prompt: the payload is a text")
    if len(payload) > MAX_PROMPT:
        raise UserError(f"prompt: a text of {len(payload)} letters; at most {MAX_PROMPT} are taken")
    return payload


def held_keys(payload: object) -> list[frozenset[str]] | frozenset[str]:
    """The keys in the payload of a `camera_actions` event: those held from now on, or a script, a set for each coming
    frame. `UserError` for anything else."""
    if isinstance(payload, dict) and payload.get("mode") == "state":
        transitions = payload.get("transitions")
        if not isinstance(transitions, list) or not transitions or not isinstance(transitions[-1], dict):
            raise UserError("camera_actions: a state payload needs a list of transitions, each with its actions")
        return _keys(transitions[-1].get("actions"))
    if not isinstance(payload, list):
        raise UserError("camera_actions: the payload is a list of keys for each frame, or a map with mode state")
    if len(payload) > MAX_SCRIPT:
        raise UserError(f"camera_actions: a script of {len(payload)} frames; at most {MAX_SCRIPT} are taken")
    return [_keys(actions) for actions in payload]


def poses_of(payload: object) -> np.ndarray:
    """The camera-to-world matrices in the payload of a `camera_poses` event, float64 [n, 4, 4]; `UserError` for
    anything else, poses that are none included."""
    if not isinstance(payload, list) or not payload:
        raise UserError("camera_poses: the payload is a list of 4x4 matrices, camera to world, one for each frame")
    if len(payload) > MAX_SCRIPT:
        raise UserError(f"camera_poses: a script of {len(payload)} frames; at most {MAX_SCRIPT} are taken")
    for number, matrix in enumerate(payload):
        rows = matrix if isinstance(matrix, list) and len(matrix) == 4 else [None]
        if not all(
            isinstance(row, list) and len(row) == 4 and all(type(x) in (int, float) for x in row) for row in rows
        ):
            raise UserError(f"camera_poses: pose {number} is no matrix of 4x4 numbers")
    poses = np.array([[[float(max(min(x, 1e300), -1e300)) for x in row] for row in matrix] for matrix in payload])
    Cameras(poses, pinhole(90, 2, 2), 2, 2)  # says what is wrong with a pose
    return poses


def _keys(actions: object) -> frozenset[str]:
    if not isinstance(actions, list) or not all(isinstance(key, str) for key in actions):
        raise UserError("camera_actions: actions are a list of keys")
    keys = frozenset(key.lower() for key in actions)
    if not keys <= KEYS:
        raise UserError(f"camera_actions: unknown keys; known are {', '.join(sorted(KEYS))}")
    return keys


def _fits(value: object, hint: Any) -> bool:
    """Whether a decoded value has the annotated type; a whole number is also a fine float."""
    if hint is Any:
        return True
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
