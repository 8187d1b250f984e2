"""The suite on systems whose answers are known: it must believe the honest one and see through the others."""

import json
from dataclasses import replace

import numpy as np
import pytest

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.cli.main import main
from context_as_memory.data.episode import Episode, write_episode
from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.protocols.contexts import choices, compressed_history
from context_as_memory.evaluation.protocols.gate import GATE_DB, choose_walks, gate_margins_db, measure_walk
from context_as_memory.evaluation.returns import pose_distance
from context_as_memory.evaluation.suite import paper, proof, result, run
from context_as_memory.evaluation.suite.proof import remaining_share
from context_as_memory.evaluation.suite.result import ClipStore
from context_as_memory.evaluation.suite.run import evaluate, run_suite
from context_as_memory.evaluation.suite.system import WorldSystem
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.video import VideoWriter
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.world import World
from tiny import ROOM_HEIGHT as HEIGHT
from tiny import ROOM_WIDTH as WIDTH
from tiny import paint_room, save_model

CHUNK = 2


def _episode(folder, name: str, seed: int) -> Episode:
    """A walk in the painted room that looks away and comes back, several times."""
    start = look(np.array([[float(seed), 0, 0]]), float(seed), pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    path = cameras_from_actions(start, "w-8,j-50,none-6,l-50,s-8,w-8,l-40,none-6,j-40,d-8,j-60,l-60")
    cameras = Cameras.concat([start, path])
    pictures = paint_room(cameras)
    pictures = pictures if seed == 0 else 255 - pictures  # another scene
    return write_episode(folder / name, pictures, cameras, {"split": "test", "fps": 15.0, "name": name}, raw=True)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> list[Episode]:
    folder = tmp_path_factory.mktemp("episodes")
    return [_episode(folder, "one", 0), _episode(folder, "two", 1)]


@pytest.fixture(autouse=True)
def _no_networks(monkeypatch):
    """Pictures are judged without networks here, fetched or not: these have tests of their own."""
    monkeypatch.setattr(run, "fetched", lambda wanted=("lpips",): [])


class Made:
    """A system made up for a test: a function of the context, and one for walks."""

    chunk_frames, rule, size = CHUNK, RetrievalConfig(max_context=4), (WIDTH, HEIGHT)

    def __init__(self, generate, walk):
        self._generate, self._walk = generate, walk

    def generate(self, context_u8, context, targets, seed):
        return self._generate(context_u8, context, targets, seed)

    def walk(self, start_u8, start, path, strategy, seed):
        return self._walk(start_u8, start, path, strategy, seed)

    def identity(self):
        return {"name": "made up", "sha256": ""}


def _nearest(context_u8, context, targets, seed):
    """What memory alone gives: the context frame with the closest pose."""
    apart = np.abs(context.c2w[None] - targets.c2w[:, None]).sum(axis=(-1, -2))
    return context_u8[apart.argmin(axis=1)]


def _replay(episodes):
    """A renderer: knows every recorded frame, as long as its context is right."""

    def find(cameras):
        frames = []
        for pose in cameras.c2w:
            for episode in episodes:
                row = np.flatnonzero(np.abs(episode.cameras().c2w - pose).max(axis=(1, 2)) < 1e-9)
                if len(row):
                    frames.append(episode.frames()[row[0]])
                    break
        return np.stack(frames)

    def generate(context_u8, context, targets, seed):
        truth = find(targets)
        known = find(context)
        seen = (np.abs(known.astype(int) - context_u8).max(axis=(1, 2, 3)) == 0).all() and len(context) > 1
        metres, radians = pose_distance(context.c2w, targets.c2w)
        near = ((metres < 1.5) & (radians < np.radians(40))).any()
        return truth if seen and near else np.full_like(truth, 128)

    def walk(start_u8, start, path, rule, seed):
        """With memory every frame; with recent ones only, the last frame seen."""
        return np.repeat(start_u8[-1:], len(path), axis=0) if rule == "recent" else find(path)

    return Made(generate, walk)


def _settings(out, **changes) -> EvaluateConfig:
    return replace(EvaluateConfig(suite="proof", out=out, clips=8, walks=4, drift_frames=60), **changes)


def _run(system, episodes, out):
    out.mkdir(exist_ok=True)
    return run_suite("proof", system, _settings(out), episodes)


def test_a_perfect_memory_is_believed_and_scores_at_the_ceiling(episodes, tmp_path):
    # Many clips: in so small a room random frames show most targets too, and the right ones must be better still.
    report = run_suite("proof", _replay(episodes), _settings(tmp_path, clips=24), episodes)
    assert report.summary["proven"] is True
    right = report.values("right.psnr_db")
    assert np.median(right) == right.max() == pytest.approx(100.0)
    assert report.summary["gate_pass_rate"] == 1.0 and report.summary["gate_pass_rate_recent"] == 0.0
    assert report.summary["walks_passed"] == 4 and report.summary["walks_passed_both"] == 0
    assert all(report.parts["conditions"].values())
    assert report.numbers["remaining.other_scene"]["high"] <= 0.5 < report.numbers["margin_db.recent"]["low"]
    assert report.summary["remaining.other_scene"] == 0.0
    assert report.summary["remaining.wrong_same_trajectory"] < 0.5
    assert report.summary["gain_db.right"] > 20


def test_a_system_without_memory_fails_the_proof(episodes, tmp_path):
    def last(context_u8, context, targets, seed):
        return np.repeat(context_u8[-1:], len(targets), axis=0)

    system = Made(last, lambda start_u8, start, path, strategy, seed: np.repeat(start_u8[-1:], len(path), axis=0))
    report = _run(system, episodes, tmp_path)
    assert report.summary["proven"] is False
    assert report.summary["gain_db.right"] == 0.0
    assert "NOT proven. What does not hold: right memory gains over no memory" in (tmp_path / "report.md").read_text()
    # It copies the last frame, so it never left: the gate catches it.
    assert report.summary["gate_pass_rate"] == 0.0
    # It ignores its memory: a swap takes nothing from it.
    assert report.summary["remaining.wrong_same_trajectory"] == report.summary["remaining.other_scene"] == 1.0


def test_pictures_out_of_nowhere_keep_all_of_their_score_under_the_swap(episodes, tmp_path):
    def dream(context_u8, context, targets, seed):
        rng = np.random.default_rng(abs(hash(targets.c2w.tobytes())) % 2**32)
        return rng.integers(0, 256, (len(targets), HEIGHT, WIDTH, 3), dtype=np.uint8)

    report = _run(Made(dream, lambda a, b, path, d, e: dream(a, b, path, e)), episodes, tmp_path)
    assert report.summary["proven"] is False
    assert report.summary["remaining.other_scene"] == 1.0


def test_copying_from_memory_is_seen_as_use_of_memory(episodes, tmp_path):
    report = _run(Made(_nearest, _replay(episodes).walk), episodes, tmp_path)
    assert report.summary["gain_db.right"] > 3
    assert report.summary["remaining.other_scene"] < 0.5


def test_our_world_goes_through_the_suite_and_resumes(episodes, tmp_path, capsys):
    world = World.from_pretrained(save_model(tmp_path / "weights"), device="cpu")
    system = WorldSystem(world, "tiny", "0" * 64)
    out = tmp_path / "out"
    report = _run(system, episodes, out)
    assert report.summary["proven"] in (True, False)
    assert [row["history_frames"] for row in report.parts["cost"]] == [64.0, 256.0]
    saved = json.loads((out / "report.json").read_text())
    assert saved["schema"] == 2 and saved["suite"] == "proof"
    assert {"gain_db.right", "gain_db.wrong_same_trajectory", "gain_db.other_scene", "gate_pass_rate"} <= set(
        saved["summary"]
    )
    for metric in saved["metrics"].values():
        assert len(metric["values"]) == len(saved["clips"])
    html = (out / "report.html").read_text()
    assert "data:video/mp4;base64," in html and "data:image/jpeg;base64," in html and "<svg" in html
    assert "http" not in html.replace("http-equiv", "")  # nothing is fetched from anywhere
    assert "| right |" in (out / "report.md").read_text()
    system.generate = system.walk = None  # a second run measures nothing again
    again = run_suite("proof", replace_walk(system), _settings(out), episodes)
    assert again.clips == report.clips and again.parts == report.parts


def replace_walk(system):
    """The same identity, but it must not be asked for pictures."""

    def refuse(*arguments):
        raise AssertionError("measured again")

    idle = Made(refuse, refuse)
    idle.identity = system.identity
    idle.chunk_frames, idle.rule, idle.size = system.chunk_frames, system.rule, system.size
    return idle


def test_shards_together_are_the_whole(episodes, tmp_path):
    system = Made(_nearest, _replay(episodes).walk)
    whole = _run(system, episodes, tmp_path / "whole")
    parts = tmp_path / "parts"
    parts.mkdir()
    for shard in ("0/2", "1/2"):
        partly = run_suite("proof", system, _settings(parts, shard=shard), episodes)
        assert not list(parts.glob("report.*")) and not list(parts.glob("clips/part_*"))  # left to the last run
    merged = run_suite("proof", system, _settings(parts), episodes)
    assert merged.clips == whole.clips == partly.clips
    assert {name.partition("_")[0] for name in merged.parts["drift"]} == {"one", "two"}
    assert [row["frame"] for row in next(iter(merged.parts["drift"].values()))] == [0.0]
    again = run_suite("proof", replace_walk(system), _settings(parts), episodes)  # drift and cost are kept too
    assert again.parts == merged.parts and again.numbers == merged.numbers
    assert not list(parts.rglob("*.partial"))
    for wrong in ("2/2", "x", "1"):
        with pytest.raises(UserError, match="shard"):
            ClipStore(tmp_path / "no", {}, EvaluateConfig(shard=wrong).shards)


def test_clips_of_other_settings_are_refused(episodes, tmp_path):
    system = Made(_nearest, _replay(episodes).walk)
    _run(system, episodes, tmp_path)
    with pytest.raises(UserError, match="other settings"):
        run_suite("proof", system, _settings(tmp_path, seed=1), episodes)


def test_a_quick_run_is_quick_in_all_its_parts():
    quick, whole = EvaluateConfig(suite="proof", clips=4), EvaluateConfig(suite="paper")
    assert (quick.num_walks, quick.num_drift_frames, quick.folder.as_posix()) == (4, 60, "outputs/proof")
    assert (whole.num_walks, whole.num_drift_frames, whole.folder.as_posix()) == (12, 600, "outputs/paper")
    given = replace(quick, walks=9, drift_frames=0)
    assert (given.num_walks, given.num_drift_frames) == (9, 0)


def test_shares_that_survive_a_swap():
    assert remaining_share(np.array([4.0, 4.0]), np.array([1.0, 1.0])) == pytest.approx(0.25)
    assert remaining_share(np.array([4.0]), np.array([-3.0])) == 0.0
    assert remaining_share(np.array([0.0]), np.array([0.0])) == 1.0
    assert remaining_share(np.array([-1.0]), np.array([-2.0])) == 1.0  # there was no gain to lose
    assert remaining_share(np.empty(0), np.empty(0)) is None


def test_the_gate_is_closed_to_a_walk_that_does_not_come_back(episodes):
    walk = choose_walks(episodes, 1, 0)[0]
    replay = _replay(episodes).walk
    middle = walk.away - walk.first - 1

    def stays_away(start_u8, start, path, rule, seed):
        made = replay(start_u8, start, path, "coverage", seed)
        made[middle:] = made[middle]
        return made

    def never_leaves(start_u8, start, path, rule, seed):
        return np.repeat(start_u8[-1:], len(path), axis=0)

    def noise(start_u8, start, path, rule, seed):
        return np.random.default_rng(seed).integers(0, 256, (len(path), HEIGHT, WIDTH, 3), dtype=np.uint8)

    def one_lucky_frame(start_u8, start, path, rule, seed):
        made = stays_away(start_u8, start, path, rule, seed)
        made[-1] = replay(start_u8, start, path, "coverage", seed)[-1]
        return made

    cases = ((replay, 1.0), (stays_away, 0.0), (never_leaves, 0.0), (noise, 0.0), (one_lucky_frame, 0.0))
    for walks, expected in cases:
        measured = measure_walk(Made(_nearest, walks), walk, 0, False)
        clip, film = measured.values, measured.arrays["film"]
        assert clip["gate.coverage"] == expected, walks
        assert (clip["walk_coverage.psnr_db"] is None) == (expected == 0.0)
    assert film.shape == (walk.back - walk.away + 1, 2 * HEIGHT, 2 * WIDTH, 3)
    assert (film[0, :, :WIDTH] == film[0, :, WIDTH:]).all()  # both sides begin at the farthest point


@pytest.mark.parametrize("seed", range(5))
def test_noise_never_passes_the_gate(episodes, seed):
    """On any walk, whichever of the recorded pictures noise happens to be nearer to."""
    rng = np.random.default_rng(seed)
    for walk in choose_walks(episodes, 4, seed):
        frames = walk.episode.frames()
        made = rng.integers(0, 256, (walk.back - walk.first, HEIGHT, WIDTH, 3), dtype=np.uint8)
        assert min(gate_margins_db(made, frames, walk)) < GATE_DB
        assert min(gate_margins_db(frames[walk.first + 1 : walk.back + 1], frames, walk)) > GATE_DB


def test_a_proof_needs_walks_that_pass_the_gate():
    """Right memory alone is not enough: without walks, or when recent frames pass as often, the verdict says so."""
    gains = {"right": 10.0, "recent": 1.0, "random": 2.0, "wrong_same_trajectory": 0.0, "other_scene": -1.0}
    returns = {f"return/{row}": {f"gain_db.{name}": value for name, value in gains.items()} for row in range(3)}
    for walks, failed in (
        ([(1.0, 0.0), (1.0, 1.0)], []),
        ([(1.0, 1.0)], ["more walks pass the gate with memory than without"]),
        ([(0.0, 0.0)], ["more walks pass the gate with memory than without"]),
        ([], ["walks that must leave and come back were measured"]),
    ):
        report = result.Report("proof", {}, {}, clips=dict(returns))
        for row, (memory, recent) in enumerate(walks):
            report.clips[f"walk/{row}"] = {"gate.coverage": memory, "gate.recent": recent}
        proof.judge(report)
        wrong = [name for name, holds in report.parts["conditions"].items() if not holds]
        assert set(failed) <= set(wrong) and len(wrong) == len(failed) + (not walks)
        assert report.summary["proven"] is (not wrong)


def test_one_episode_has_no_other_scene(episodes, tmp_path):
    report = run_suite("proof", _replay(episodes), _settings(tmp_path, drift_frames=0), episodes[:1])
    assert not report.having("other_scene.psnr_db") and "remaining.other_scene" not in report.summary
    assert any("another scene" in note for note in report.notes)
    assert "other scene |" not in (tmp_path / "report.md").read_text()


def test_another_recording_of_the_same_name_is_refused(episodes, tmp_path):
    """The stamp holds what was measured, not only what it is called."""
    system = Made(_nearest, _replay(episodes).walk)
    config = _settings(tmp_path / "out", drift_frames=0)
    run_suite("proof", system, config, episodes)
    changed = [episodes[0], _episode(tmp_path / "later", "two", 2)]
    with pytest.raises(UserError, match=r"other settings \(.*content"):
        run_suite("proof", system, config, changed)


def test_another_picture_of_the_same_name_is_refused(tmp_path, capsys):
    from context_as_memory.formats.pictures import write_image

    weights = save_model(tmp_path / "weights")
    words = ["evaluate", "--suite", "revisit", "--image", str(tmp_path / "photo.png"), "--weights", str(weights)]
    words += ["--clips", "1", "--out", str(tmp_path / "out")]
    for seed, code in ((0, 0), (0, 0), (1, 2)):
        picture = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        write_image(tmp_path / "photo.png", picture)
        assert main(words) == code
    assert "content" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["clips"] == ["mirror/photo/turn"]
    assert main([*words, "--hfov-deg", "60"]) == 2


def test_metrics_without_their_network_are_left_out_before_the_run(episodes, tmp_path, monkeypatch):
    """No network in the cache: no error at the end, no names of metrics that were not computed, a note instead."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(run, "fetched", result.fetched)
    for load in result._LOADERS.values():
        load.cache_clear()
    system = Made(_nearest, lambda start_u8, start, path, rule, seed: paint_room(path))
    config = replace(_settings(tmp_path / "out"), suite="paper", clips=2, walks=2, seeds=1)
    report = run_suite("paper", system, config, episodes)
    assert report.networks == [] and not report.variants() and not report.numbers
    assert any(note.startswith("LPIPS, FID, FVD left out") for note in report.notes)
    saved = (tmp_path / "out" / "report.json").read_text()
    assert "AlexNet" not in saved and "Inception" not in saved
    assert "left out: the networks" in (tmp_path / "out" / "report.md").read_text()


def test_reports_name_the_archives_of_their_networks():
    report = result.Report("paper", {}, {"sha256": None}, ["lpips", "fid", "fvd"])
    report.clips["chunk/one"] = {"coverage.lpips_minus_first": 0.1}
    report.numbers["history_fid.coverage"] = {"mean": 1.0}  # and no FVD: its network is there, but was of no use
    text = "".join(report.footer())
    for source in result.SOURCES:
        assert (source.sha256 in text) == (source.title != "FVD")
    assert set(report.json()["settings"]) >= {"lpips", "fid"} and "fvd" not in report.json()["settings"]


def test_revisit_from_a_picture(tmp_path, capsys):
    from context_as_memory.formats.pictures import write_image

    weights = save_model(tmp_path / "weights")
    write_image(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    out = tmp_path / "out"
    words = ["evaluate", "--suite", "revisit", "--image", str(tmp_path / "photo.png"), "--weights", str(weights)]
    assert main([*words, "--out", str(out)]) == 0
    saved = json.loads((out / "report.json").read_text())
    assert saved["clips"] == ["mirror/photo/turn", "mirror/photo/walk", "closure/photo"]
    assert saved["metrics"]["history_coverage.psnr_db"]["n"] >= 1
    assert saved["metrics"]["closure.psnr_db"]["protocol"] == "closure"
    assert main([*words, "--out", str(out), "--clips", "0"]) == 2
    assert "--clips" in capsys.readouterr().err


def test_no_episodes_is_one_clear_error(tmp_path):
    config = EvaluateConfig(
        suite="proof", out=tmp_path / "out", data=str(tmp_path), weights=str(save_model(tmp_path / "weights"))
    )
    with pytest.raises(UserError, match=r"episode|no data set"):
        evaluate(config)


def test_the_papers_tables(episodes, tmp_path):
    """Copying from memory: more context is never worse, and every cell of the tables is filled."""

    def walk(start_u8, start, path, rule, seed):
        known = Cameras.concat([start, path])
        for number, first in enumerate(range(0, len(path), CHUNK)):
            rows = rule(known[: 1 + first], path[first : first + CHUNK], seed + number, np.arange(1 + first) < 1)
            assert rows[-1] == first and len(set(rows.tolist())) == len(rows)
        return paint_room(path)

    config = replace(_settings(tmp_path), suite="paper", walks=2, seeds=2)
    system = Made(_nearest, walk)
    report = run_suite("paper", system, config, episodes)
    assert report.settings["clips"] == 8 == len(report.having("coverage.psnr_db"))  # as many as asked for
    assert report.values("coverage@30.psnr_db").mean() >= report.values("coverage@1.psnr_db").mean()
    assert report.values("coverage.psnr_db").mean() > report.values("first.psnr_db").mean()
    # Walks in a painted room come back to the very pictures that they left, by every rule and size.
    for name in paper.rows_of(system.rule):
        assert report.values(f"history_{name}.psnr_db").min() > 60
    assert report.interval("first.context_frames").mean == report.interval("framepack.context_frames").mean == 2
    assert report.interval("recent.context_frames").mean == 4
    assert report.interval("history_first.context_frames").mean <= 2
    gaps = report.values("first.psnr_db") - report.values("coverage.psnr_db")
    np.testing.assert_allclose(report.values("first.psnr_db_minus_coverage"), gaps)
    text = (tmp_path / "report.md").read_text()
    for name in ("first random", "framepack", "fov nonadjacent far", "| 30 |", "8 of 2 episodes", "budget is smaller"):
        assert name in text
    page = (tmp_path / "report.html").read_text()
    assert "data:video/mp4;base64," in page and "data:image/jpeg;base64," in page and "<svg" in page
    assert run_suite("paper", system, config, episodes).clips == report.clips


def test_the_first_frame_row_is_the_first_frame():
    path = cameras_from_actions(look(np.zeros((1, 3)), 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT), "w-20")
    for size in (2, 8):
        assert choices(RetrievalConfig())["first"](path[:12], path[12:14], size, 0, None).tolist() == [0, 11]
    assert choices(RetrievalConfig())["first"](path[:1], path[1:2], 8, 0, None).tolist() == [0]
    drawn = {
        tuple(choices(RetrievalConfig())["first_random"](path[:12], path[12:14], 4, seed, None).tolist())
        for seed in range(6)
    }
    assert len(drawn) > 3 and {(rows[0], rows[-1], len(rows)) for rows in drawn} == {(0, 11, 4)}


def test_clips_for_fvd_turn_on_the_spot(episodes):
    start = look(np.zeros((1, 3)), 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    starts = paper.turning_starts(cameras_from_actions(start, "w-30,j-40,w-30"))
    assert starts.tolist() == [24, 40, 56]  # the turn is from frame 30 to 69
    assert paper.turning_clips(episodes, 3).shape == (3, paper.CLIP, HEIGHT, WIDTH, 3)


def test_distances_pool_all_seeds_and_say_how_many(episodes, tmp_path, monkeypatch):
    def walk(start_u8, start, path, rule, seed):
        return paint_room(path)

    monkeypatch.setattr(run, "fetched", lambda wanted=(): ["fid", "fvd"])
    monkeypatch.setattr(paper, "fid", lambda made, truth: float(len(made)))
    monkeypatch.setattr(paper, "fvd", lambda made, truth: float(len(truth)))
    config = replace(_settings(tmp_path), suite="paper", clips=3, walks=2, seeds=2)
    report = run_suite("paper", Made(_nearest, walk), config, episodes)
    assert report.numbers["fid.framepack"] == {"mean": 12.0, "n": 12, "reference": 6}  # 3 clips of 2 frames, 2 seeds
    assert report.numbers["history_fvd.recent"]["n"] == 4
    assert report.numbers["history_fid.first"]["mean"] > 20 and "history_fid.framepack" not in report.numbers
    assert "12.0 (12 : 6)" in (tmp_path / "report.md").read_text()


def test_a_world_walks_by_a_given_rule(tmp_path):
    world = World.from_pretrained(save_model(tmp_path / "weights"), device="cpu")
    system = WorldSystem(world, "tiny", "")
    start = look(np.zeros((1, 3)), 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    path, first = cameras_from_actions(start, "j-12"), paint_room(start)
    for name in ("recent", "coverage"):
        choose = choices(system.rule)[name]
        by_name = system.walk(first, start, path, name, 3)
        by_rule = system.walk(first, start, path, lambda m, t, seed, g, c=choose: c(m, t, 3, seed, g), 3)
        np.testing.assert_array_equal(by_name, by_rule)


def test_compressed_history_gives_each_older_frame_half_of_the_rest():
    frames = np.stack([np.full((32, 64, 3), value, np.uint8) for value in (10, 20, 30, 40, 250)])
    packed = compressed_history(frames)
    assert (packed[:, :32] == 40).all()  # the newest but one: half of the width
    assert (packed[:16, 32:] == 30).all()  # then half of the height of the rest
    assert (packed[16:, 32:48] == 20).all()
    assert not (packed == 250).any()


# -- videos of others --------------------------------------------------------------------------------------------------


def _foreign(folder, name: str, pictures: np.ndarray, cameras: Cameras) -> None:
    with VideoWriter(folder / f"{name}.mp4", WIDTH, HEIGHT, 15, lossless=True) as video:
        video.write(pictures)
    (folder / name).mkdir()
    np.save(folder / name / "poses.npy", cameras.c2w)
    np.save(folder / name / "intrinsics.npy", cameras.K)


def test_videos_of_others_are_scored_by_their_returns(tmp_path, capsys):
    """Rendered pictures return at the ceiling; returns that are 20 grey levels brighter have the PSNR of that."""
    start = look(np.zeros((1, 3)), 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    cameras = Cameras.concat([start, cameras_from_actions(start, "j-40,none-4,l-40")])
    pictures = np.clip(paint_room(cameras), 0, 230)
    faded = pictures.copy()
    faded[len(faded) // 2 :] += 20
    for name, frames in (("faded", faded), ("true", pictures)):
        _foreign(tmp_path, name, frames, cameras)
    words = ["evaluate", "--videos", str(tmp_path), "--cameras", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["suite"] == "videos" and saved["clips"] == ["faded", "true"]
    faded_db, true_db = saved["metrics"]["return.psnr_db"]["values"]
    assert true_db > 60
    assert faded_db == pytest.approx(20 * np.log10(255 / 20), abs=0.1)


def test_foreign_input_that_does_not_fit_is_one_clear_error(tmp_path, capsys):
    start = look(np.zeros((1, 3)), 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    folder, empty = tmp_path / "theirs", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    _foreign(folder, "short", np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), Cameras.concat([start, start]))
    out = ["--out", str(tmp_path / "out")]
    for words, expected in (
        (["--videos", str(folder), "--cameras", str(folder)], "3 frames"),
        (["--videos", str(folder), "--cameras", str(empty)], "has no cameras"),
        (["--videos", str(empty), "--cameras", str(empty)], "no videos"),
        (["--cameras", str(folder)], "--videos"),
        ([], "--suite"),
    ):
        assert main(["evaluate", *words, *out]) == 2
        assert expected in capsys.readouterr().err
