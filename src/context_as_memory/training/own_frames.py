"""What the denoiser makes of the training frames, kept to be its memory in later steps.

In generation memory holds own frames, in training recorded ones; every fault of a frame is then new to the model and
grows from chunk to chunk. Here the clean frames that the denoiser predicts on its way through training are kept, and
later segments are given them in place of the recorded ones, while the targets stay recorded: it learns to mend what it
does wrong. Kept are predictions at noise levels of later steps, which are as sharp as results are. They cost nothing,
since the loss makes them anyway, and as they are themselves made from such memory, faults of several generations
occur. (Recycled errors: Stable Video Infinity, arXiv 2510.09212; here whole frames, so that a fault stays with its
picture.)
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


class OwnFrames:
    """One latent [C, h, w] per training frame, float16 in a file mapped into memory, and which of them are known.

    The file lies beside the checkpoint and is newer than it after a kill: a run that resumes then finds a few frames
    more than the first time, which changes its course but not its meaning.
    """

    def __init__(self, folder: Path, frames: int, shape: tuple[int, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "shape.json"
        wanted = {"frames": frames, "shape": list(shape)}
        if meta.exists() and json.loads(meta.read_text()) != wanted:
            raise UserError(f"training: {folder} belongs to other data; use another --out folder, or delete it")
        self.latents = _mapped(folder / "latents.bin", np.dtype(np.float16), (frames, *shape))
        self.known = _mapped(folder / "known.bin", np.dtype(np.bool_), (frames,))
        meta.write_text(json.dumps(wanted) + "\n")

    @property
    def share(self) -> float:
        """Share of the frames that are known."""
        return float(self.known.mean())

    def keep(self, frames: np.ndarray, clean: Tensor) -> None:
        """Remember predictions [B, C, P, h, w] of frames [B, P]."""
        self.latents[frames.ravel()] = clean.transpose(1, 2).flatten(0, 1).half().cpu().numpy()
        self.known[frames.ravel()] = True

    def read(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Predictions [S, C, M, h, w] of frames [S, M], and which of them are known, bool [S, M]."""
        latents = torch.from_numpy(np.asarray(self.latents[frames], np.float32)).transpose(1, 2)
        return latents, torch.from_numpy(np.asarray(self.known[frames]))


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """An array in a file, zeros where it is new; several processes may open it at once."""
    with open(path, "ab") as file:
        if file.tell() < (size := dtype.itemsize * int(np.prod(shape))):
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)
