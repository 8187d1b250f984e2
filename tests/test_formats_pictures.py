"""Pictures and videos as they are shown: orientation, profile, matrix, depth, alpha, damage, memory."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.evaluation.foreign import score_video
from context_as_memory.formats import write
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.cameras import read_track
from context_as_memory.formats.colmap import write_colmap
from context_as_memory.formats.importers import import_videos
from context_as_memory.formats.options import PoseOptions
from context_as_memory.formats.pictures import decode_picture, read_image, read_picture, write_image
from context_as_memory.formats.video import VideoWriter, measure_video, read_frames, read_video
from context_as_memory.pictures.inspector import InspectedChunk, draw_inspector
from context_as_memory.retrieval import Retrieval
from context_as_memory.server.pictures import decode_upload
from context_as_memory.walk.config import GenerateConfig
from context_as_memory.walk.request import read_request


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """A smooth picture whose sides differ."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return (np.stack([x, y, 0.6 - 0.3 * x * y], -1) * 200 + 20).astype(np.uint8)


def moving(number: int = 40, width: int = 48, height: int = 32) -> np.ndarray:
    return np.stack([np.roll(gradient(width, height), 2 * i, axis=1) for i in range(number)])


def encode(path: Path, frames: np.ndarray, *, codec: str = "libx264", container: str | None = None, **settings) -> Path:
    """Any video that FFmpeg makes. settings: of the stream's context."""
    import av

    with av.open(str(path), "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=15)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = settings.pop("pix_fmt", "yuv420p")
        stream.options = settings.pop("options", {"crf": "8"} if codec == "libx264" else {})
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode(None))
    return path


# -- pictures ----------------------------------------------------------------------------------------------------------

TURNS = [lambda p: p, lambda p: p[:, ::-1], lambda p: p[::-1, ::-1], lambda p: p[::-1], lambda p: p.transpose(1, 0, 2)]
TURNS += [
    lambda p: np.rot90(p, -1),
    lambda p: np.rot90(p, 1).transpose(1, 0, 2)[::-1].transpose(1, 0, 2),
    lambda p: np.rot90(p),
]


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("odd", [None, "signed rational", "maker note"])
def test_pictures_are_upright_whatever_else_their_exif_holds(tmp_path, orientation, odd):
    picture, exif = gradient(), Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    if odd is not None:  # entries that Pillow reads, but cannot write again
        head = data.index(b"eXIf")
        count = 2
        kind, value = (10, struct.pack("<ii", 1, 0)) if odd == "signed rational" else (7, b"\xff" * 8)
        entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
        entries += struct.pack(
            "<HHII", 0x011A if kind == 10 else 0x927C, kind, 1 if kind == 10 else 8, 8 + 2 + 12 * count + 4
        )
        block = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + b"\0\0\0\0" + value
        old = struct.unpack(">I", data[head - 4 : head])[0]
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        data = data[: head - 4] + chunk + data[head + 4 + old + 4 :]
    (tmp_path / "p.png").write_bytes(data)
    expected = TURNS[orientation - 1](picture)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), expected)
    np.testing.assert_array_equal(decode_picture(data).frame, expected)


