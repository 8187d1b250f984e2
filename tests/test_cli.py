"""The command line as a user meets it: outputs, messages, exit codes, Ctrl-C."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from context_as_memory import __version__
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli import renamed
from context_as_memory.cli.main import main
from context_as_memory.data.episode import write_episode
from context_as_memory.evaluation.returns import find_returns, visits
from context_as_memory.formats.actions import cameras_from_actions, parse_actions
from context_as_memory.formats.pictures import read_image, write_image
from context_as_memory.formats.video import read_video
from context_as_memory.formats.write import write_poses
from context_as_memory.retrieval import STRATEGIES
from context_as_memory.walk.config import Strategy
from context_as_memory.walk.recorder import OUTPUTS
from context_as_memory.walk.request import DEMO_ACTIONS
from tiny import ROOM_HEIGHT as HEIGHT
from tiny import ROOM_WIDTH as WIDTH
from tiny import paint_room, save_model

SOURCE = str(Path(__file__).resolve().parents[1] / "src")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of another size and shape than the model's."""
    start = look((0, 0, 0), 0.0, pinhole(90, 130, 70), 130, 70)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_image(path, paint_room(start)[0])
    return path


def words(*arguments: object) -> list[str]:
    return [str(argument) for argument in arguments]


# --- help
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--help", "--version", "generate --help", "train denoiser --help"])
def test_help_and_version_import_nothing_heavy(line: str) -> None:
    arguments = line.split()
    code = (
        "import sys\nfrom context_as_memory.cli.main import main\n"
        f"try:\n    code = main({arguments})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "assert not code, code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'skimage', 'av', 'PIL', 'vizdoom'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    env = os.environ | {"PYTHONPATH": SOURCE}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert result.returncode == 0, result.stderr
    assert __version__ in result.stdout if "--version" in arguments else "usage: cam" in result.stdout


def test_the_module_runs_the_same_program() -> None:
    env = os.environ | {"PYTHONPATH": SOURCE}
    command = [sys.executable, "-m", "context_as_memory", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout == f"cam {__version__}\n"


def test_strategies_on_the_command_line_are_those_of_retrieval() -> None:
    assert set(get_args(Strategy)) == set(STRATEGIES)


# --- the demo path
# --------------------------------------------------------------------------------------------------------


def test_demo_path_is_long_and_comes_back_at_least_twice() -> None:
    assert sum(frames for _, frames in parse_actions(DEMO_ACTIONS)) >= 480
    start = look((0, 0, 0), 0.0, pinhole(90, 160, 96), 160, 96)
    found = visits(find_returns(Cameras.concat([start, cameras_from_actions(start, DEMO_ACTIONS)])))
    assert len(found) >= 2 and max(visit.gap_frames for visit in found) > 200


# --- generate
# -------------------------------------------------------------------------------------------------------------


def test_generate_leaves_everything_it_promises(
    model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    arguments = words("generate", "--image", photo, "--actions", "j-40,l-42", "--out", out, "--weights", model)
    assert main([*arguments, "--threads", "1", "--fps", "12"]) == 0
    said = capsys.readouterr()
    assert "photo.png (130x70) is scaled and cropped" in said.err and f"{WIDTH}x{HEIGHT}" in said.err
    assert "enlarged" not in said.err
    assert "memory on:" in said.out and str(out / "video.mp4") in said.out
    assert sorted(os.listdir(out)) == sorted(OUTPUTS)

    video = read_video(out / "video.mp4")
    assert video.shape == (83, HEIGHT, WIDTH, 3)  # the start frame and 82 generated ones
    comparison = read_video(out / "comparison.mp4")
    assert len(comparison) == 83 and comparison.shape[2] > 6 * WIDTH
    assert (comparison[81] != comparison[30]).any()
    assert min(read_image(out / "inspector.png").shape[:2]) > 300

    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] is False and report["frames_generated"] == report["frames_requested"] == 82
    assert report["settings"]["actions"] == "j-40,l-42" and report["seed"] == 0
    assert re.fullmatch("[0-9a-f]{64}", report["weights"]["sha256"])
    assert report["environment"]["package"] == __version__ and report["environment"]["torch"]
    assert report["returns"]["num_visits"] == 1
    for run in ("with_memory", "without_memory"):
        assert {"psnr", "ssim"} == set(report["returns"][run]) and report["returns"][run]["psnr"]["n"] == 1
        stages = report["timing"][run]["seconds_per_chunk"]
        assert set(stages) == {"retrieve", "encode", "denoise", "decode", "all"}
        assert set(stages["denoise"]) == {"mean", "median", "p95"} and report["timing"][run]["chunks"] == 21
        assert report["timing"][run]["frames_per_second"] > 0
    assert report["world"]["retrieval"]["strategy"] == "coverage"
    assert report["peak_memory_mib"] > 10 and sorted(report["files"]) == sorted(OUTPUTS)


def test_a_picture_that_is_much_enlarged_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "small.png", np.full((HEIGHT // 4, WIDTH // 4, 3), 99, np.uint8))
    line = words(
        "generate", "--image", tmp_path / "small.png", "--actions", "w-2", "--out", tmp_path, "--weights", model
    )
    assert main([*line, "--no-compare", "--threads", "1"]) == 0
    assert f"the model's {WIDTH}x{HEIGHT}, enlarged 4 times, so that it is soft" in capsys.readouterr().err


def test_generating_again_overwrites_and_leaves_nothing_stale(model: Path, photo: Path, tmp_path: Path) -> None:
    common = words("generate", "--image", photo, "--out", tmp_path, "--weights", model, "--threads", 1)
    (tmp_path / "mine.txt").write_text("keep me")
    assert main([*common, "--actions", "w-8"]) == 0
    first = read_video(tmp_path / "video.mp4")
    assert main([*common, "--actions", "w-8", "--no-compare"]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted({*OUTPUTS, "mine.txt"} - {"comparison.mp4"})
    np.testing.assert_array_equal(read_video(tmp_path / "video.mp4"), first)  # the comparison changes nothing
    assert main([*common, "--actions", "w-8", "--no-compare", "--seed", "3"]) == 0
    assert (read_video(tmp_path / "video.mp4") != first).any()


def test_a_trajectory_file_is_the_same_path_as_its_actions(model: Path, photo: Path, tmp_path: Path) -> None:
    start = look((4.0, 2.0, 1.0), 0.7, pinhole(90, 130, 70), 130, 70)
    write_poses(Cameras.concat([start, cameras_from_actions(start, "jw-9")]), tmp_path / "path")
    (tmp_path / "path" / "intrinsics.npy").rename(tmp_path / "K.npy")
    common = words("generate", "--image", photo, "--weights", model, "--no-compare", "--threads", 1)
    poses = tmp_path / "path" / "poses.npy"
    for name, path in (
        ("a", ["--actions", "jw-9"]),
        ("b", words("--trajectory", poses, "--intrinsics", tmp_path / "K.npy")),
        ("c", words("--trajectory", poses)),
        ("d", words("--trajectory", poses, "--hfov-deg", 60)),
    ):
        assert main([*common, *path, "--out", str(tmp_path / name)]) == 0
    videos = [read_video(tmp_path / name / "video.mp4").astype(int) for name in "abcd"]
    assert videos[0].shape[0] == 10
    for video in videos[1:3]:  # another place in the world, the same picture up to rounding
        assert np.abs(video - videos[0]).mean() < 2
    assert np.abs(videos[3] - videos[0]).mean() > 1e-3


def test_comparing_recent_with_itself_is_left_out(
    model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = words("generate", "--image", photo, "--out", tmp_path, "--weights", model, "--threads", 1)
    assert main([*common, "--actions", "w-4", "--strategy", "recent", "--max-context", "2", "--steps", "2"]) == 0
    assert not (tmp_path / "comparison.mp4").exists() and "left out" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["world"]["num_steps"] == 2 and report["world"]["retrieval"]["max_context"] == 2


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_walk_that_is_asked_to_end_leaves_a_playable_video_and_says_so(
    model: Path, photo: Path, tmp_path: Path, asked: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "context_as_memory", "generate", "--weights", str(model), "--image", str(photo)]
    command += ["--actions", "w-2000", "--out", str(out), "--threads", "1"]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": SOURCE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob("comparison.mp4.*.partial")) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(asked)
        said, complained = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, complained
    assert "Traceback" not in complained and "stopping after this chunk" in complained
    assert "interrupted after" in said
    assert sorted(os.listdir(out)) == sorted(OUTPUTS)
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] is True and 0 <= report["frames_generated"] < 2000
    number = 1 + report["frames_generated"]
    assert len(read_video(out / "video.mp4")) == len(read_video(out / "comparison.mp4")) == number


def test_a_second_ctrl_c_stops_inside_a_chunk(
    model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from context_as_memory.world import World

    original, calls = World.step, []

    def impatient(self: World, *arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 6:  # the second run of the third chunk
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(World, "step", impatient)
    arguments = words("generate", "--image", photo, "--actions", "w-40", "--out", tmp_path, "--weights", model)
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments) == 130
    assert signal.getsignal(signal.SIGINT) is before
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] and report["frames_generated"] == 8 and report["timing"]["with_memory"]["chunks"] == 2
    assert len(read_video(tmp_path / "video.mp4")) == len(read_video(tmp_path / "comparison.mp4")) == 9


# --- bad input
# ------------------------------------------------------------------------------------------------------------


def complaint(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line on stderr of a command that must fail with exit code 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("cam: error: ")
    return line


def bad_files(folder: Path) -> None:
    (folder / "text.png").write_text("hello")
    np.save(folder / "nan.npy", np.full((3, 4, 4), np.nan))
    np.save(folder / "scaled.npy", np.tile(np.diag([2.0, 2, 2, 1]), (3, 1, 1)))
    np.save(folder / "flat.npy", np.zeros((3, 5)))
    np.save(folder / "one.npy", np.eye(4)[None])
    (folder / "torn.npy").write_bytes(b"\x93NUMPY\x01")
    (folder / "file").write_text("not a folder")
    (folder / "taken" / "video.mp4").mkdir(parents=True)
    (folder / "empty").mkdir()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--actions w-4", "--image"),
        ("--image PHOTO --demo", "--image and --demo"),
        ("--image PHOTO", "--actions"),
        ("--image PHOTO --actions w-4 --trajectory TMP/nan.npy", "together"),
        ("--image PHOTO --actions w-4 --intrinsics TMP/nan.npy", "--trajectory"),
        ("--image PHOTO --actions w40", "'w40'"),
        ("--image PHOTO --actions w-4,q-3", "'q-3'"),
        ("--image TMP/missing.png --actions w-4", "missing.png"),
        ("--image TMP/text.png --actions w-4", "text.png"),
        ("--image PHOTO --actions w-4 --hfov-deg 190", "190"),
        ("--image PHOTO --actions w-4 --steps 0", "--steps"),
        ("--image PHOTO --actions w-4 --max-context 0", "--max-context"),
        ("--image PHOTO --actions w-4 --threads 0", "--threads"),
        ("--image PHOTO --actions w-4 --fps 0", "--fps"),
        ("--image PHOTO --actions w-4 --out TMP/file", "TMP/file"),
        ("--image PHOTO --actions w-4 --out TMP/file/deeper", "TMP/file/deeper"),
        ("--image PHOTO --actions w-4 --out /proc/nowhere", "/proc/nowhere"),
        ("--image PHOTO --actions w-4 --out TMP/taken", "video.mp4"),
        ("--image PHOTO --trajectory TMP/missing.npy", "missing.npy"),
        ("--image PHOTO --trajectory TMP/nan.npy", "nan.npy: camera 0 has a pose that is not finite"),
        ("--image PHOTO --trajectory TMP/scaled.npy", "scaled.npy: camera 0 has a rotation"),
        ("--image PHOTO --trajectory TMP/flat.npy", "flat.npy"),
        ("--image PHOTO --trajectory TMP/one.npy", "at least one more"),
        ("--image PHOTO --trajectory TMP/torn.npy", "torn.npy"),
        ("--image PHOTO --trajectory TMP/empty", "empty"),
        ("--image PHOTO --trajectory TMP/one.npy --intrinsics TMP/nan.npy", "intrinsics"),
        ("--start nowhere --actions w-4", "start frame"),
        ("--image PHOTO --actions w-4 --weights nowhere", "nowhere"),
        ("--image PHOTO --actions w-4 --weights TMP/empty", "empty"),
        ("--image PHOTO --actions w-4 --weights MODEL/transformer", "model.json"),
    ],
)
def test_generate_explains_bad_input_in_one_line(
    arguments: str, expected: str, model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_files(tmp_path)

    def fill(text: str) -> str:
        return text.replace("PHOTO", str(photo)).replace("TMP", str(tmp_path)).replace("MODEL", str(model))

    given = [fill(word) for word in arguments.split()]
    for flag, value in (("--out", tmp_path / "out"), ("--weights", model)):
        if flag not in given:
            given += [flag, str(value)]
    assert fill(expected) in complaint(capsys, ["generate", *given])
    assert not list(tmp_path.glob("out/*"))


def test_weights_of_another_architecture_are_refused(
    model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    arguments = words("generate", "--image", photo, "--actions", "w-4", "--out", tmp_path / "out", "--weights")
    shutil.copytree(model, tmp_path / "wider")
    config = tmp_path / "wider" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"ffn_dim": 32', '"ffn_dim": 64'))
    assert "shape" in complaint(capsys, [*arguments, str(tmp_path / "wider")])
    shutil.copytree(model, tmp_path / "swapped")
    shutil.rmtree(tmp_path / "swapped" / "transformer")
    shutil.copytree(model / "vae", tmp_path / "swapped" / "transformer")
    assert "not a WorldTransformer" in complaint(capsys, [*arguments, str(tmp_path / "swapped")])
    shutil.copytree(model, tmp_path / "torn")
    weights = next((tmp_path / "torn" / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    assert "damaged" in complaint(capsys, [*arguments, str(tmp_path / "torn")])


def test_a_folder_without_rights_is_refused(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path  # root may write everywhere but into the kernel's folder
    arguments = words("generate", "--image", photo, "--actions", "w-4", "--out", folder / "out")
    assert "cannot write" in complaint(capsys, arguments)


def test_wrong_flags_end_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["generate"], ["nonsense"], [], ["generate", "--out", "x", "--strategy", "total"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2 and capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("generate --out x --demo --memory coverage", "`--memory` is called `--strategy` now."),
        ("retrieve --cameras x --query 3 --memory=paper", "`--memory` is called `--strategy` now."),
        ("retrieve --cameras x --query 3 --literal", "`--literal` is called `--as-published` now."),
        ("explore --kept_worlds 3", "`--kept-worlds` is called `--stored-worlds` now."),
        ("train world --data x", "`cam train world` is called `cam train denoiser` now."),
        ("train denoiser --recipe swift", "the recipe `swift` is called `base-2step` now."),
        ("train denoiser --recipe=steady", "the recipe `steady` is called `light-stage2` now."),
        ("evaluate-returns --data x", "`cam evaluate-returns` is called `cam evaluate --suite returns` now."),
    ],
)
def test_former_words_answer_with_their_new_name(line: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, line.split()) == f"cam: error: {sentence}"


def test_new_words_that_look_like_former_ones_pass() -> None:
    renamed.check(["generate", "--start", "steady", "--world", "train world", "--out", "swift"])
    renamed.check(["train", "denoiser", "--out", "swift", "--recipe", "light"])


# --- other commands
# ---------------------------------------------------------------------------------------------------------


def test_check_names_broken_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = look((0, 0, 0), 0.0, pinhole(90, 32, 24), 32, 24)
    cameras = cameras_from_actions(start, "w-4")
    for name in ("f1_E1M1_0", "f1_E1M1_1"):
        meta = {"name": name, "map": "f1_E1M1", "split": "train", "seed": 0, "fps": 15, "licence": "own"}
        write_episode(tmp_path / "data" / name, paint_room(cameras), cameras, meta, raw=True)
    assert main(words("check", tmp_path / "data")) == 0
    assert "no broken episode" in capsys.readouterr().out
    (tmp_path / "data" / "f1_E1M1_1" / "poses.npy").unlink()
    assert main(words("check", tmp_path / "data")) == 2
    said = capsys.readouterr()
    assert said.out.startswith("f1_E1M1_1: ") and "poses.npy" in said.out and "f1_E1M1_0" not in said.out
    assert said.err.startswith("cam: error: 1 broken episode")
    assert "no data set" in complaint(capsys, words("check", tmp_path / "missing"))


def test_other_commands_explain_missing_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tmp_path / "none"
    for arguments in (
        words("evaluate", "--suite", "returns", "--data", none, "--weights", model),
        words("encode", "--data", none, "--weights", model, "--cache", tmp_path / "cache"),
        words("train", "codec", "--data", none, "--out", tmp_path / "run"),
        words("train", "denoiser", "--data", none, "--codec", none, "--cache", none, "--out", tmp_path / "run"),
        words("render", "--maps", "f9_E9M9", "--out", tmp_path / "render"),
        words("retrieve", "--cameras", none, "--query", 3),
    ):
        assert len(complaint(capsys, arguments)) > 30


def test_retrieve_answers_for_a_pose_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = look((0, 0, 0), 0.0, pinhole(90, 32, 24), 32, 24)
    write_poses(cameras_from_actions(start, "j-40,l-40"), tmp_path)
    assert main(words("retrieve", "--cameras", tmp_path, "--query", 78, "--past-only", "--json")) == 0
    assert json.loads(capsys.readouterr().out)


def test_the_report_is_written_before_its_picture(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path
) -> None:
    """What goes wrong in drawing costs the picture, not the numbers; and the lens and the up are among these."""
    from context_as_memory.walk import recorder

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no picture")

    monkeypatch.setattr(recorder, "draw_inspector", fail)
    path = tmp_path / "path.npy"
    np.save(path, look(np.zeros((3, 3)), np.radians([0.0, 3.0, 6.0]), pinhole(90, 130, 70), 130, 70).c2w)
    out = tmp_path / "out"
    arguments = words("generate", "--image", photo, "--trajectory", path, "--hfov-deg", 80, "--weights", model)
    with pytest.raises(RuntimeError, match="no picture"):
        main([*arguments, *words("--out", out, "--no-compare")])
    report = json.loads((out / "report.json").read_text())
    assert report["frames_generated"] == 2 and report["lens"]["hfov_deg"] == pytest.approx(80)
    assert report["up"] == [0, 0, 1] and report["cameras"]["kind"] == "a pose array"


# --- files that are no files, folders that are no folders
# ---------------------------------------------------------------------------------------------------------------

READS = ["compare {} {}", "world import {} {out}"]
ALSO_READ = [
    "fetch --archive {}",
    "retrieve --cameras {} --query 3",
    "retrieve --cameras {poses} --intrinsics {} --query 3",
    "generate --image {} --actions w-4 --out {out}",
    "generate --image {photo} --trajectory {} --out {out}",
    "generate --demo --weights {folder} --out {out}",
    "evaluate --videos {} --out {out}",
    "export {} --to frames --out {out}",
    "check {}",
    "world info {}",
    "world edit {} --frame 0 --image {}",
    "import paper {} --out {out}",
    "import videos {} --fps 30 --out {out}",
    "bench mind --inputs {} --out {out}",
]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        *((kind, line) for kind in ("pipe", "/dev/zero", "/dev/null", "socket") for line in READS),
        *(("pipe", line) for line in ALSO_READ),
    ],
)
def test_what_is_no_plain_file_is_refused_at_once_by_every_command(
    kind: str, line: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(kind) if kind.startswith("/") else tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.json").symlink_to(path)
    np.save(tmp_path / "poses.npy", np.tile(np.eye(4), (9, 1, 1)))
    places = {name: tmp_path / name for name in ("out", "folder")} | {"poses": tmp_path / "poses.npy", "photo": photo}
    arguments = [word.format(path, **places) for word in line.split()]
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    try:
        sentence = complaint(capsys, arguments)
    finally:
        signal.alarm(0)
    assert str(path) in sentence or str(tmp_path / "folder") in sentence
    assert "Errno" not in sentence


@pytest.mark.parametrize(
    "line",
    [
        "generate --demo --out",
        "evaluate --suite quality --out",
        "bench closure --inputs . --out",
        "render --out",
        "encode --data . --cache",
        "train codec --data . --out",
        "train denoiser --worlds voxel --codec default --out",
        "adapt --backbone nowhere --out",
        "export . --to frames --out",
        "import videos . --fps 30 --out",
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_any_work(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot write to /proc/nowhere" in complaint(capsys, [*line.split(), "/proc/nowhere"])
