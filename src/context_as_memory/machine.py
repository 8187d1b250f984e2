"""What this machine is, and how its processor threads wait. Imports nothing heavy: it runs before torch is loaded."""

import math
import os
import platform
import sys
import time
from functools import cache
from pathlib import Path

# With any of these the user has said how threads wait; then nothing is changed.
_WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


@cache
def features() -> frozenset[str]:
    """Instruction sets of this CPU, in Linux' words for x86 and Arm; empty where nothing tells them."""
    for line in _cpuinfo().splitlines():
        if line.lower().startswith(("flags", "features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def has_bf16() -> bool:
    """Whether this CPU has instructions for bf16; unknown: no. `ONEDNN_MAX_CPU_ISA=AVX2` hides them, as in oneDNN."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"):
        return False
    return bool(features() & {"avx512_bf16", "amx_bf16", "bf16"})


def processor() -> str:
    """Kind of processor: maker and widest instruction set. Two machines of one kind give the same bits, as far as is
    known."""
    makers = (line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("vendor_id"))
    sets = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")
    widest = next((name for name in sets if name in features()), "")
    return f"{next(makers, platform.machine())} {widest}".strip()


def processors() -> int:
    """Processors that this process may use: of those it is bound to, as many as its container pays for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(bound, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return bound


def settle_threads() -> None:
    """Say how threads of the number libraries wait and how many there are, before the first of them is loaded.

    They wait asleep: threads that spin fight whatever else runs, and beside one busy process a chunk took 27 times as
    long. In a container they are no more than it pays for. What the user's own environment says is left alone, and so
    is everything once torch is loaded.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in _WAIT_SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if "OMP_NUM_THREADS" not in os.environ and processors() < (os.cpu_count() or 1):
        os.environ["OMP_NUM_THREADS"] = str(processors())


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
