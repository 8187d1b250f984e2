"""Metrics, returns, reports and the ground-truth protocol, on a painted room and a tiny real world."""

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.evaluation.metrics import mean_interval, psnr, resampled_means, ssim
from context_as_memory.evaluation.report import write_json
from context_as_memory.evaluation.returns import (
    LEFT_SHARE,
    RECENT_FRAMES,
    SEEN_SHARE,
    Visit,
    find_returns,
    pose_distance,
    return_tasks,
    seen_share,
    visits,
)
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.formats.pictures import read_image, write_image
from context_as_memory.formats.places import known_place, start_folder, start_frame, start_names
from context_as_memory.pictures.inspector import InspectedChunk, draw_inspector
from context_as_memory.pictures.sheets import SideBySide, contact_sheet
from context_as_memory.retrieval import Retrieval, RetrievalConfig, retrieve
from context_as_memory.walk.recorder import choose_chunks
from context_as_memory.walk.report import closure_report, compare_visits, returns_report, timing
from tiny import ROOM_HEIGHT as HEIGHT
from tiny import ROOM_WIDTH as WIDTH
from tiny import paint_room, transformed


def path_of(actions: str, width: int = WIDTH, height: int = HEIGHT) -> Cameras:
    start = look((0.0, 0.0, 0.0), 0.0, pinhole(90, width, height), width, height)
    return Cameras.concat([start, cameras_from_actions(start, actions)])


def noise_frames(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 16, 20, 3), dtype=np.uint8)


# --- metrics
# ------------------------------------------------------------------------------------------------------------


def test_psnr_equals_its_formula_in_both_ranges() -> None:
    a, b = noise_frames(3, 0), noise_frames(3, 1)
    expected = [10 * np.log10(255**2 / ((x.astype(float) - y) ** 2).mean()) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(psnr(a, b), expected)
    np.testing.assert_allclose(psnr(a / 127.5 - 1, b / 127.5 - 1, data_range=2.0), expected)
    assert psnr(a[0], a[0]) == 100.0


def test_ssim_orders_pictures_and_ignores_the_range() -> None:
    a = noise_frames(2)
    noise = np.random.default_rng(1).normal(0, 25, a.shape)
    b = np.clip(a + noise, 0, 255).astype(np.uint8)
    np.testing.assert_allclose(ssim(a, a), 1.0)
    assert (ssim(a, b) < 0.999).all() and (ssim(a, b) > ssim(a, noise_frames(2, 5))).all()
    np.testing.assert_allclose(ssim(a / 127.5 - 1, b / 127.5 - 1, data_range=2.0), ssim(a, b), atol=1e-9)


def test_metrics_refuse_unlike_pictures_and_wrong_ranges() -> None:
    a = noise_frames(1)
    with pytest.raises(UserError, match="equal in shape"):
        psnr(a, a[:, :8])
    with pytest.raises(UserError, match="one type"):
        psnr(a, a.astype(float))
    with pytest.raises(UserError, match="span 255"):
        psnr(a, a, data_range=1.0)
    with pytest.raises(UserError, match="more than data_range"):
        psnr(a.astype(float), a.astype(float), data_range=2.0)
    with pytest.raises(UserError, match="7x7"):
        ssim(a[:, :5, :5], a[:, :5, :5])


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = mean_interval(rng.normal(3.0, 1.0, 40), seed=seed, num_resamples=300)
        hits += interval.low <= 3.0 <= interval.high
    assert 175 <= hits <= 199  # 95 % of 200 is 190; percentile intervals of 40 values are a little narrow


def test_interval_is_seeded_and_needs_finite_values() -> None:
    values = np.random.default_rng(0).normal(size=9)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4) != mean_interval(values, seed=5)
    one = mean_interval(np.array([2.0]))
    assert (one.mean, one.low, one.high, one.num) == (2.0, 2.0, 2.0, 1)
    for bad in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(UserError, match="finite"):
            mean_interval(bad)


def test_interval_of_clips_of_few_episodes_is_wider() -> None:
    """Clips of an episode that say the same add no certainty; resampled as independent they would seem to."""
    values, groups = np.repeat([1.0, 2.0, 4.0], 20), ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    alone, together = mean_interval(values), mean_interval(values, groups)
    assert together.mean == alone.mean and together.num == 60
    assert together.high - together.low > 3 * (alone.high - alone.low)
    three = mean_interval(np.array([1.0, 2.0, 4.0]))
    assert (together.low, together.high) == (three.low, three.high)


