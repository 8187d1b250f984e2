"""Protocols of the yardstick, on a painted room and a tiny real world."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.data.episode import Episode, list_episodes, write_episode
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.protocols import PROTOCOLS, own, territory
from context_as_memory.evaluation.protocols.contexts import nearest
from context_as_memory.evaluation.protocols.recorded import COPY, RULES, SWAP
from context_as_memory.evaluation.protocols.scenes import StartView, Task, choose_returns, recorded, start_of
from context_as_memory.evaluation.suite import run
from context_as_memory.evaluation.suite.run import evaluate, run_suite
from context_as_memory.evaluation.suite.system import WorldSystem
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.world import World
from tiny import ROOM_HEIGHT as HEIGHT
from tiny import ROOM_WIDTH as WIDTH
from tiny import paint_room, save_model


class Painter:
    """A made up system that paints the true room, darker by `darker` grey levels on every frame that it makes."""

    chunk_frames, rule, size = 2, RetrievalConfig(max_context=4), (WIDTH, HEIGHT)

    def __init__(self, darker: int = 0) -> None:
        self.darker = darker

    def generate(self, context_u8, context, targets, seed):
        return paint_room(targets)

    def walk(self, start_u8, start, path, rule, seed):
        frames = paint_room(path).astype(int)
        loss = np.arange(1, len(frames) + 1)[:, None, None, None] * self.darker
        return np.clip(frames - loss, 0, 255).astype(np.uint8)

    def identity(self):
        return {"name": "painter", "sha256": ""}


@pytest.fixture(autouse=True)
def _no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "fetched", lambda wanted=("lpips",): [])


def path_of(actions: str, width: int = WIDTH, height: int = HEIGHT, yaw: float = 0.0) -> Cameras:
    start = look((0.0, 0.0, 0.0), yaw, pinhole(90, width, height), width, height)
    return Cameras.concat([start, cameras_from_actions(start, actions)])


def episode_of(folder: Path, name: str, actions: str, **meta: object) -> Episode:
    cameras = path_of(actions)
    about = {"name": name, "split": "test", "fps": 15} | meta
    return write_episode(folder / name, paint_room(cameras), cameras, about, raw=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, actions in (("one", "j-60,l-60,w-10"), ("two", "l-60,j-60,s-4")):
        episode_of(folder, name, actions)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("weights") / "tiny")


def start() -> StartView:
    camera = look((0.5, 0.2, 0.0), 0.3, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    return StartView("here", "room", paint_room(camera)[0], camera)


# -- recorded memory ---------------------------------------------------------------------------------------------------


def test_returns_are_measured_under_every_context(data: Path, weights: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        suite="returns", out=tmp_path / "out", data=str(data), weights=str(weights), clips=4, threads=1
    )
    report = evaluate(config)
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report.clips) == 4 and set(saved["groups"]) == {"one", "two"}
    for method in (*RULES, SWAP, COPY):
        metric = saved["metrics"][f"{method}.psnr_db"]
        assert metric["low"] <= metric["mean"] <= metric["high"] and metric["n"] == 4
        assert metric["protocol"] == ("swap" if method == SWAP else "return")
    gain = report.values("coverage.psnr_db") - report.values("recent.psnr_db")
    np.testing.assert_allclose(report.values("gt_gain_db"), gain)
    copied, made = report.values("copy.psnr_db").mean(), report.values("coverage.psnr_db").mean()
    assert copied > 25 > made  # retrieval finds the view; random weights paint nothing
    assert len(list((tmp_path / "out" / "pictures").glob("return_*.png"))) == 4
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Protocol `return`" in text and PROTOCOLS["return"] in text


def test_a_chunk_from_its_context_alone_is_the_chunk_from_the_whole_memory(data: Path, weights: Path) -> None:
    """The yardstick generates from the context only; a running world from its bank: the same frames."""
    world = World.from_pretrained(weights, device="cpu", seed=5)
    system = WorldSystem(world, "tiny", "")
    episodes = list_episodes(data, "test")
    task = choose_returns(episodes, system.chunk_frames, 3, seed=1)[1]
    frames, cameras = recorded(task.episode)
    world.reset(frames[: task.now], cameras[: task.now])
    for strategy in ("coverage", "recent"):
        rule = replace(world.config.retrieval, strategy=strategy)
        targets = cameras[task.start : task.start + system.chunk_frames]
        step = world.step(targets, retrieval=rule, commit=False)
        rows = step.retrieval.frame_ids
        made = system.generate(frames[rows], cameras[rows], targets, 5)
        assert np.abs(step.frames_u8.astype(int) - made).max() <= 1
    assert len(world.bank) == task.now  # nothing generated was remembered


def test_returns_are_drawn_evenly_and_sorted(data: Path) -> None:
    tasks = choose_returns(list_episodes(data, "test"), 4, 6, seed=1)
    assert [task.episode.name for task in tasks] == sorted(task.episode.name for task in tasks)
    names = [task.episode.name for task in tasks]
    assert abs(names.count("one") - names.count("two")) <= 1 and len(set(task.name for task in tasks)) == len(tasks)


def test_nearest_picks_the_closest_pose() -> None:
    cameras = path_of("j-20,w-5")
    among = np.array([3, 12, 22])
    assert nearest(cameras, among, cameras[[11, 4, 25]]).tolist() == [12, 3, 22]


def test_bad_input_is_named(data: Path, weights: Path, tmp_path: Path) -> None:
    good = EvaluateConfig(suite="returns", data=str(data), weights=str(weights), clips=2, out=tmp_path / "out")
    for change, words in (
        ({"split": "train"}, "no episodes"),
        ({"clips": 0}, "--clips"),
        ({"max_context": 0}, "--max-context"),
        ({"long_walks": -1}, "--long-walks"),
        ({"weights": str(tmp_path / "none")}, "weights"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(replace(good, **change))
    for name, cameras, words in (("small", path_of("w-20", 32, 24), "32x24"), ("line", path_of("w-40"), "returns")):
        about = {"name": "s", "split": "test", "fps": 15}
        write_episode(tmp_path / name / "s", paint_room(cameras), cameras, about, raw=True)
        with pytest.raises(UserError, match=words):
            evaluate(replace(good, data=str(tmp_path / name), out=tmp_path / f"out-{name}"))


# -- own frames --------------------------------------------------------------------------------------------------------


def test_the_way_back_is_the_mirror_of_the_way_out() -> None:
    here = start()
    turn = own.turn_and_back(here, np.random.default_rng(0))
    recorded_path = path_of("jw-12,w-4")
    for first, path in ((here.camera, turn), (recorded_path[[0]], own.there_and_back(recorded_path))):
        cameras = Cameras.concat([first, path])
        back, out = own.mirrored(len(cameras))
        assert len(back) == len(out) == len(path) // 2
        np.testing.assert_allclose(cameras.c2w[back], cameras.c2w[out], atol=1e-9)
    turned = np.degrees(np.arccos(np.clip(here.camera.forward[0] @ turn.forward[len(turn) // 2 - 1], -1, 1)))
    assert 90 <= turned <= 180


def test_closure_compares_the_given_picture_with_the_frame_of_the_return() -> None:
    for seed in (0, 1):
        found = own.measure_closure(Painter(), start(), seed, False)
        assert found.values["closure.psnr_db"] > 60  # type: ignore[operator]
        assert (found.arrays["film"][own.AWAY] != found.arrays["film"][0]).mean() > 0.3
    faded = own.measure_closure(Painter(darker=1), start(), 0, False)
    loss = 2 * own.AWAY  # grey levels after the whole turn, where none is cut off at black
    assert faded.values["closure.psnr_db"] == pytest.approx(20 * np.log10(255 / loss), abs=1.0)


def test_closure_turns_by_90_degrees_and_sway_by_10() -> None:
    here = start()
    closure, sway = here.path(f"j-{own.AWAY}"), own.sway(here)
    degrees = [np.degrees(np.arccos(np.clip(c.forward @ here.camera.forward[0], -1, 1))) for c in (closure, sway)]
    assert degrees[0][-1] == pytest.approx(90, abs=1e-3)
    assert degrees[1].max() == pytest.approx(10, abs=1e-3) and degrees[1][-1] == pytest.approx(0, abs=1e-3)
    assert (degrees[1] > 9.99).sum() == own.SWAY_TURNS


def test_a_world_that_fades_while_standing_still_is_seen() -> None:
    still = own.measure_still(Painter(), start(), 0, False)
    fading = own.measure_still(Painter(darker=1), start(), 0, False)
    for name in ("still", "still_early", "sway"):
        assert still.values[f"{name}.psnr_db"] > 60  # type: ignore[operator]
        assert fading.values[f"{name}.psnr_db"] < 20  # type: ignore[operator]
    early, late = (fading.values[f"{name}.psnr_db"] for name in ("still_early", "still"))
    assert early == pytest.approx(20 * np.log10(255 / own.EARLY), abs=0.5) and late < early  # type: ignore[operator]


# -- new territory -----------------------------------------------------------------------------------------------------


def test_a_walk_turns_round_where_the_recording_ends() -> None:
    assert territory.path_rows(5, 2, 7).tolist() == [2, 3, 4, 3, 2, 1, 0, 1]
    assert territory.path_rows(100, 3, 4).tolist() == [3, 4, 5, 6, 7]


def test_long_walks_start_where_the_recording_goes_on(data: Path) -> None:
    episodes = list_episodes(data, "test")
    tasks = territory.long_walks(episodes, 5, 0, 60)
    assert len({task.name for task in tasks}) == 5
    assert all(task.start + 60 < task.episode.num_frames for task in tasks)
    assert len(territory.long_walks(episodes, 6, 0, 600)) == 6  # too short for that: they turn round


def test_sharpness_of_a_walk_is_that_of_its_recording_or_falls(data: Path) -> None:
    episodes = list_episodes(data, "test")
    task = Task(episodes[0], 0, 0)
    same = territory.measure_territory(Painter(), task, episodes, 120, 0, False)
    assert same.arrays["series_sharpness_ratio"] == pytest.approx([1.0, 1.0])
    assert same.values["sharpness_last"] == same.values["sharpness_recorded_last"]
    faded = territory.measure_territory(Painter(darker=1), task, episodes, 120, 0, False)
    assert faded.arrays["series_sharpness_ratio"][-1] < 0.9
    assert faded.values["colour_shift_255"] > 40  # type: ignore[operator]


# -- the suite quality -------------------------------------------------------------------------------------------------


def test_quality_measures_every_protocol_and_names_it(tmp_path: Path, weights: Path) -> None:
    system = WorldSystem(World.from_pretrained(weights, device="cpu"), "tiny", "")
    episodes = [
        episode_of(tmp_path / "data", "one", "j-60,l-60,w-10", style="a"),
        episode_of(tmp_path / "data", "two", "l-60,j-60,s-4", style="b", unseen_style=True),
    ]
    config = EvaluateConfig(suite="quality", out=tmp_path / "out", clips=2, walks=1, long_walks=1, drift_frames=60)
    (tmp_path / "out").mkdir()
    report = run_suite("quality", system, config, episodes)
    kinds = {name.partition("/")[0] for name in report.clips}
    assert kinds == {"codec", "chunk", "return", "mirror", "closure", "still", "territory"}
    flat = report.flat()
    for key in (
        *("codec_psnr_db", "all_coverage_psnr_db", "returns_swap_psnr_db", "history_turn_coverage_psnr_db", "fps"),
        *("gt_gain_db", "hc_gain_db", "gt_psnr_db", "swap_gain_lost", "closure_db", "sharpness_ratio_last"),
        *("unseen_style_psnr_db", "unseen_style_gain_db", "sharpness_ratio", "colour_shift_255", "copy_margin_db"),
    ):
        assert np.isfinite(flat[key]), key
    groups = {report.groups[name] for name in report.having("returns_coverage.psnr_db")}
    assert groups == {"one"} and {report.groups[name] for name in report.having("unseen_style.psnr_db")} == {"two"}
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(metric["protocol"] in PROTOCOLS for metric in saved["metrics"].values())
    assert "closure" in (tmp_path / "out" / "report.md").read_text()


def test_a_walk_starts_at_a_recorded_frame(data: Path) -> None:
    episode = list_episodes(data, "test")[0]
    found = start_of(Task(episode, 7, 7))
    np.testing.assert_array_equal(found.frame, episode.frames()[7])
    np.testing.assert_array_equal(found.camera.c2w, episode.cameras().c2w[[7]])
