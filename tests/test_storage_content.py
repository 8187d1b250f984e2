"""Pictures of a chunk as bytes: lossless, however large the chunk is."""

import numpy as np
import pytest

from context_as_memory.storage import content


@pytest.mark.parametrize("large", [False, True])
def test_pictures_come_back_as_they_were(monkeypatch, large):
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
    frames[:, :12] //= 8  # something to pack
    whole = content.encode_frames(frames)
    monkeypatch.setattr(content, "LARGE", frames.size + 1 - large)
    data = content.encode_frames(frames)
    np.testing.assert_array_equal(content.decode_frames(data, 3, 32, 24, "they"), frames)
    assert (data == whole) is not large  # large ones are packed more quickly, and less
