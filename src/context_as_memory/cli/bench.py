"""`cam bench`: public benchmarks, and three protocols of ours on any pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from context_as_memory.errors import UserError

if TYPE_CHECKING:
    from context_as_memory.evaluation.suite.result import Report

Name = Literal["closure", "mirror", "control", "echo", "worldmark", "wrbench", "mind", "wbench", "edits"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Walk what a public benchmark asks for: its inputs in, videos, poses and names in its layout out. What needs no
    network is measured and checked here; the command that gives the other scores is named."""

    name: tyro.conf.Positional[Name]
    """closure: pictures turned away and back. mirror: paths out and back. control: one walk a key. The others:
    Echo-Memory, WorldMark, WRBench, MIND and WBench (docs/benchmarks.md). edits: remembered views painted over, then
    left and seen again; --inputs is a data set (`cam render`)."""
    inputs: Path
    """The benchmark's inputs; for closure, mirror and control a folder of pictures."""
    out: Path
    """Folder for the results; a run found there is gone on with."""
    weights: str = "default"
    """`default` or a model folder."""
    model: str = "context-as-memory"
    """The name that stands in the results."""
    fps: float = 15.0
    """Frames per second, where the benchmark leaves them open (closure, mirror, control, worldmark)."""
    hfov_deg: float = 90.0
    """Horizontal field of view of pictures whose lens the benchmark does not give, degrees."""
    limit: int | None = None
    """Only the first so many videos (edits: places): the rest is then missing, and the gate says so."""
    steps: int | None = None
    """Denoising steps; as stored with the weights if not given."""
    seed: int = 0
    """Of the noise."""
    shard: str = "0/1"
    """i/n: every n-th video only; run all n into one folder, then once more without."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: int | None = None
    """CPU threads."""


def bench(command: Bench) -> int:
    """Run one benchmark; exit code 2 if its gate finds something wrong."""
    from context_as_memory.evaluation.bench.harness import BenchRequest
    from context_as_memory.evaluation.bench.run import run_bench
    from context_as_memory.evaluation.config import EvaluateConfig
    from context_as_memory.evaluation.suite.run import open_system

    if not 0 < command.fps <= 1000:
        raise UserError(f"--fps is {command.fps}; give frames per second between 0 and 1000")
    if command.limit is not None and command.limit < 1:
        raise UserError(f"--limit is {command.limit}; give at least 1")
    if not command.model.strip() or "/" in command.model:
        raise UserError(f"--model is {command.model!r}; give a name without slashes")
    config = EvaluateConfig(
        weights=command.weights,
        steps=command.steps,
        seed=command.seed,
        device=command.device,
        threads=command.threads,
        shard=command.shard,
    )
    config.check()
    system = open_system(config)
    asked = BenchRequest(
        inputs=command.inputs,
        out=command.out,
        size=system.size,
        model=command.model,
        fps=command.fps,
        hfov_deg=command.hfov_deg,
    )
    if command.name == "edits":
        from context_as_memory.evaluation.bench.edits import run_edits

        report = run_edits(system, asked, seed=command.seed, limit=command.limit, shard=config.shards)
        if command.shard == "0/1":
            _show(report, command.out)
        return 0
    done = run_bench(system, command.name, asked, seed=command.seed, limit=command.limit, shard=config.shards)
    if command.shard != "0/1":
        print(
            f"shard {command.shard} is done; once all are, run again without --shard to check and to write the reports"
        )
        return 0
    _show(done.report, command.out)
    print(f"next: {done.then}")
    if done.missing:
        print(f"{done.missing} videos are left: run again without --limit")
        return 0
    for sentence in done.wrong[:20]:
        print(f"gate: {sentence}")
    return 2 if done.wrong else 0


def _show(report: "Report", out: Path) -> None:
    for name, value in report.summary.items():
        print(f"{name:32s} {value:.3f}" if isinstance(value, float) else f"{name:32s} {value}")
    print(f"reports in {out}: report.html, report.md, report.json")