def test_resampled_rows_stay_together() -> None:
    values = np.random.default_rng(0).normal(size=(7, 1)) * [1.0, -2.0]
    means = resampled_means(values, ["a", "a", "b", "b", "b", "b", "c"])
    np.testing.assert_allclose(means[:, 1], -2 * means[:, 0])
    assert means.min() >= values.min() and means.max() <= values.max()


# --- returns
# ------------------------------------------------------------------------------------------------------------


def test_pose_distance_equals_plain_loops() -> None:
    a, b = path_of("jw-5,iw-3").c2w, path_of("l-4,s-2").c2w
    metres, radians = pose_distance(a, b)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            assert metres[i, j] == pytest.approx(np.linalg.norm(p[:3, 3] - q[:3, 3]))
            cosine = (np.trace(p[:3, :3].T @ q[:3, :3]) - 1) / 2
            assert radians[i, j] == pytest.approx(np.arccos(np.clip(cosine, -1, 1)), abs=1e-6)


def test_looking_away_and_back_is_one_return() -> None:
    cameras = path_of("j-40,l-40")
    pairs = find_returns(cameras)
    assert pairs.tolist()[-1] == [0, 80]
    assert all(first + last == 80 for first, last in pairs)  # the way back mirrors the way out
    (visit,) = visits(pairs)
    assert visit.gap_frames == 80
    # At 120 degrees a camera with a field of view of 90 shows less than a quarter of views below about 52 degrees.
    assert 14 <= len(visit.frames) <= 20


@pytest.mark.parametrize("actions", ["j-10,l-10,none-30", "none-60", "w-60", "j-40,w-3,l-40"])
def test_no_return_without_looking_away_or_to_another_place(actions: str) -> None:
    assert find_returns(path_of(actions)).shape == (0, 2)


def test_every_return_of_a_long_path_satisfies_the_definition() -> None:
    cameras = path_of("j-40,l-40,w-12,l-30,w-12,l-30,w-12,l-30,w-12,l-30,w-8")
    pairs = find_returns(cameras)
    assert {visit.gap_frames > 150 for visit in visits(pairs)} == {True, False}
    for first, frame in pairs[::6].tolist():
        metres, radians = pose_distance(cameras.c2w[[first]], cameras.c2w[[frame]])[:, 0, 0]
        assert frame - first >= 24 and metres <= 0.2 and radians <= np.radians(5)
        windows = [seen_share(cameras[k : k + RECENT_FRAMES], cameras[frame])[0] for k in range(first, frame - 3, 2)]
        assert min(windows) < LEFT_SHARE


