"""The front door: a world from a picture, a walk from keys, a film of it. Three lines on top of `World`.

world = World.from_pretrained()
world.start("photo.jpg")
world.walk("j-30,l-30").save("walk.mp4")
"""

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from context_as_memory.camera import Z_UP, Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.pictures import check_frames, fit_frame, read_image
from context_as_memory.formats.places import start_frame, start_names
from context_as_memory.formats.video import VideoWriter
from context_as_memory.shapes import UInt8

if TYPE_CHECKING:
    from context_as_memory.world import World

PHOTO_HFOV_DEG = 90.0  # the lens of a photo is rarely known; this is what `cam generate --image` supposes


@dataclass(frozen=True, eq=False)
class Walk:
    """Frames that were generated along a path, in order.

    frames: uint8 [T, H, W, 3]. cameras: where each was seen from, [T]. contexts: for each frame the numbers of the
    frames that the model was given for it, the most recent one last; frame 0 is the first start frame.
    """

    frames: UInt8[np.ndarray, "t H W 3"]
    cameras: Cameras
    contexts: tuple[tuple[int, ...], ...]

    def save(self, path: str | Path, fps: float = 15.0) -> Path:
        """Write the frames as a video (H.264 in MP4) and return its path. `UserError` if it cannot be written."""
        height, width = self.frames.shape[1:3]
        with VideoWriter(path, width, height, fps) as video:
            video.write(self.frames)
        return Path(path)


def first_view(source: str | Path | np.ndarray | None, width: int, height: int) -> tuple[np.ndarray, Cameras]:
    """The first frame of a world, uint8 [1, H, W, 3] at this size, and its camera.

    source: a picture file, a picture uint8 [H, W, 3], the name of a shipped start place, or None for the first one.
    A picture is scaled to cover the size and cropped around its centre. Its camera stands at the origin of a world
    with z up, looks level along x and has a field of view of `PHOTO_HFOV_DEG`.
    Raises `UserError` for what is neither a picture nor a place.
    """
    if source is None or (isinstance(source, str) and source in start_names() and not Path(source).exists()):
        place = start_frame(source)
        picture, camera = place.frame, place.camera
    else:
        if isinstance(source, np.ndarray):
            check_frames(source[None])
            picture = source
        elif Path(source).exists():
            picture = read_image(source)
        else:
            raise UserError(
                f"{source} is neither a picture file nor a start place; the places are {', '.join(start_names())}"
            )
        size = picture.shape[1], picture.shape[0]
        camera = look([0.0, 0.0, 0.0], 0.0, pinhole(PHOTO_HFOV_DEG, *size), *size)
    return fit_frame(picture, width, height)[0][None], camera.resized(width, height)


def path_from(here: Cameras, actions: str | Cameras) -> Cameras:
    """The cameras of a walk that begins at the camera `here` [1]: of an action string (`cameras_from_actions`, z up),
    or the given ones as they are."""
    return cameras_from_actions(here, actions, up=Z_UP) if isinstance(actions, str) else actions


def gathered(parts: Iterable[tuple[np.ndarray, Cameras, np.ndarray]]) -> Walk:
    """One walk of chunks: frames uint8 [t, H, W, 3], their cameras and the frame numbers of their context, each."""
    frames, cameras, contexts = zip(*parts, strict=True)
    each = [tuple(context.tolist()) for seen, context in zip(cameras, contexts, strict=True) for _ in range(len(seen))]
    return Walk(np.concatenate(frames), Cameras.concat(cameras), tuple(each))


class FrontDoor:
    """What `World` has of it: to begin from a picture, to walk by keys, and to try more than one way on."""

    def start(self: "World", source: str | Path | np.ndarray | None = None) -> "World":  # type: ignore[misc]
        """Begin anew from a picture file, a picture uint8 [H, W, 3] or a start place by name; see `first_view`."""
        self.reset(*first_view(source, self.config.width, self.config.height))
        return self

    def walk(self: "World", actions: str | Cameras) -> Walk:  # type: ignore[misc]
        """Walk on from the last frame by an action string such as "w-40,j-30", or along cameras; all of it at once."""
        chunks = self.rollout(path_from(self.bank.cameras[-1], actions))
        return gathered((chunk.frames_u8, chunk.cameras, chunk.retrieval.frame_ids) for chunk in chunks)

    def fork(self: "World") -> "World":  # type: ignore[misc]
        """A second world, in working memory, with all that this one remembers. Both go on as if the other were not.

        Takes the same time however long the walk is, and copies no picture. The fork of a world in a file reads old
        frames from that file: close the file last.
        """
        twin = copy(self)
        twin.bank = self.bank.fork()
        twin._read, twin._index = type(self._read)(self.config.cached_frames), type(self._index)()
        return twin
