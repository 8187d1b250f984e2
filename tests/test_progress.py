"""The progress bar: what it says, where, and that it can be silent."""

import pytest

from context_as_memory.progress import ProgressBar, tracked


def test_it_counts_on_stderr_and_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("walking", 8, unit="frames") as bar:
        bar.advance(3, note="quick")
        bar.reach(5)
    out, err = capsys.readouterr()
    assert out == "" and "walking" in err and "5/8" in err and "frames" in err and "quick" in err


def test_items_pass_through_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked((letter for letter in "abc"), 3, "reading", "files")) == ["a", "b", "c"]
    assert "3/3" in capsys.readouterr().err


def test_it_is_silent_where_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked([], 0, "reading", "files")) == []
    with ProgressBar("walking", 8, shown=False) as bar:
        bar.advance(8)
    assert capsys.readouterr() == ("", "")