def test_returns_do_not_depend_on_where_the_world_is() -> None:
    cameras = path_of("j-40,l-40,w-6")
    moved = np.eye(4)
    moved[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    moved[:3, 3] = (30.0, -4.0, 7.0)
    np.testing.assert_array_equal(find_returns(transformed(cameras, moved)), find_returns(cameras))


def test_return_tasks_satisfy_the_definition_with_as_little_withheld_as_possible() -> None:
    cameras = path_of("j-60,l-60,w-10,l-30,w-5,j-30")
    tasks = return_tasks(cameras, 4, stride=8)
    assert len(tasks) >= 3

    def holds(now: int, start: int) -> bool:
        ends = cameras[[start, start + 3]]
        long_ago, lately = seen_share(cameras[:now], ends), seen_share(cameras[now - RECENT_FRAMES : now], ends)
        return bool((long_ago >= SEEN_SHARE).all() and (lately < LEFT_SHARE).all())

    for now, start in tasks.tolist():
        assert start - 64 <= now <= start and holds(now, start)
        assert not any(holds(other, start) for other in range(now + 4, start + 1, 4))
    missing = set(range(12, len(cameras) - 3, 8)) - set(tasks[:, 1].tolist())
    assert missing
    for start in sorted(missing)[::3]:
        assert not any(holds(now, start) for now in range(start, max(start - 64, RECENT_FRAMES) - 1, -4))


def test_nothing_is_seen_without_a_past_and_all_of_a_view_by_itself() -> None:
    cameras = path_of("j-5")
    assert seen_share(cameras[:0], cameras).tolist() == [0.0] * 6
    assert seen_share(cameras[2], cameras[2])[0] == 1.0


# --- reports and pictures
# -------------------------------------------------------------------------------------------------


def test_returns_report_tells_a_memory_from_none() -> None:
    cameras = path_of("j-40,l-40")
    true = paint_room(cameras)
    forgetful = true.copy()
    forgetful[60:] = 255 - forgetful[60:]  # another world after looking away
    found = visits(find_returns(cameras))
    report = returns_report({"with_memory": list(true), "without_memory": list(forgetful)}, found)
    assert report["with_memory"]["psnr"]["mean"] > 30 > 15 > report["without_memory"]["psnr"]["mean"]
    assert report["num_visits"] == len(report["visits"]) == 1
    assert report["with_memory"]["psnr"]["low"] is None  # one visit has no interval
    json.dumps(report, allow_nan=False)
    assert returns_report({"with_memory": list(true)}, [])["with_memory"] == {"psnr": None, "ssim": None}


def test_closure_report_compares_with_the_given_picture_and_not_with_the_video_itself() -> None:
    cameras = path_of("j-40,l-40,j-40,l-40")
    true = paint_room(cameras)
    drifted = true.copy()
    drifted[1:] = np.clip(true[1:].astype(int) + 25, 0, 255)  # agrees with itself, but not with what was given
    pairs = find_returns(cameras)
    found = closure_report({"true": list(true), "drifted": list(drifted)}, cameras)
    assert found is not None
    assert found["frames"] == [80, 160] and found["largest_distance_m"] == found["largest_angle_deg"] == 0
    assert found["true"]["psnr"] > 40 and found["drifted"]["psnr"] == pytest.approx(20 * np.log10(255 / 25), abs=0.5)
    itself = returns_report({"drifted": list(drifted)}, visits(pairs[pairs[:, 0] > 0]))
    assert itself["drifted"]["psnr"]["mean"] > found["drifted"]["psnr"] + 10
    assert closure_report({"true": list(true)}, cameras[:70]) is None


def test_returns_are_scored_one_by_one_with_the_same_bits_and_little_memory() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (160, 96, 160, 3), dtype=np.uint8)
    frames[80:] = np.clip(frames[:80].astype(int) + np.arange(80)[:, None, None, None] // 4, 0, 255)
    visit = Visit(np.arange(80, 104), np.arange(24))
    tracemalloc.start()
    found = compare_visits(frames, [visit])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    together = psnr(frames[80:104], frames[:24]).mean(), ssim(frames[80:104], frames[:24]).mean()
    assert (found["psnr"][0], found["ssim"][0]) == together
    assert peak < 16 * 8 * frames[0].size  # some pictures in float64; together they took 6 times as much


def test_timing_summarises_stages() -> None:
    chunks = [{"retrieve": 0.1, "encode": 0.0, "denoise": float(s), "decode": 0.4} for s in (1, 2, 6)]
    table = timing(chunks, 12)
    assert table["seconds_per_chunk"]["denoise"] == {"mean": 3.0, "median": 2.0, "p95": 5.6}
    assert table["frames_per_second"] == pytest.approx(12 / 10.5, abs=1e-3)
    assert timing([], 0)["frames_per_second"] is None


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "r.json", {"a": float("nan")})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": 1} and os.listdir(tmp_path) == ["r.json"]


def test_comparison_frames_show_both_runs_and_the_mark() -> None:
    comparison = SideBySide(20, 16, ("on", "off"))
    red, blue = np.full((16, 20, 3), (250, 0, 0), np.uint8), np.full((16, 20, 3), (0, 0, 250), np.uint8)
    plain = comparison.compose((red, blue), 7)
    assert plain.shape == (comparison.size[1], comparison.size[0], 3)
    assert comparison.size[0] % 2 == comparison.size[1] % 2 == 0
    middle, half = comparison.size[1] // 2 + comparison.head // 4, comparison.size[0] // 4
    assert plain[middle, half].tolist() == [250, 0, 0] and plain[middle, 3 * half].tolist() == [0, 0, 250]
    returned = comparison.compose((red, blue), 7, first=2, then=(blue, red))
    assert (returned[: comparison.head] != plain[: comparison.head]).any()
    assert (returned == [0, 0, 250]).all(-1)[:, : 2 * half].any()  # the first visit, small, inside the left picture
    assert (comparison.compose((red, blue), 7, revisited=True)[: comparison.head] != plain[: comparison.head]).any()


def test_contact_sheet_has_a_cell_for_every_picture() -> None:
    frames = noise_frames(3)
    sheet = contact_sheet([[(frames[0], "a"), (frames[1], "b")], [(frames[2], "c")]], ("one", "two"), scale=1)
    for frame in frames:  # at scale 1 pictures appear unchanged
        windows = np.lib.stride_tricks.sliding_window_view(sheet, frame.shape)[:, :, 0]
        assert (windows == frame).all((-1, -2, -3)).sum() == 1
    with pytest.raises(UserError, match="at least one"):
        contact_sheet([], ())


