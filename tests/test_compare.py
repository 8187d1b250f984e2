"""Two reports side by side."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.evaluation.compare import compare


def _report(path, values, clips=None, **changes):
    clips = clips or [f"clip/{row}" for row in range(len(values))]
    report = {"schema": 2, "suite": "proof", "settings": {"seed": 0}, "weights": {"sha256": "a"}, "clips": clips}
    report["metrics"] = {"right.psnr_db": {"values": values}}
    path.write_text(json.dumps(report | changes))
    return path


def test_paired_differences_are_those_of_the_clips(tmp_path, capsys):
    """A constant gain on clips that differ widely: paired, its interval has no width."""
    a = _report(tmp_path / "a.json", [10.0, 20.0, 30.0, None])
    b = _report(tmp_path / "b.json", [11.0, 21.0, 31.0, 5.0], settings={"seed": 1})
    answer = compare(a, b, tmp_path / "out.json")
    assert answer == json.loads((tmp_path / "out.json").read_text())
    found = answer["differences"]["right.psnr_db"]
    assert found == {"mean": pytest.approx(1.0), "low": pytest.approx(1.0), "high": pytest.approx(1.0), "paired": True}
    assert answer["settings_differ"] == {"seed": [0, 1]}
    assert "seed: 0 -> 1" in capsys.readouterr().out


def test_other_clips_are_compared_as_groups(tmp_path):
    a = _report(tmp_path / "a.json", [10.0, 12.0, 11.0])
    b = _report(tmp_path / "b.json", [20.0, 22.0, 21.0], clips=["x", "y", "z"], weights={"sha256": "b"})
    answer = compare(a, b)
    found = answer["differences"]["right.psnr_db"]
    assert found["mean"] == pytest.approx(10.0) and not found["paired"]
    assert found["low"] < 10 < found["high"]
    assert answer["settings_differ"] == {"weights": ["a", "b"]}


def test_numbers_without_clips_are_compared_too(tmp_path, capsys):
    numbers = ({"fid.first": {"mean": 200.0, "n": 12}, "only": {"mean": 1.0}}, {"fid.first": {"mean": 180.0, "n": 12}})
    a, b = (_report(tmp_path / f"{name}.json", [1.0, 2.0], numbers=n) for name, n in zip("ab", numbers, strict=True))
    found = compare(a, b)["differences"]
    assert found["fid.first"] == {"mean": -20.0, "low": None, "high": None, "paired": False} and "only" not in found
    assert "fid.first" in capsys.readouterr().out


def test_clips_of_one_episode_are_resampled_together(tmp_path):
    values, groups = [0.0] * 10 + [4.0] * 10, ["a"] * 10 + ["b"] * 10
    zero = [0.0] * 20
    alone = compare(_report(tmp_path / "a.json", zero), _report(tmp_path / "b.json", values))["differences"]
    ours = [_report(tmp_path / f"{name}.json", v, groups=groups) for name, v in (("c", zero), ("d", values))]
    together = compare(*ours)["differences"]["right.psnr_db"]
    assert (together["low"], together["high"]) == (0.0, 4.0)  # two episodes say little
    assert alone["right.psnr_db"]["low"] > 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "no report"),
        ("[]", "is no report"),
        ('{"schema": 1}', "schema 1"),
        ('{"clips": [], "metrics": {}, "settings": {}}', "is no report"),
        ('{"schema": 2, "clips": []}', "lacks 'metrics'"),
        ('{"schema": 2, "clips": [1], "metrics": {}, "settings": {}}', "'clips' are not names"),
        ('{"schema": 2, "clips": ["a", "a"], "metrics": {}, "settings": {}}', "'clips' are not names"),
        (
            '{"schema": 2, "clips": ["a"], "metrics": {"m": {"values": []}}, "settings": {}}',
            "metric 'm' has no 'values'",
        ),
        ('{"schema": 2, "clips": ["a"], "metrics": {"m": {"mean": 1}}, "settings": {}}', "metric 'm' has no 'values'"),
        (
            '{"schema": 2, "clips": ["a"], "metrics": {"m": {"values": [NaN]}}, "settings": {}}',
            "a finite number or null",
        ),
        (
            '{"schema": 2, "clips": ["a"], "metrics": {"m": {"values": ["1"]}}, "settings": {}}',
            "a finite number or null",
        ),
        ('{"schema": 2, "clips": [], "metrics": {}, "settings": {}, "weights": [1]}', "'weights' names no fields"),
    ],
)
def test_what_is_no_report_is_one_clear_error(tmp_path, text, words, capsys):
    good = _report(tmp_path / "a.json", [1.0])
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert main(["compare", str(good), str(bad)]) == 2
    assert words in capsys.readouterr().err
    with pytest.raises(UserError, match="like with like"):
        compare(good, _report(tmp_path / "b.json", [1.0], suite="paper"))


def test_a_report_that_is_missing_is_named(tmp_path, capsys):
    good = _report(tmp_path / "a.json", [1.0])
    assert main(["compare", str(good), str(tmp_path / "nowhere.json")]) == 2
    assert "nowhere.json is no report" in capsys.readouterr().err


def test_the_command_prints_a_table_and_writes_the_same(tmp_path, capsys, monkeypatch):
    """A sure gain is marked, a difference about zero is not; metrics of one report alone are named."""
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    a = _report(tmp_path / "a.json", (20 + noise).tolist())
    b = _report(tmp_path / "b.json", (23 + noise).tolist(), weights=None)
    for path, extra in ((a, (0 * noise).tolist()), (b, np.tile([1.0, -1.0], 20).tolist())):
        report = json.loads(path.read_text())
        report["metrics"]["even"] = {"values": extra}
        report["metrics"][f"only_{path.stem}"] = {"values": extra}
        path.write_text(json.dumps(report))
    assert main(["compare", str(a), str(b), "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[1]: line for line in shown.splitlines() if "psnr_db" in line or "even" in line}
    assert "+3.000 *" in lines["right.psnr_db"] and "[+3.000, +3.000]" in lines["right.psnr_db"]
    assert "*" not in lines["even"]
    for name in ("a", "b"):
        assert f"{name}.json: only_{name}" in shown.replace("\n", "")
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written["differences"]) == {"right.psnr_db", "even"}
    assert written["settings_differ"] == {"weights": ["a", None]}


def test_single_values_are_never_sure(tmp_path, capsys):
    """One clip each has no spread to judge by, so nothing is marked."""
    answer = compare(_report(tmp_path / "a.json", [1.0]), _report(tmp_path / "b.json", [2.0]))
    found = answer["differences"]["right.psnr_db"]
    assert (found["mean"], found["low"], found["high"], found["paired"]) == (1.0, 1.0, 1.0, False)
    assert "+1.000 *" not in capsys.readouterr().out


def test_a_metric_without_values_is_left_out(tmp_path):
    a = _report(tmp_path / "a.json", [None, None])
    assert compare(a, _report(tmp_path / "b.json", [1.0, 2.0]))["differences"] == {}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(st.floats(-50, 50), st.none() | st.floats(-50, 50)), min_size=2, max_size=12),
    order=st.randoms(),
)
def test_pairs_are_found_by_name_in_any_order_and_turn_round(tmp_path, values, order):
    """The order of clips does not matter, and exchanging the reports changes the sign."""
    names = [f"clip/{row}" for row in range(len(values))]
    a = _report(tmp_path / "a.json", [x for x, _ in values], names)
    shuffled = list(zip(names, (y for _, y in values), strict=True))
    order.shuffle(shuffled)
    b = _report(tmp_path / "b.json", [y for _, y in shuffled], [name for name, _ in shuffled])
    there, back = (compare(*reports)["differences"].get("right.psnr_db") for reports in ((a, b), (b, a)))
    both = [(x, y) for x, y in values if y is not None]
    if not both:
        assert there is None and back is None
        return
    assert there["paired"] == (len(both) >= 2)
    if there["paired"]:
        assert there["mean"] == pytest.approx(np.mean([y - x for x, y in both]))
        assert there["low"] == pytest.approx(-back["high"]) and there["high"] == pytest.approx(-back["low"])
    assert there["mean"] == pytest.approx(-back["mean"])
    assert there["low"] <= there["mean"] + 1e-9 and there["mean"] <= there["high"] + 1e-9
