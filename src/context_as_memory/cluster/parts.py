"""Work in parts on a cluster: each part is one task of Ray, which goes on from the files that are there already."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from context_as_memory.cluster.connect import places, share_of
from context_as_memory.errors import UserError
from context_as_memory.progress import ProgressBar

_Result = TypeVar("_Result")
PARTS_PER_PLACE = 4  # a fast machine takes more of them
RETRIES = 3  # of a part whose process or machine died


def run_parts(
    ray: Any,
    work: Callable[[str], _Result],
    parts: int | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> list[_Result]:
    """What `work` returns for the shards "0/n" to "n-1/n", each called in a process somewhere on the cluster.

    work: can be pickled, and does what is missing of its shard only: it is called again where a process died. parts: n,
    four for each GPU (without any: each CPU) of the cluster if None. `UserError`: what a part raised, or that one
    died too often.
    """
    share = share_of(ray, device, threads)
    count = parts if parts is not None else PARTS_PER_PLACE * places(ray, share)
    if count < 1:
        raise UserError(f"--parts is {count}; give at least 1")
    task = ray.remote(max_retries=RETRIES, scheduling_strategy="SPREAD", **share)(work_on)
    asked = [task.remote(work, f"{number}/{count}") for number in range(count)]
    waiting: Sequence[Any] = asked
    if any(ray.available_resources().get(kind, 0) < share[f"num_{kind.lower()}s"] for kind in ("CPU", "GPU")):
        print("the cluster is busy: parts begin when other work on it ends", file=sys.stderr)
    with ProgressBar("on the cluster", count, unit="parts") as bar:
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                _got(ray, done[0])
                bar.advance()
        finally:
            for answer in waiting:
                ray.cancel(answer, force=True)
    return [ray.get(answer) for answer in asked]


def work_on(work: Callable[[str], _Result], shard: str) -> _Result:
    """On a worker: one part."""
    return work(shard)


def _got(ray: Any, answer: Any) -> None:
    try:
        ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a part of the work died {RETRIES + 1} times ({str(error).splitlines()[0]}); what is finished stays, the "
            "same command goes on; look at the memory of the machines, or at Ray's logs in /tmp/ray"
        ) from error
