"""Benchmarks of others, and three protocols of ours on any picture: inputs read and results left in their own layouts.

A harness lists the videos that a benchmark asks for (`walks`), says what it wants beside them (`leave`, `finish`),
checks what can be checked without networks (`gate`), and names the command of the benchmark that scores them (`then`).
`run` walks. Layouts are from the public pages that every module names.
"""

from context_as_memory.evaluation.bench import echo, mind, pictures, wbench, worldmark, wrbench
from context_as_memory.evaluation.bench.harness import Harness

HARNESSES: dict[str, Harness] = {
    "closure": pictures.CLOSURE,
    "mirror": pictures.MIRROR,
    "control": pictures.CONTROL,
    "echo": echo.ECHO,
    "worldmark": worldmark.WORLDMARK,
    "wrbench": wrbench.WRBENCH,
    "mind": mind.MIND,
    "wbench": wbench.WBENCH,
}
