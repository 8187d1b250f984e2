"""The examples run, and show what they say."""

import json
import re
import runpy
from pathlib import Path

import pytest

import tiny
from context_as_memory.formats.pictures import write_image
from context_as_memory.formats.video import read_video

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str):
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_every_example_is_run_here():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb") and path.name not in tests
    ] == []


def test_00_retrieve_finds_what_the_camera_turns_back_to(capsys):
    example("00_retrieve.py")()
    coverage, recent = (
        [int(number) for number in re.findall(r"\d+", line)] for line in capsys.readouterr().out.splitlines()
    )
    assert recent == list(range(124, 130))
    assert coverage[-1] == 129, "the most recent frame, last"
    assert min(coverage) < 100, "frames from before the last turn show what comes"


def test_01_walk_films_a_walk_from_a_picture(tmp_path, weights, capsys):
    write_image(tmp_path / "photo.png", tiny.pictures(1)[0])
    film = tmp_path / "walk.mp4"
    example("01_walk.py")(str(tmp_path / "photo.png"), "j-3,l-3", weights=str(weights), film=str(film))
    assert read_video(film).shape == (6, tiny.ROOM_HEIGHT, tiny.ROOM_WIDTH, 3)
    assert re.search(r"^6 frames .* made from frames \[.*4\]$", capsys.readouterr().out.strip())


def test_02_own_generator_finds_the_first_time_around(capsys):
    example("02_own_generator.py")()
    lines = [line for line in capsys.readouterr().out.splitlines() if "second time around" in line]
    assert len(lines) >= 8
    for line in lines:
        start, end, *context = (int(number) for number in re.findall(r"\d+", line))
        assert context[-1] == start - 1, "the most recent frame, last"
        assert any(start - 48 - 4 <= frame <= end - 48 + 4 for frame in context), "the same views, 48 frames ago"


def test_03_world_file_goes_on_and_forks(weights, capsys):
    example("03_world_file.py")(str(weights))
    # The start frame, the first chunk, and the fork's own eight frames.
    assert re.search(r"fork 'other': (\d+) frames; sound: True", capsys.readouterr().out)


@pytest.mark.slow
def test_04_train_tiny_ends_with_a_walk(capsys):
    example("04_train_tiny.py")(4)
    assert "walked 16 frames" in capsys.readouterr().out


def test_05_liveframe_keeps_the_harness_contract(weights, monkeypatch):
    session = pytest.importorskip("liveframe.world.session")
    from liveframe.world.actions import ActionScript

    monkeypatch.setenv("MODEL", str(weights))
    adapter = runpy.run_path(str(EXAMPLES / "05_liveframe.py"))["ContextAsMemory"]()
    script = ActionScript.from_segments([(0, "W+L", 8), (8, "0", 4)])
    case = session.WorldCase("turn", tiny.pictures(1)[0], script)
    adapter.load()
    result = session.run_case(adapter, case)
    assert (result.status, result.error) == ("ok", None) and result.metrics["native_frames"] == 12
    walked = adapter.world.bank.cameras
    assert walked.forward[8] @ -walked.right[0] > 0.3, "L turns to the left"


@pytest.mark.slow
@pytest.mark.weights
def test_the_notebook_runs_and_memory_brings_it_back(capsys):
    cells = json.loads((EXAMPLES / "turn_and_return.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "outputs are not kept in the repository"
            exec(compile("".join(cell["source"]), "turn_and_return.ipynb", "exec"), names)
    found = re.search(r"with memory ([\d.]+), without ([\d.]+)", capsys.readouterr().out)
    assert found and float(found[1]) < float(found[2])
