"""Files in general: arrays, and places that can or cannot be written."""

import os
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.errors import UserError
from context_as_memory.formats import files
from context_as_memory.formats.cameras import read_track


def test_a_folder_is_not_written_over_and_named_as_one(tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file"), files.atomic(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_of_objects_are_refused_in_one_sentence_and_run_nothing(tmp_path, mapped):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    with (tmp_path / "poses.npy").open("wb") as file:
        np.save(file, np.array([Trap(), None], object), allow_pickle=True)
    np.savez(tmp_path / "poses.npz", c2w=np.array([Trap(), None], object))
    for read in (
        lambda: files.read_array(tmp_path / "poses.npy", mapped=mapped),
        lambda: files.read_arrays(tmp_path / "poses.npz"),
        lambda: read_track(tmp_path / "poses.npy", hfov_deg=70),
        lambda: read_track(tmp_path / "poses.npz", hfov_deg=70),
    ):
        with pytest.raises(UserError, match=r"poses\.np.: .* Python objects instead of numbers") as caught:
            read()
        assert "pickle" not in str(caught.value) and str(caught.value).count("poses.np") == 1
    assert not (tmp_path / "trapped").exists()


def test_an_array_is_read_from_the_disk_where_it_is_looked_at(tmp_path):
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    files.write_array(tmp_path / "a.npy", values)
    mapped = files.read_array(tmp_path / "a.npy", mapped=True)
    assert isinstance(mapped, np.memmap) and mapped.dtype == np.float16
    np.testing.assert_array_equal(mapped, files.read_array(tmp_path / "a.npy"))


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/walk", "/proc/nowhere/a/b", "a file/walk", "a file"])
def test_a_folder_that_cannot_be_written_is_told_and_one_that_can_is_not_made(tmp_path, place):
    (tmp_path / "a file").write_text("x")
    folder = Path(place) if place.startswith("/") else tmp_path / place
    with pytest.raises(UserError, match=f"cannot write to {folder} .*choose another --out folder"):
        files.check_folder(folder, "--out")
    files.check_folder(tmp_path / "new" / "deep", "--out")
    files.check_folder(tmp_path, "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("name", ["poses.npy", "poses.npz", "poses.txt", "poses.csv", "transforms.json", "cameras.bin"])
def test_a_pipe_among_camera_files_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="no plain file"):
        read_track(tmp_path / name, hfov_deg=70)
