"""Two reports side by side."""

import json

import pytest

from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.evaluation.compare import compare


def _report(path, values, clips=None, **changes):
    clips = clips or [f"clip/{row}" for row in range(len(values))]
    report = {"schema": 1, "suite": "proof", "settings": {"seed": 0}, "weights": {"sha256": "a"}, "clips": clips}
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "no report"),
        ("[]", "schema"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1, "clips": []}', "lacks 'metrics'"),
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
