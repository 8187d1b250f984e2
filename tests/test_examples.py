"""The examples run, and show what they say."""

import re
import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_memory_for_your_generator_finds_the_first_time_around(capsys):
    runpy.run_path(str(EXAMPLES / "memory_for_your_generator.py"), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if "second time around" in line]
    assert len(lines) >= 8
    for line in lines:
        start, end, *context = (int(number) for number in re.findall(r"\d+", line))
        assert context[-1] == start - 1, "the most recent frame, last"
        assert any(start - 48 - 4 <= frame <= end - 48 + 4 for frame in context), "the same views, 48 frames ago"
