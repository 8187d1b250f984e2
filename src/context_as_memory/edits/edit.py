"""What an edit leaves in a world: frames that are remembered, and a note of those that are not any more."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from context_as_memory.edits.carry import Paint
from context_as_memory.edits.surface import changed_pixels, find_surface, shares
from context_as_memory.errors import UserError
from context_as_memory.shapes import Bool
from context_as_memory.world import World

# A view that shows this share of the changed surface is withdrawn. On a validation map, after a walk of 60 frames, 0.1
# and 0.3 left alike of an edit (0.82 and 0.81, 103 and 63 of 177 views withdrawn), 0.6 only 0.45.
SHOWN = 0.1


@dataclass(frozen=True)
class EditResult:
    """What an edit did.

    frame: the view that was edited. entry: the number of its edited version. withdrawn: views that retrieval does not
    choose any more, ascending. carried: those of them, ascending, that are remembered with the change painted into
    them. of: how many views retrieval could choose from. changed: bool [H, W]. still_seen: whether the walker's last
    frame shows the surface as it was; the next chunk then goes on with it.
    """

    frame: int
    entry: int
    withdrawn: tuple[int, ...]
    carried: tuple[int, ...]
    of: int
    changed: Bool[np.ndarray, "H W"]
    still_seen: bool


@torch.inference_mode()
def edit(world: World, frame: int, picture_u8: np.ndarray) -> EditResult:
    """Replace what the world remembers of the surface that differs between frame number `frame` and its edited version,
    uint8 [H, W, 3]. Appended are the views that the change is carried over to, the edited view, and the walker's last
    frame again, so that the walk goes on from where it stands (not if that is the edited frame), changed too where this
    is safe.

    Raises `UserError` for a frame that is not in the memory or was lost, a picture of another size, and one that
    changes nothing. The world is then as it was.
    """
    bank, far_m = world.bank, world.config.retrieval.far_m
    if not 0 <= frame < len(bank):
        raise UserError(f"frame {frame} is not in the memory: its {len(bank)} frames are numbered from 0")
    readable = bank.store.readable()
    if readable is not None and not readable[frame]:
        raise UserError(f"frame {frame} was lost with a damaged chunk; edit another one")
    before = bank.frames_u8(frame)[0]
    if picture_u8.dtype != np.uint8 or picture_u8.shape != before.shape:
        raise UserError(
            f"the edited picture is {picture_u8.dtype} {list(picture_u8.shape)}, frame {frame} is uint8 "
            f"{list(before.shape)}; change the frame itself and keep its size"
        )
    changed = changed_pixels(before, picture_u8)
    if not changed.any():
        raise UserError(f"the edited picture shows frame {frame} unchanged, but for noise; paint something")
    offered = bank.offered()
    offered = np.ones(len(bank), bool) if offered is None else offered
    surface = find_surface(bank, frame, changed, far_m)
    shown = shares(bank, surface, far_m)
    gone = offered & (shown >= SHOWN)
    gone[frame] = offered[frame]
    withdrawn, last = np.flatnonzero(gone).tolist(), len(bank) - 1
    paint = Paint(bank, surface, before, picture_u8, changed)
    painted = paint.over(np.array([view for view in withdrawn if view not in (frame, last)], np.int64))
    rows, pictures = [*painted, frame], [*painted.values(), picture_u8]
    entry, seen = len(bank) + len(painted), last != frame and bool(shown[last] >= SHOWN)
    now = paint.onto(last) if seen else None
    if last != frame:
        rows.append(last)
        pictures.append(bank.frames_u8(last)[0] if now is None else now)
    # The repeated frame is there to be the most recent one; as it was, memory has its first copy.
    copies = [entry + 1] if last != frame and now is None else []
    note: dict[str, Any] = {"edit": {"frame": frame, "views": len(withdrawn), "carried": list(painted)}}
    note["withdrawn"] = withdrawn + copies
    frames, known = np.stack(pictures), bank.profiles_m[rows]
    profiles_m = known if np.isfinite(known).any() else None
    bank.append(frames, bank.cameras[rows], world.engine.pictures.encode(frames), note, profiles_m)
    still_seen = seen and now is None
    return EditResult(frame, entry, tuple(withdrawn), tuple(painted), int(offered.sum()), changed, still_seen)
