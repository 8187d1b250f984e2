"""Pictures in and out: exact where promised, atomic, playable after an interruption, one clear error otherwise."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from context_as_memory.camera import look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.formats.files import clear_partials, partial_path
from context_as_memory.formats.pictures import fit_frame, read_image, write_image
from context_as_memory.formats.video import VideoWriter, measure_video, read_frames, read_video, to_frames, to_video


def smooth_frames(number: int = 12, width: int = 32, height: int = 24) -> np.ndarray:
    """Moving colour gradients: a codec can keep them closely, and no two frames are alike."""
    x, y, t = np.meshgrid(np.arange(width), np.arange(height), np.arange(number), indexing="xy")
    waves = [np.sin((x + 2 * t) / 7), np.cos((y + t) / 6), np.sin((x + y + t) / 9)]
    return np.moveaxis(np.stack(waves, -1) * 100 + 128, 2, 0).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_lossless_video_is_bit_exact(tmp_path: Path, suffix: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / f"v{suffix}", 32, 24, 15, lossless=True) as writer:
        writer.write(frames)
    np.testing.assert_array_equal(read_video(tmp_path / f"v{suffix}"), frames)


@pytest.mark.parametrize(("pix_fmt", "tolerance"), [("yuv444p", 3.0), ("yuv420p", 6.0)])
def test_lossy_video_is_close_without_a_colour_shift(tmp_path: Path, pix_fmt: str, tolerance: float) -> None:
    frames = smooth_frames()
    with VideoWriter(tmp_path / "v.mp4", 32, 24, 15, pix_fmt=pix_fmt) as writer:
        for frame in frames:
            writer.write(frame)
    difference = read_video(tmp_path / "v.mp4").astype(float) - frames
    assert difference.shape == frames.shape
    assert np.abs(difference).mean() < tolerance
    assert (
        np.abs(difference.mean(axis=(0, 1, 2))).max() < 1.5
    )  # a wrong YUV matrix would shift a channel by several levels


def test_video_has_the_asked_rate(tmp_path: Path) -> None:
    import av

    with VideoWriter(tmp_path / "v.mp4", 32, 24, 12.5) as writer:
        writer.write(smooth_frames(4))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == 12.5


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_video_is_playable_and_has_its_name(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(error), VideoWriter(path, 32, 24, 15) as writer:
        writer.write(smooth_frames(7))
        assert not path.exists() and partial_path(path).exists()
        raise error
    assert len(read_video(path)) == 7
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_leftovers_of_dead_processes_are_cleared_and_no_others(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above what Linux numbers processes with
    names = [f"v.mp4.{dead}.partial", f"w.mp4.{dead}.partial", f"v.mp4.{os.getpid()}.partial", "v.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    clear_partials(tmp_path)  # written to just now: may be another machine's
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    clear_partials(tmp_path, "v.mp4", idle_s=-1.0)
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
    clear_partials(tmp_path, idle_s=-1.0)
    assert sorted(os.listdir(tmp_path)) == sorted(names[2:])


def test_video_without_frames_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"old")
    with VideoWriter(tmp_path / "v.mp4", 32, 24, 15):
        pass
    assert os.listdir(tmp_path) == ["v.mp4"] and (tmp_path / "v.mp4").read_bytes() == b"old"


def test_writer_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="even"):
        VideoWriter(tmp_path / "v.mp4", 33, 24, 15, pix_fmt="yuv420p")
    with pytest.raises(UserError, match="cannot write"):
        VideoWriter(tmp_path / "no" / "v.mp4", 32, 24, 15)
    with pytest.raises(UserError, match="mp4"):
        VideoWriter(tmp_path / "v.txt", 32, 24, 15)
    with VideoWriter(tmp_path / "v.mp4", 32, 24, 15) as writer:
        with pytest.raises(UserError, match="expected 32x24"):
            writer.write(smooth_frames(1, 30, 24))
        with pytest.raises(UserError, match="uint8"):
            writer.write(np.zeros((1, 24, 32, 3)))
    with pytest.raises(UserError, match="closed"):
        writer.write(smooth_frames(1))


def test_unreadable_videos_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no video at"):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"not a video at all" * 50)
    with pytest.raises(UserError, match="cannot be read"):
        read_video(tmp_path / "bad.mp4")
    with VideoWriter(tmp_path / "good.mp4", 32, 24, 15) as writer:
        writer.write(smooth_frames(5))
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match="cut.mp4"):
        read_video(tmp_path / "cut.mp4")


@pytest.mark.parametrize("hidden", [0, 1, 7, 13])
def test_frames_that_an_edit_list_hides_are_not_there(tmp_path: Path, hidden: int) -> None:
    """Cut without encoding again, as many tools do: the file holds all frames, and says from which one on it shows."""
    import av

    frames = smooth_frames(20)
    with VideoWriter(tmp_path / "whole.mp4", 32, 24, 10, lossless=True) as writer:
        writer.write(frames)
    with av.open(str(tmp_path / "whole.mp4")) as whole, av.open(str(tmp_path / "cut.mp4"), "w", format="mp4") as cut:
        stream = whole.streams.video[0]
        copy = cut.add_stream_from_template(stream)
        packets = [packet for packet in whole.demux(stream) if packet.size]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        for packet in packets:
            assert packet.pts is not None and packet.dts is not None
            packet.pts -= hidden * (times[1] - times[0])
            packet.dts -= hidden * (times[1] - times[0])
            packet.stream = copy
            cut.mux(packet)
    assert b"elst" in (tmp_path / "cut.mp4").read_bytes()
    facts = measure_video(tmp_path / "cut.mp4")
    assert facts.num_frames == 20 - hidden
    np.testing.assert_array_equal(read_video(tmp_path / "cut.mp4"), frames[hidden:])
    numbers = [facts.num_frames - 1, 0, 3, 0]
    np.testing.assert_array_equal(read_frames(tmp_path / "cut.mp4", numbers, facts), frames[hidden:][numbers])


def test_a_small_file_that_holds_very_much_is_not_unpacked(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 320, 192, 15) as writer:
        for _ in range(60):
            writer.write(np.zeros((192, 320, 3), np.uint8))
    assert (tmp_path / "v.mp4").stat().st_size < 10_000
    with pytest.raises(UserError, match="unpacks to more than 10 MB"):
        read_video(tmp_path / "v.mp4", 10_000_000)
    facts = measure_video(tmp_path / "v.mp4")
    assert facts.num_frames == 60 and read_frames(tmp_path / "v.mp4", [59], facts).max() == 0
    assert read_video(tmp_path / "v.mp4", 60 * 192 * 320 * 3).shape == (60, 192, 320, 3)


def test_images_are_read_upright_and_opaque(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 0] = 255
    write_image(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: shown turned by 90 degrees clockwise
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(picture, -1))
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[..., :3] = 200  # invisible colour must not appear
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").max() == 0
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (4, 6, 3)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image at"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="not a picture"):
        read_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write_image(tmp_path / "whole.png", noise)
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(UserError, match="cut.png"):
        read_image(tmp_path / "cut.png")
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="8 bits"):
        read_image(tmp_path / "deep.png")


def test_fit_frame_keeps_the_right_size_as_it_is() -> None:
    frame = smooth_frames(1)[0]
    fitted, changed = fit_frame(frame, 32, 24)
    assert not changed and fitted is frame


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (20, 12), (33, 25)])
def test_fit_frame_agrees_with_resized_cameras(size: tuple[int, int]) -> None:
    """A bright dot lands where the resized camera projects the dot's ray."""
    width, height = size
    frame = np.zeros((height * 8, width * 8, 3), np.uint8)
    dot = np.array([width * 8 * 0.45, height * 8 * 0.55])
    x, y = np.meshgrid(np.arange(width * 8) + 0.5, np.arange(height * 8) + 0.5)
    blob = np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * (0.06 * min(width, height) * 8) ** 2))
    frame[:] = (255 * blob)[..., None].astype(np.uint8)
    fitted, changed = fit_frame(frame, 32, 24)
    assert changed and fitted.shape == (24, 32, 3)
    weight = fitted[..., 0].astype(float)
    x, y = np.meshgrid(np.arange(32) + 0.5, np.arange(24) + 0.5)
    found = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
    camera = look((0, 0, 0), 0.0, pinhole(80, width * 8, height * 8), width * 8, height * 8)
    ray = (dot - camera.K[0, 2:]) / camera.K[0, :2]
    K = camera.resized(32, 24).K[0]
    np.testing.assert_allclose(found, ray * K[:2] + K[2:], atol=0.3)


def test_tensors_and_frames_round_trip() -> None:
    import torch

    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    video = to_video(levels)
    assert video.shape == (1, 3, 1, 16, 16) and video.dtype == torch.float32
    assert float(video.min()) == -1.0 and float(video.max()) == 1.0
    np.testing.assert_array_equal(to_frames(video), levels)
    np.testing.assert_array_equal(to_frames(video * 3)[0, 0, 0], [0, 0, 0])
    with pytest.raises(UserError, match="not finite"):
        to_frames(torch.full((1, 3, 1, 2, 2), float("nan")))
    with pytest.raises(UserError, match="uint8"):
        to_video(levels.astype(np.float32))
    with pytest.raises(UserError, match=r"\[1, 3, T, H, W\]"):
        to_frames(torch.zeros(2, 3, 1, 4, 4))
