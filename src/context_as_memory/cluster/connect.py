"""Join a Ray cluster that runs already, and look at its machines before work is sent there."""

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from context_as_memory import __version__
from context_as_memory.errors import UserError, install

ANSWERS_S = 5.0  # within which the address of a cluster must take a connection
START = "start one with `ray start --head` and run this command on one of its machines"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a process without a share of the GPUs sees none
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first error is told, by us
}


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray's module, while this process belongs to the cluster at `address`: `auto` (the one that this machine is part
    of) or HOST:PORT. `UserError` if Ray is not installed or no cluster answers."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {install('cluster')}") from error
    if ray.is_initialized():
        yield ray
        return
    _answers(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--cluster {address}: this machine is part of no Ray cluster there; {START}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """`UserError` if nobody listens there. Ray itself would try for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise UserError(f"--cluster is {address!r}; give auto, or HOST:PORT as `ray start --head` printed it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--cluster {address}: no Ray cluster answers there ({error}); {START}") from error


def check_machines(ray: Any, folders: Sequence[Path], shared: Path) -> None:
    """`UserError` if a machine of the cluster lacks this version of the package or does not see a folder.

    shared: the folder that results go to. It is made, and a file in it must be seen from everywhere: a folder that
    merely has the same name on each machine would scatter them.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for path in folders:
        if not path.exists():
            raise UserError(f"{path} does not exist")
    shared.mkdir(parents=True, exist_ok=True)
    probe = ray.remote(num_cpus=0)(_seen)
    with tempfile.NamedTemporaryFile(prefix=".seen-", dir=shared) as mark:
        paths = [*folders, shared, Path(mark.name)]
        asked = []
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked.append((node["NodeManagerHostname"], probe.options(scheduling_strategy=there).remote(paths)))
        for machine, answer in asked:
            try:
                version, seen = ray.get(answer)
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"machine {machine} cannot run this package ({_first_line(error)}); install it there, with the "
                    "extra `cluster` and the same Python"
                ) from error
            if version != __version__:
                raise UserError(f"machine {machine} has version {version}, this one {__version__}; install the same")
            for path, there in zip(paths, seen, strict=True):
                if not there:
                    folder = shared if path == Path(mark.name) else path
                    raise UserError(
                        f"machine {machine} does not see the folder {folder} of this machine; share it (NFS or the "
                        "like) under the same path on every machine"
                    )


def _seen(paths: Sequence[Path]) -> tuple[str, list[bool]]:
    """On another machine: the version there, and which paths exist."""
    return __version__, [path.exists() for path in paths]


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def share_of(ray: Any, device: str, threads: int | None) -> dict[str, float]:
    """What of a machine one task or replica gets: a GPU where the cluster has any and `device` allows it, and CPUs."""
    gpus = ray.cluster_resources().get("GPU", 0) if device != "cpu" else 0
    return {"num_cpus": threads or 1, "num_gpus": 1 if gpus else 0}


def places(ray: Any, share: dict[str, float]) -> int:
    """How many tasks or replicas of that share the cluster holds at once, at least one."""
    held = ray.cluster_resources()
    rooms = [held.get("CPU", 0) // share["num_cpus"]]
    if share["num_gpus"]:
        rooms.append(held.get("GPU", 0) // share["num_gpus"])
    return max(1, int(min(rooms)))
