"""The way out: what a session says becomes packets, pictures encoded once for each format that somebody wants."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from context_as_memory.camera import Cameras, coordinates
from context_as_memory.server.limits import Limits
from context_as_memory.server.pictures import CONTENT_TYPES, encode_pictures
from context_as_memory.server.protocol import VIEWS, FrameBatch, Message, Ready, encode


@dataclass(frozen=True)
class NewFrames:
    """Frames to be shown, in no format yet.

    frames_u8: uint8 [t, H, W, 3]; the first is frame `first` of the world. poses: x, y in metres and heading in
    radians of each. chunk_index: -1 for the frame one stands on. event_id: the event that they follow. view: of VIEWS.
    """

    frames_u8: np.ndarray
    first: int
    poses: list[list[float]]
    chunk_index: int
    event_id: int | None
    view: str = VIEWS[0]

    def message(self, kind: str, quality: int) -> FrameBatch:
        """As a message with pictures of `kind`, one of FORMATS."""
        pictures = encode_pictures(self.frames_u8, kind, quality)
        lengths = [len(picture) for picture in pictures]
        raw = kind == "raw"
        return FrameBatch(
            chunk_index=self.chunk_index,
            content_type=CONTENT_TYPES[kind],
            format="rgb24" if raw else kind,
            channels=3 if raw else None,
            bytes_per_frame=lengths[0] if raw else None,
            raw_size=sum(lengths) if raw else None,
            num_frames=len(pictures),
            width=self.frames_u8.shape[2],
            height=self.frames_u8.shape[1],
            total_size=sum(lengths),
            payload_lengths=lengths,
            payload=b"".join(pictures),
            event_id=self.event_id,
            first=self.first,
            poses=self.poses,
            view=self.view,
        )


Output = Message | NewFrames


def seen_from_above(cameras: Cameras, up: np.ndarray) -> list[list[float]]:
    """Place and heading seen from above, per frame: x, y and the angle from x towards y, where z is up. up:
    [3]."""
    x = np.eye(3)[0] if abs(up[0]) < 0.9 else np.eye(3)[1]
    x = x - (x @ up) * up
    x = x / np.linalg.norm(x)
    ground = np.stack([x, np.cross(up, x)])
    place, ahead = coordinates(cameras.position, ground), coordinates(cameras.forward, ground)
    return np.column_stack([place, np.arctan2(ahead[:, 1], ahead[:, 0])]).round(4).tolist()


@dataclass(frozen=True)
class Packed:
    """What a session says at one time, and the same as packets in each format of pictures."""

    outputs: Sequence[Output]
    packets: dict[str, list[bytes]]


def pack(outputs: Sequence[Output], kinds: Iterable[str], limits: Limits) -> Packed:
    """Messages and pictures as packets, once in each of the formats `kinds`; takes a while."""
    packets = {
        kind: [
            encode(item.message(kind, limits.jpeg_quality) if isinstance(item, NewFrames) else item) for item in outputs
        ]
        for kind in set(kinds)
    }
    return Packed(outputs, packets)


class Viewer:
    """Somebody who watches: a bounded queue of packets. One who lags behind it is let go, and slows down nobody."""

    def __init__(self, kind: str, limits: Limits) -> None:
        """kind: the format of the pictures."""
        self.kind, self.limits = kind, limits
        self.packets: asyncio.Queue[bytes | None] = asyncio.Queue(limits.waiting_messages)
        self.lagging = False

    def show(self, packed: Packed) -> None:
        """Queue what the visitor is shown, less what is the visitor's alone: the name that opens the world."""
        packets = packed.packets.get(self.kind)
        if packets is None or any(isinstance(item, Ready) for item in packed.outputs):
            public = [_for_viewers(item) for item in packed.outputs]
            packets = pack(public, [self.kind], self.limits).packets[self.kind]
        self.offer(packets)

    def offer(self, packets: Iterable[bytes | None]) -> None:
        """Queue packets; None is the end."""
        for packet in packets:
            if self.packets.full():
                self.lagging = True
                return
            self.packets.put_nowait(packet)


def _for_viewers(item: Output) -> Output:
    return replace(item, world=None, driver=False) if isinstance(item, Ready) else item
