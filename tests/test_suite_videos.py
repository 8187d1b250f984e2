"""Walks of ours that are scored as videos: only as they were written."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from context_as_memory.errors import UserError
from context_as_memory.evaluation.suite.videos import own_output
from context_as_memory.formats.files import sha256_of
from context_as_memory.formats.video import VideoWriter
from context_as_memory.formats.write import write_poses


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "walk"
    folder.mkdir()
    with VideoWriter(folder / "video.mp4", tiny.WIDTH, tiny.HEIGHT, 10) as writer:
        writer.write(tiny.pictures(12))
    write_poses(tiny.walk(12), folder)
    sums = {name: sha256_of(folder / name) for name in ("video.mp4", "poses.npy")}
    report = {"world": {"width": tiny.WIDTH, "height": tiny.HEIGHT}, "sha256": sums}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.mark.parametrize("name", ["video.mp4", "poses.npy"])
@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_that_no_decoder_notices_is_refused(output: Path, name: str, seed: int) -> None:
    assert len(own_output(output)[0].cameras) == 12
    data = bytearray((output / name).read_bytes())
    rng = np.random.default_rng(seed)
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    (output / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} is not the file that was written"):
        own_output(output)


def test_without_the_report_it_is_any_other_video(output: Path) -> None:
    with VideoWriter(output / "video.mp4", tiny.WIDTH, tiny.HEIGHT, 10, crf=30) as writer:
        writer.write(tiny.pictures(12))
    with pytest.raises(UserError, match="remove report.json"):
        own_output(output)
    (output / "report.json").unlink()  # does what the sentence says
    assert len(own_output(output)[0].cameras) == 12


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": null, "world": null}', '{"sha256": {}}'])
def test_reports_of_before_or_of_another_kind_are_no_obstacle(output: Path, content: str) -> None:
    (output / "report.json").write_text(content)
    assert len(own_output(output)) == 1
