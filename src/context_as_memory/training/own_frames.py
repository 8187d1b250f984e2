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
    """One latent [C, h, w] per training frame, float16, and which of them are known, where the model is.

    On a CPU they lie in files, mapped into memory, beside the checkpoint. They are newer than it after a kill: a run
    that resumes then finds a few frames more than the first time, which changes its course but not its meaning.
    On a GPU they lie in its memory and a run that resumes begins with none: it soon makes as many again.
    """

    def __init__(self, folder: Path, frames: int, shape: tuple[int, ...], device: torch.device) -> None:
        if device.type != "cpu":
            self.latents = torch.zeros((frames, *shape), dtype=torch.float16, device=device)
            self.known = torch.zeros(frames, dtype=torch.bool, device=device)
            return
        folder.mkdir(parents=True, exist_ok=True)
        meta = folder / "shape.json"
        wanted = {"frames": frames, "shape": list(shape)}
        if meta.exists() and json.loads(meta.read_text()) != wanted:
            raise UserError(f"training: {folder} belongs to other data; use another --out folder, or delete it")
        self.latents = _mapped(folder / "latents.bin", torch.float16, (frames, *shape))
        self.known = _mapped(folder / "known.bin", torch.bool, (frames,))
        meta.write_text(json.dumps(wanted) + "\n")

    @property
    def share(self) -> float:
        """Share of the frames that are known."""
        return self.known.float().mean().item()

    def keep(self, frames: Tensor, clean: Tensor) -> None:
        """Remember predictions [B, C, P, h, w] of frames [B, P]."""
        self.latents[frames.flatten()] = clean.transpose(1, 2).flatten(0, 1).half()
        self.known[frames.flatten()] = True

    def read(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions [S, C, M, h, w] of frames [S, M], and which of them are known, bool [S, M]."""
        return self.latents[frames].float().transpose(1, 2), self.known[frames]


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor in a file, zeros where it is new; several processes may open it at once."""
    count = int(np.prod(shape))
    with open(path, "ab") as file:
        if file.tell() < (size := dtype.itemsize * count):
            file.truncate(size)
    return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)