def test_inspected_chunks_are_the_returns_in_order_of_time() -> None:
    cameras = path_of("j-40,l-40,w-12,l-30,w-12,l-30,w-12,l-30,w-12,l-30,w-8")
    starts = list(range(1, len(cameras), 4))
    empty = Retrieval(np.array([0]), np.array([1.0]), np.array([], np.int64))
    chunks = choose_chunks(starts, [empty] * len(starts), find_returns(cameras))
    targets = [chunk.target for chunk in chunks]
    assert targets == sorted(targets) and 3 <= len(chunks) <= 5
    returned = dict(find_returns(cameras)[:, ::-1].tolist())
    assert all(chunk.first == returned.get(chunk.target) for chunk in chunks)
    assert sum(chunk.first is not None for chunk in chunks) >= 3
    assert choose_chunks([], [], np.empty((0, 2), np.int64)) == []
    assert len(choose_chunks([1, 5], [empty] * 2, np.empty((0, 2), np.int64))) >= 1


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_inspector_picture_is_drawn_for_any_number_of_rows(tmp_path: Path, rows: int) -> None:
    cameras = path_of("j-4,w-4")
    frames = paint_room(cameras)
    answer = retrieve(cameras[:6], cameras[6:8], RetrievalConfig(max_context=2 + rows), recent=5)
    chunks = [InspectedChunk(6, answer, first=None if row else 0) for row in range(rows)]
    draw_inspector(tmp_path / "i.png", cameras, list(frames), chunks, title="t", subtitle="s")
    picture = read_image(tmp_path / "i.png")
    assert picture.std() > 5 and os.listdir(tmp_path) == ["i.png"]
    if rows:  # the target's frame is orange, the recent one's grey
        assert (np.abs(picture.astype(int) - [0xE8, 0x59, 0x0C]).max(-1) < 3).sum() > 100
    draw_inspector(tmp_path / "one.png", cameras[:1], list(frames[:1]), [])


# --- start frames
# ---------------------------------------------------------------------------------------------------------


def test_start_frames_are_found_by_name(tmp_path: Path) -> None:
    frame = noise_frames(1)[0]
    about = {"position": [1, 2, 3], "yaw_deg": 90, "fx": 10, "fy": 10, "cx": 10, "cy": 8, "map": "m", "licence": "l"}
    for name in ("b", "a"):
        write_image(tmp_path / f"{name}.png", frame)
        (tmp_path / f"{name}.json").write_text(json.dumps(about))
    assert start_names(tmp_path) == ["a", "b"]
    start = start_frame(None, tmp_path)
    assert start.name == "a" and start.about["map"] == "m"
    np.testing.assert_array_equal(start.frame, frame)
    np.testing.assert_allclose(start.camera.position, [[1, 2, 3]])
    np.testing.assert_allclose(start.camera.forward, [[0, 1, 0]], atol=1e-12)
    with pytest.raises(UserError, match="choose one of a, b"):
        start_frame("c", tmp_path)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match="b.json is damaged"):
        start_frame("b", tmp_path)
    with pytest.raises(UserError, match="--image"):
        start_frame(None, tmp_path / "none")


@pytest.mark.parametrize("name", start_names())
def test_a_known_place_ends_with_its_start_frame(name: str) -> None:
    frames, cameras = known_place(name)
    start = start_frame(name)
    assert len(frames) == len(cameras) > 20
    np.testing.assert_allclose(cameras.c2w[-1], start.camera.c2w[0], atol=1e-3)
    assert np.abs(frames[-1].astype(int) - start.frame).mean() < 6  # the film is compressed
    turns = np.unwrap(np.arctan2(cameras.forward[-24:, 1], cameras.forward[-24:, 0]))
    np.testing.assert_allclose(np.diff(turns), np.radians(15), atol=1e-3)  # a full turn on the spot


def test_a_known_place_whose_poses_are_gone_is_named(tmp_path: Path) -> None:
    for suffix in (".png", ".mp4"):
        shutil.copy(start_folder() / f"vault{suffix}", tmp_path)
    about = json.loads((start_folder() / "vault.json").read_text())
    few, ragged = about["seen"][:3], [[1, 2], [3]]
    for seen, words in ((few, "3 poses"), (None, "poses"), (ragged, "damaged"), ("far", "damaged")):
        (tmp_path / "vault.json").write_text(json.dumps({**about, "seen": seen}))
        with pytest.raises(UserError, match=words):
            known_place("vault", tmp_path)
