"""The explorer under load: several visitors at once for minutes, some slow, some vanishing, on one model.

    python benchmarks/explorer_load.py --sessions 8 --minutes 5 --json load.json

A server process with the given weights; each visitor is a client of its own. Of every four, two read at once, one reads
slowly, and one vanishes without a word every 20 seconds and comes back to its world. Measured: chunks per visitor
(does anyone starve?), seconds from a key to the first changed picture, and the server's working memory over time.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from context_as_memory.server.protocol import ChunkStats, Event, Failure, FrameBatch, Init, Ready, decode, encode

KINDS = ("quick", "slow", "quick", "vanishing")
STAY_S, SLOW_S, TURN_S = 20.0, 1.5, 4.0  # between two disappearances, between two reads, between two keys
KEYS = "wjwl"


@dataclass
class Visitor:
    """What one client saw."""

    kind: str
    chunks: int = 0
    waits_s: list[float] = field(default_factory=list)  # key to first changed picture
    longest_gap_s: float = 0.0  # between two chunks while walking
    disappearances: int = 0
    failures: list[str] = field(default_factory=list)


async def walk(address: str, visitor: Visitor, end: float) -> None:
    """Walk until the end; the vanishing kind cuts the line again and again."""
    world, event_id = None, 0
    while time.monotonic() < end:
        stay = min(end, time.monotonic() + (STAY_S if visitor.kind == "vanishing" else 1e9))
        try:
            async with connect(address, max_size=None, max_queue=4) as line:
                await line.send(encode(Init(world=world, realtime_output_format="h264")))
                pressed: dict[int, float] = {}
                next_key = last_chunk = time.monotonic()
                while time.monotonic() < stay:
                    if time.monotonic() >= next_key:
                        next_key = time.monotonic() + TURN_S
                        event_id += 1
                        pressed[event_id] = time.monotonic()
                        actions = [KEYS[event_id % len(KEYS)]]
                        payload = {"mode": "state", "transitions": [{"actions": actions}]}
                        await line.send(encode(Event(kind="camera_actions", event_id=event_id, payload=payload)))
                    received = await asyncio.wait_for(line.recv(), 60)
                    assert isinstance(received, bytes)
                    message = decode(received, 10**8)
                    if isinstance(message, Ready):
                        world = message.world
                    elif isinstance(message, Failure):
                        visitor.failures.append(message.content)
                        if message.code == "busy":  # a world whose visitor just vanished is let go of soon
                            break
                    elif isinstance(message, FrameBatch) and message.event_id in pressed:
                        visitor.waits_s.append(time.monotonic() - pressed.pop(message.event_id))
                    elif isinstance(message, ChunkStats):
                        now = time.monotonic()
                        visitor.longest_gap_s = max(visitor.longest_gap_s, now - last_chunk)
                        visitor.chunks, last_chunk = visitor.chunks + 1, now
                        if visitor.kind == "slow":
                            await asyncio.sleep(SLOW_S)
                        await line.send(encode(Event(kind="shown", payload=message.chunk_index)))
                if visitor.kind == "vanishing" and time.monotonic() < end:
                    visitor.disappearances += 1
                    line.transport.abort()
        except (ConnectionClosed, OSError, TimeoutError) as error:
            if visitor.kind != "vanishing":
                visitor.failures.append(repr(error))
        await asyncio.sleep(0.3)


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def run(port: int, pid: int, sessions: int, seconds: float) -> tuple[list[Visitor], list[float]]:
    visitors = [Visitor(KINDS[i % len(KINDS)]) for i in range(sessions)]
    end, memory = time.monotonic() + seconds, []
    address = f"ws://127.0.0.1:{port}/v1/realtime_video/generate"
    tasks = [asyncio.create_task(walk(address, visitor, end)) for visitor in visitors]
    while time.monotonic() < end:
        await asyncio.sleep(min(5.0, seconds / 20))
        memory.append(resident_mb(pid))
        chunks = [visitor.chunks for visitor in visitors]
        print(f"{end - time.monotonic():5.0f} s left, {memory[-1]:.0f} MB, chunks {chunks}", flush=True)
    done, _ = await asyncio.wait(tasks, timeout=60)
    for task in done:
        task.result()  # a client that crashed is no slow visitor
    return visitors, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        flags = {"port": port, "weights": options.weights, "worlds": folder, "sessions": options.sessions + 2}
        given = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        words = ["explore", "--no-browser", "--no-guard", *given]
        server = subprocess.Popen([sys.executable, "-m", "context_as_memory", *words])
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
                    break
                except OSError:
                    time.sleep(0.1)
            visitors, memory = asyncio.run(run(port, server.pid, options.sessions, 60 * options.minutes))
            metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    quick = [w for w in visitors if w.kind == "quick"]
    waits = np.concatenate([w.waits_s for w in quick])
    third = len(memory) // 3

    def count(name: str) -> int:
        found = re.search(rf"^{name} (\d+)", metrics, re.M)
        assert found, f"the server tells no {name}"
        return int(found[1])

    row = {
        "sessions": options.sessions,
        "minutes": options.minutes,
        "chunks": count("cam_chunks_total"),
        "chunks_quick_least": min(w.chunks for w in quick),
        "chunks_quick_most": max(w.chunks for w in quick),
        "chunks_slow_least": min((w.chunks for w in visitors if w.kind == "slow"), default=0),
        "chunks_vanishing_least": min((w.chunks for w in visitors if w.kind == "vanishing"), default=0),
        "longest_gap_quick_s": round(max(w.longest_gap_s for w in quick), 2),
        "key_to_picture_median_s": round(float(np.median(waits)), 2),
        "key_to_picture_p95_s": round(float(np.percentile(waits, 95)), 2),
        "disappearances": sum(w.disappearances for w in visitors),
        "failures_quick_and_slow": sum(len(w.failures) for w in visitors if w.kind != "vanishing"),
        "resident_mb_middle_third": round(float(np.median(memory[third : 2 * third])), 1),
        "resident_mb_last_third": round(float(np.median(memory[2 * third :])), 1),
        "sessions_open_at_the_end": count("cam_sessions_open"),
    }
    print(json.dumps(row, indent=2))
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
