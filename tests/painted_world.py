"""A world whose pictures are painted, not generated: exact, fast, and the same from everywhere one comes back to."""

import numpy as np
import torch

from context_as_memory.camera import Cameras
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.server.protocol import Event
from context_as_memory.world import Chunk, World
from tiny_world import paint_room


class PaintedWorld(World):
    """Memory, retrieval and world files are the real ones; only the networks are not asked."""

    def remember(self, frames_u8: np.ndarray, cameras: Cameras, profiles_m: np.ndarray | None = None) -> None:
        self.bank.append(frames_u8, cameras, torch.zeros(4, len(frames_u8), 1, 1), profiles_m=profiles_m)

    def step(self, cameras: Cameras, *, retrieval: RetrievalConfig | None = None, commit: bool = True) -> Chunk:  # type: ignore[override]
        found = self._retrieve(cameras, retrieval or self.config.retrieval, seed=0)
        frames = paint_room(cameras)
        self.bank.append(frames, cameras, torch.zeros(4, len(frames), 1, 1), {"step": self._chunks})
        self._chunks += 1
        return Chunk(frames, cameras, found, {"retrieve": 0.001, "denoise": 0.002, "decode": 0.001, "encode": 0.001})


def hold(keys: str, event_id: int | None = None) -> Event:
    """The keys that are held from now on."""
    payload = {"mode": "state", "transitions": [{"actions": list(keys), "client_ts_ms": 1}]}
    return Event(kind="camera_actions", event_id=event_id, payload=payload)
