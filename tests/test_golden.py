"""Golden fingerprints: a walk of three chunks gives the frames and contexts that it gave when they were stored.

One walk for each way of reading the context (`joint`, `cached`, `per_frame`): fixed tiny weights, float32, the
plain network in torch. Compared are:

- the frame numbers of every context, exactly. Retrieval calculates in float64 and rounds before it compares.
- the last frame of every chunk, to within `LEVELS` of 255, and on average to within `MEAN_LEVELS`. Processors add the
  terms of a product in different orders. That moves float32 by about 1e-6, and now and then a colour to the next level.

A change that is meant to change frames stores new ones, and says so in its description:

    PYTHONPATH=src python tests/test_golden.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.transformer.model import TransformerBlock
from context_as_memory.world import Chunk

FOLDER = Path(__file__).parent / "golden"
MODES = ("joint", "cached", "per_frame")
LEVELS, MEAN_LEVELS = 1, 0.01  # measured with SSE4, AVX and AVX2 arithmetic: 0


def walked(mode: str, **changes: Any) -> list[Chunk]:
    """Three chunks of two frames in a small room: every context is chosen among several frames."""
    model, codec = tiny.model(context_mode=mode, **changes), tiny.codec()
    with torch.no_grad():  # open gates, sharp attention and full contrast: what the networks see has to show in colours
        for block in model.blocks:
            assert isinstance(block, TransformerBlock)
            block.scale_shift_table[:, (2, 5)] = 2.0
            block.attn1.to_q.weight.mul_(2)
            block.attn1.to_k.weight.mul_(2)
        model.proj_out.weight.mul_(5)
        [parameter for parameter in codec.decoder.parameters() if parameter.ndim > 1][-1].mul_(5)
    world = tiny.world(seed=7, networks=(model, codec), retrieval=RetrievalConfig(max_context=3))
    cameras = tiny.walk(8, seed=3, box_m=0.5)
    world.reset(tiny.pictures(2, seed=1), cameras[:2])
    return list(world.rollout(cameras[2:]))


def fingerprint(chunks: list[Chunk]) -> dict[str, np.ndarray]:
    """contexts [chunks, most], -1 where a context is shorter; frames_u8 [chunks, H, W, 3]."""
    contexts = np.full((len(chunks), 3), -1, np.int64)
    for row, chunk in enumerate(chunks):
        contexts[row, : len(chunk.retrieval.frame_ids)] = chunk.retrieval.frame_ids
    return {"contexts": contexts, "frames_u8": np.stack([chunk.frames_u8[-1] for chunk in chunks])}


def apart(frames_u8: np.ndarray, other_u8: np.ndarray) -> np.ndarray:
    return np.abs(frames_u8.astype(int) - other_u8.astype(int))


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", MODES)
def test_a_walk_gives_the_stored_frames_and_contexts(mode):
    stored = np.load(FOLDER / f"{mode}.npz")
    found = fingerprint(walked(mode))
    np.testing.assert_array_equal(found["contexts"], stored["contexts"])
    difference = apart(found["frames_u8"], stored["frames_u8"])
    assert difference.max() <= LEVELS, f"a colour differs by {difference.max()} levels"
    assert difference.mean() <= MEAN_LEVELS, f"colours differ by {difference.mean():.3f} levels on average"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", MODES)
def test_the_fingerprint_sees_what_the_denoiser_is_told_of_cameras(mode):
    """Distances between cameras count half inside the model."""
    stored = np.load(FOLDER / f"{mode}.npz")
    found = fingerprint(walked(mode, translation_scale_m=8.0))
    assert apart(found["frames_u8"], stored["frames_u8"]).mean() > 10 * MEAN_LEVELS


def test_the_ways_of_reading_the_context_have_fingerprints_of_their_own():
    frames = [np.load(FOLDER / f"{mode}.npz")["frames_u8"] for mode in MODES]
    assert all(apart(a, b).mean() > 1 for a, b in zip(frames, frames[1:], strict=False))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in MODES:
        found = fingerprint(walked(name))
        np.savez_compressed(FOLDER / f"{name}.npz", contexts=found["contexts"], frames_u8=found["frames_u8"])
        print("stored", FOLDER / f"{name}.npz")