def wide_profile() -> bytes:
    """A profile of matrix and curve with swapped red and green: whoever ignores it shows other colours."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", srgb[128:132])[0]
    places = {bytes(srgb[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    srgb[red : red + 8], srgb[green : green + 8] = srgb[green : green + 8], srgb[red : red + 8]
    return bytes(srgb)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profiles_are_used_by_every_reader(tmp_path, mode):
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[..., 0] = 200  # red, which by the profile is green
    image = Image.fromarray(picture).convert(mode)
    image.save(tmp_path / "p.png", icc_profile=wide_profile())
    for shown in (read_image(tmp_path / "p.png"), decode_upload((tmp_path / "p.png").read_bytes(), 16, 16, 1000)):
        assert shown[..., 1].mean() == pytest.approx(200, abs=2) and shown[..., 0].mean() < 5
    image.save(tmp_path / "bad.png", icc_profile=b"no profile at all")
    found = read_picture(tmp_path / "bad.png")
    assert found.frame[..., 0].mean() == pytest.approx(200, abs=5) and "colour profile" in found.notes[0]


def test_alpha_depth_and_animation_are_alike_in_every_reader(tmp_path):
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[..., 0], clear[:, 8:, 3] = 200, 128
    Image.fromarray(clear).save(tmp_path / "clear.png")
    for shown in (
        read_image(tmp_path / "clear.png"),
        decode_upload((tmp_path / "clear.png").read_bytes(), 16, 16, 1000),
    ):
        assert shown[0, 0, 0] == 0 and shown[0, -1, 0] == pytest.approx(100, abs=1)
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(tmp_path / "deep.png")
    for read in (read_image, lambda p: decode_upload(p.read_bytes(), 16, 16, 1000)):
        with pytest.raises(UserError, match="more than 8 bits"):
            read(tmp_path / "deep.png")
    frames = [Image.fromarray(frame) for frame in moving(3, 16, 16)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "3 pictures; the first one is used" in read_picture(tmp_path / "a.gif").notes[0]


def test_huge_damaged_and_foreign_pictures_are_one_sentence_that_can_be_followed(tmp_path):
    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")

    for name, data, words in (
        ("panorama.png", png(20_000, 10_000), "shrink it below 150 megapixels"),
        ("large.png", png(16_000, 10_000), "16000x10000 pixels; shrink it below 150 megapixels"),
        ("cut.png", png(10, 10), "may be damaged"),
        ("page.jpg", b"<html>", "not a picture"),
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "pillow-heif|cannot be read"),
        ("empty.png", b"", "not a picture"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_that_a_decoder_chokes_on_are_refused_not_raised(tmp_path, monkeypatch):
    write_image(tmp_path / "p.png", gradient())
    for error in (
        struct.error("x"),
        TypeError("x"),
        RecursionError("x"),
        KeyError("x"),
        MemoryError(),
        UnicodeError("x"),
    ):
        monkeypatch.setattr(Image, "open", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(UserError, match="p.png"):
            read_image(tmp_path / "p.png")


# -- videos ------------------------------------------------------------------------------------------------------------


def rotated(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The same MP4 with a display matrix a b c d in its track header."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">i", data[place : place + 4])[0] == 65536
    a, b, c, d = (65536 * value for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),  # a quarter turn clockwise
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),  # mirrored
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_videos_are_turned_as_they_say(tmp_path, matrix, shown):
    frames = moving(5)
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 48, 32, 15, lossless=True) as writer:
        writer.write(frames)
    rotated(path, matrix)
    expected = np.stack([shown(frame) for frame in frames])
    np.testing.assert_array_equal(read_video(path), expected)
    facts = measure_video(path)
    assert (facts.height, facts.width) == expected.shape[1:3]
    np.testing.assert_array_equal(read_frames(path, [4, 1], facts), expected[[4, 1]])


@pytest.mark.parametrize(("size", "matrix"), [((1280, 720), "ITU709"), ((96, 64), "ITU601")])
def test_untagged_video_is_read_as_players_read_it(tmp_path, size, matrix):
    import av

    frame = np.tile(np.array([200, 60, 40], np.uint8), (size[1], size[0], 1))
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=15)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.options = {"crf": "5"}
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", dst_colorspace=matrix)
        picture.colorspace = 2
        file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    assert np.abs(read_video(path)[0].astype(int) - frame).mean() < 3


def test_damage_is_refused_and_never_shown(tmp_path):
    """Of random single bits flipped in the stream, most that change a picture are found; none raises anything else."""
    rng = np.random.default_rng(0)
    path = encode(tmp_path / "v.mp4", moving(72, 96, 64), options={"crf": "18"})
    whole, sound = path.read_bytes(), read_video(path)
    start, end = whole.index(b"mdat") + 8, whole.index(b"mdat") + 8 + 4000
    refused = wrong = 0
    for _ in range(40):
        data = bytearray(whole)
        data[int(rng.integers(start, min(end, len(data))))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = read_video(path)
            wrong += found.shape != sound.shape or bool((found != sound).any())
        except UserError as error:
            assert "damaged" in str(error)
            refused += 1
    assert refused >= 15 and wrong <= refused / 2, (refused, wrong)


def test_a_video_that_changes_its_size_is_refused(tmp_path):
    parts = [
        encode(tmp_path / "a.h264", moving(5), container="h264"),
        encode(tmp_path / "b.h264", moving(5, 32, 16), container="h264"),
    ]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    for read in (read_video, measure_video):
        with pytest.raises(UserError, match="changes its size at frame 5, from 48x32 to 32x16"):
            read(tmp_path / "both.h264")


@pytest.mark.parametrize(
    "name", ["v.mp4", "v.mkv", "v.mov", "v.m4v", "v.avi", "v.gif", "v.webm", "v.ts", "v.mpg", "v.h264"]
)
def test_every_container_is_counted_as_it_is_read(tmp_path, name):
    frames = moving(20)
    codecs = {".avi": "mjpeg", ".gif": "gif", ".webm": "libvpx", ".mpg": "mpeg1video"}
    suffix = Path(name).suffix
    pix_fmt = {".avi": "yuvj420p", ".gif": "rgb8"}.get(suffix, "yuv420p")
    options = {"crf": "8", "g": "7", "bf": "2"} if suffix not in codecs else {}
    container = {".m4v": "mp4", ".ts": "mpegts", ".h264": "h264"}.get(suffix)
    codec = codecs.get(suffix, "libx264")
    rate = {"framerate": 25} if Path(name).suffix == ".mpg" else {}
    container = "mpeg" if Path(name).suffix == ".mpg" else container
    path = encode(tmp_path / name, frames, codec=codec, container=container, pix_fmt=pix_fmt, options=options, **rate)
    facts, whole = measure_video(path), read_video(path)
    assert facts.num_frames == len(whole) == 20 and whole.shape[1:] == (32, 48, 3)
    numbers = [19, 3, 3, 0, 11, 12]
    np.testing.assert_array_equal(read_frames(path, numbers, facts), whole[numbers])
    with pytest.raises(UserError, match="20 frames"):
        read_frames(path, [20], facts)


# -- import ------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 48, 32
START = look(np.zeros((1, 3)), 0.0, pinhole(60, WIDTH, HEIGHT), WIDTH, HEIGHT)
CAMERAS = Cameras.concat([START, cameras_from_actions(START, "j-16,none-4,l-16")])
FRAMES = moving(len(CAMERAS), WIDTH, HEIGHT)


def pictures(folder: Path, names: list[str], frames: np.ndarray = FRAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames, strict=True):
        write_image(folder / name, frame)
    return folder


NAMES = {
    "0000.jpg": [f"{i:04d}.jpg" for i in range(37)],
    "PNG": [f"{i}.PNG" for i in range(37)],
    "size in the name": [f"frame_{i:04d}_640x360.png" for i in range(37)],
    "clip 3 take 2": [f"clip3_{i}_take2.png" for i in range(37)],
    "every third": [f"{3 * i + 6:05d}.png" for i in range(37)],
    "seconds": [f"{1305031102.1 + i / 30:.6f}.png" for i in range(37)],
    "nanoseconds": [f"{1403636579763555584 + i * 33_333_333}.png" for i in range(37)],
    "backwards": [f"{i}.png" for i in range(37)],
}


@pytest.mark.parametrize("kind", NAMES)
def test_folders_of_pictures_in_every_naming(tmp_path, kind):
    folder = pictures(tmp_path / "walk", NAMES[kind])
    for litter in ("._0000.png", ".DS_Store", "Thumbs.db"):
        (folder / litter).write_bytes(b"\0\5\x16\7")
    write.write_poses(CAMERAS, tmp_path / "walk")
    (video,) = import_videos(tmp_path)
    difference = video.frames().astype(int) - FRAMES
    assert np.abs(difference).mean() < (4 if kind == "0000.jpg" else 1e-9)
    np.testing.assert_array_equal(video.frames([30, 2]), video.frames()[[30, 2]])
    assert ("one picture in 3" in " ".join(video.report()["notes"])) == (kind == "every third")


def test_everything_in_a_folder_is_scored_or_named(tmp_path):
    write.write_poses(CAMERAS, tmp_path)
    for name in ("a.mp4", "b.avi", "c.m4v", "d.gif"):
        codec = {".avi": "mjpeg", ".gif": "gif"}.get(Path(name).suffix, "libx264")
        pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        encode(tmp_path / name, FRAMES, codec=codec, container="mp4" if name == "c.m4v" else None, pix_fmt=pix_fmt)
        np.save(tmp_path / f"{Path(name).stem}.npy", CAMERAS.c2w)
    pictures(tmp_path / "e", [f"{i}.jpg" for i in range(37)])
    np.save(tmp_path / "e.npy", CAMERAS.c2w)
    (tmp_path / "film.r3d").write_bytes(b"x")
    found = import_videos(tmp_path)
    assert [video.name for video in found] == ["a", "b", "c", "d", "e"]
    assert "film.r3d" in " ".join(found[0].notes)


def test_poses_and_pictures_meet_by_time_and_by_name(tmp_path):
    """TUM: poses ten times as often as pictures. nerfstudio: some pictures have none."""
    folder = pictures(tmp_path / "tum" / "walk" / "rgb", NAMES["seconds"])
    dense = np.repeat(np.arange(37), 10)
    write.write_tum(CAMERAS[dense], folder.parent / "groundtruth.txt", fps=300)
    lines = (folder.parent / "groundtruth.txt").read_text().splitlines()
    times = [f"{1305031102.1 + (i - 4.5) / 300:.6f} " + line.split(" ", 1)[1] for i, line in enumerate(lines[1:])]
    (folder.parent / "groundtruth.txt").write_text("\n".join([lines[0], *times]))
    (folder.parent / "intrinsics.txt").write_text(" ".join(str(v) for v in CAMERAS.K[0]))
    (video,) = import_videos(tmp_path / "tum")
    np.testing.assert_allclose(video.cameras.c2w, CAMERAS.c2w, atol=1e-9)
    assert "matched by time" in " ".join(video.notes)
    folder = pictures(tmp_path / "nerf" / "walk" / "images", [f"frame_{i:05d}.png" for i in range(37)])
    some = [i for i in range(37) if i % 5]
    write.write_transforms(
        CAMERAS[some], folder.parent / "transforms.json", names=[f"images/frame_{i:05d}.jpg" for i in some]
    )
    (video,) = import_videos(tmp_path / "nerf")
    np.testing.assert_array_equal(video.frames(), FRAMES[some])
    assert "8 cameras" not in " ".join(video.notes) and "8 pictures" in " ".join(video.notes)


def test_margins_of_the_truth_are_named(tmp_path):
    encode(tmp_path / "made" / "walk.mp4", FRAMES) if (tmp_path / "made").mkdir() is None else None
    (tmp_path / "true").mkdir()
    encode(tmp_path / "true" / "walk.mp4", moving(len(CAMERAS), 64, 32))
    write.write_poses(CAMERAS, tmp_path / "made" / "walk")
    (video,) = import_videos(tmp_path / "made", truth=tmp_path / "true")
    assert "margins" in " ".join(video.notes) and video.truth([3]).shape == (1, HEIGHT, WIDTH, 3)


def test_a_phone_video_is_scored_upright(tmp_path):
    roll = np.eye(4)
    roll[:2, :2] = [[0, -1], [1, 0]]
    (tmp_path / "walk").mkdir()
    cameras = Cameras.concat([START, cameras_from_actions(START, "j-36,none-4,l-36")])
    encode(tmp_path / "walk.mp4", moving(len(cameras), WIDTH, HEIGHT))
    write.write_poses(Cameras(cameras.c2w @ roll, cameras.K, WIDTH, HEIGHT), tmp_path / "walk")
    (video,) = import_videos(tmp_path)
    assert (video.cameras.width, video.cameras.height) == (HEIGHT, WIDTH) and video.turns == 3
    np.testing.assert_allclose(video.cameras.c2w, cameras.c2w, atol=1e-9)
    assert video.frames([0]).shape == (1, WIDTH, HEIGHT, 3)
    assert score_video(video, networks=False)["return.psnr_db"] < 60
    level = import_videos(tmp_path, options=PoseOptions(up="z"))[0]
    assert level.turns == 3  # the same, now because it was said


def test_a_long_video_is_scored_in_little_memory(tmp_path):
    """300 frames of 960x540 are 467 MB; all of them twice would be nearly 1 GB. A turn has few pairs to score."""
    frame = np.kron(gradient(), np.ones((17, 20, 1), np.uint8))[:540, :960]
    path = tmp_path / "walk.mp4"
    with VideoWriter(path, 960, 540, 30, pix_fmt="yuv420p") as writer:
        for _ in range(300):
            writer.write(frame)
    start = look(np.zeros((1, 3)), 0.0, pinhole(60, 960, 540), 960, 540)
    write.write_poses(Cameras.concat([start, cameras_from_actions(start, "none-179,j-120")]), tmp_path / "walk")
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from context_as_memory.formats.importers import import_videos\n"
        "from context_as_memory.evaluation.foreign import score_video\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "(video,) = import_videos(Path(sys.argv[1]))\nclip = score_video(video, networks=False)\n"
        "assert clip['returns'] == 1 and clip['return.psnr_db'] > 60, clip\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 450


def test_names_of_files_are_drawn_as_they_are(tmp_path):
    """Signs of mathematical text in a name are no reason to lose a picture."""
    found = Retrieval(np.array([0, 4]), np.array([1.0, 0.5]), np.array([0, 1, 2]))
    chunks = [InspectedChunk(5, found)]
    draw_inspector(tmp_path / "i.png", CAMERAS, list(FRAMES), chunks, title="t", subtitle="price_$5_{a$.png")
    assert (tmp_path / "i.png").exists()


def test_heic_is_read_where_its_reader_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    heif.register_heif_opener()
    Image.fromarray(gradient()).save(tmp_path / "p.heic", quality=95)
    assert np.abs(read_image(tmp_path / "p.heic").astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("kind", ["npy", "folder", "npz", "transforms", "re10k", "colmap", "csv", "unreal"])
def test_every_command_reads_a_camera_file_alike(tmp_path, kind):
    """`retrieve`, `generate` and `evaluate` see the same cameras and the same lens in one file."""
    writers = {"transforms": ("walk.json", write.write_transforms), "re10k": ("walk.txt", write.write_realestate10k)}
    writers |= {"csv": ("walk.csv", write.write_csv), "unreal": ("walk.json", write.write_unreal_json)}
    cameras = Cameras(CAMERAS.c2w, pinhole(52.67, 640, 360), 640, 360)
    path = tmp_path / "walk"
    if kind in writers:
        path = tmp_path / writers[kind][0]
        writers[kind][1](cameras, path)
    elif kind == "colmap":
        write_colmap(cameras, path / "sparse" / "0")
    elif kind == "npz":
        path = tmp_path / "walk.npz"
        np.savez(path, c2w=cameras.c2w, intrinsics=cameras.K)
    else:
        write.write_poses(cameras, path)
        path = path / "poses.npy" if kind == "npy" else path
    encode(tmp_path / "walk.mp4", moving(len(cameras), 64, 36))
    write_image(tmp_path / "photo.png", gradient(64, 36))
    (video,) = import_videos(tmp_path)
    request = read_request(GenerateConfig(out=tmp_path, image=tmp_path / "photo.png", trajectory=path))
    generated = Cameras.concat([request.start.camera, request.path])
    for found in (video.cameras, generated, read_track(path).cameras):
        np.testing.assert_allclose(found.c2w, cameras.c2w, atol=1e-9)
        np.testing.assert_allclose(np.degrees(found.hfov_rad), 52.67, atol=0.01)
    assert (video.cameras.width, generated.width) == (64, 64)
    np.testing.assert_allclose(request.start.up, [0, 0, 1], atol=1e-9)


@pytest.mark.parametrize("hfov_deg", [0.0, -20.0, 180.0])
def test_a_field_of_view_that_cannot_be_is_refused_and_not_replaced(tmp_path: Path, hfov_deg: float) -> None:
    write_image(tmp_path / "photo.png", gradient(64, 36))
    settings = GenerateConfig(out=tmp_path, image=tmp_path / "photo.png", actions="w-4", hfov_deg=hfov_deg)
    with pytest.raises(UserError, match="impossible"):
        read_request(settings)
