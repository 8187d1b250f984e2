"""`--cluster` of `cam encode`, `cam evaluate` and `cam explore`: the same command, over a Ray cluster."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from context_as_memory.errors import UserError
from context_as_memory.evaluation.config import EvaluateConfig

_Command = TypeVar("_Command", bound=Any)
_LOCATORS = ("weights", "data")  # text that may name a folder


@dataclass(frozen=True, kw_only=True)
class InParts:
    """Where the work is done."""

    cluster: str | None = None
    """Do the work on a Ray cluster (needs the `cluster` extra): auto, the one that this machine is part of, or its
    HOST:PORT. All its machines must see the folders under the same paths."""
    parts: int | None = None
    """With --cluster: parts that the work is cut into. Default: four for each GPU, or each CPU where there is none."""

    def check(self, shard: str) -> None:
        """`UserError` for flags that do not go together."""
        if self.cluster is None and self.parts is not None:
            raise UserError("--parts is for --cluster; give the cluster too, or leave it out")
        if self.cluster is not None and shard != "0/1":
            raise UserError("--cluster cuts the work into shards itself; leave --shard out")


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluateConfig):
    __doc__ = EvaluateConfig.__doc__

    where: InParts = InParts()

    @property
    def config(self) -> EvaluateConfig:
        """The settings of the measurement alone."""
        return EvaluateConfig(**{field.name: getattr(self, field.name) for field in fields(EvaluateConfig)})


def encode_on(command: _Command, encode: Callable[[_Command], Any]) -> None:
    """Encode the shards of a `cam encode` command somewhere on its cluster. encode: does one shard."""
    from context_as_memory.cluster.connect import check_machines, connected
    from context_as_memory.cluster.parts import run_parts

    command, where = replace(_absolute(command), where=InParts()), command.where
    with connected(where.cluster) as ray:
        check_machines(ray, _folders(command, "cache"), command.cache)
        run_parts(ray, partial(_shard, encode, command), where.parts, device=command.device)


def evaluate_on(config: EvaluateConfig, where: InParts) -> dict[str, Any]:
    """Measure the shards of a suite somewhere on a cluster, then write the reports there; returns their summary."""
    from context_as_memory.cluster.connect import check_machines, connected
    from context_as_memory.cluster.parts import run_parts

    config.check()
    if config.data == "test" and not Path("test").exists() and config.videos is None and config.suite != "revisit":
        raise UserError(
            "with --cluster the test episodes must lie where all machines see them; render them into a shared folder "
            "(cam render --worlds freedoom --maps test --out FOLDER) and give it: --data FOLDER"
        )
    config = _absolute(replace(config, out=config.folder))
    work = partial(_shard, _summary, config)
    with connected(str(where.cluster)) as ray:
        check_machines(ray, _folders(config, "out"), config.folder)
        run_parts(ray, work, where.parts, device=config.device, threads=config.threads)
        return run_parts(ray, work, 1, device=config.device, threads=config.threads)[0]


def _summary(config: EvaluateConfig) -> dict[str, Any]:
    from context_as_memory.evaluation.suite.run import evaluate

    return dict(evaluate(config).summary)


def _shard(work: Callable[[_Command], Any], command: _Command, shard: str) -> Any:
    return work(replace(command, shard=shard))


def _absolute(command: _Command) -> _Command:
    """The command with paths that mean the same in other processes."""
    found = {field.name: getattr(command, field.name) for field in fields(command)}
    paths = {name: value.absolute() for name, value in found.items() if isinstance(value, Path)}
    texts = {name: os.path.abspath(found[name]) for name in _LOCATORS if _is_folder(found.get(name))}
    return replace(command, **paths, **texts)


def _folders(command: Any, results: str) -> list[Path]:
    """What the command reads from disk."""
    found = {field.name: getattr(command, field.name) for field in fields(command) if field.name != results}
    texts = [Path(found[name]) for name in _LOCATORS if _is_folder(found.get(name))]
    return [value for value in found.values() if isinstance(value, Path)] + texts


def _is_folder(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_dir()
