"""Does one visitor stop another? The rate of an honest walker beside each attack, on a real server in its own process.

    python benchmarks/attacks.py [--seconds 8] [--weights default] [--json attacks.json]

Each attack runs in processes of its own while an honest visitor holds a key; before each one the rate alone is taken
again, since other programs share the machine. Reported: chunks a second alone and beside the attack, and their ratio.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from context_as_memory.cli.explore import listen
from context_as_memory.server.protocol import ChunkStats, Event, FrameBatch, Init, Ready, Rewind, decode, encode


def opened(address: str, token: str | None) -> ClientConnection:
    """A connection to the server, with or without its token."""
    query = f"?token={token}" if token else ""
    return connect(f"{address}v1/realtime_video/generate{query}", max_size=None, compression=None, open_timeout=30)


def heard(line: ClientConnection, seconds: float) -> bytes:
    packet = line.recv(timeout=seconds)
    assert isinstance(packet, bytes)
    return packet


def until(line: ClientConnection, kind: type) -> Any:
    while not isinstance(message := decode(heard(line, 60), 100_000_000), kind):
        pass
    return message


def keys(held: str, number: int) -> Event:
    """The event for keys that are held from now on."""
    transitions = [{"actions": list(held)}]
    return Event(kind="camera_actions", event_id=number, payload={"mode": "state", "transitions": transitions})


def rate(line: ClientConnection, seconds: float) -> float:
    """Chunks a second that an honest visitor gets."""
    end = time.monotonic() + seconds
    chunks = 0
    while (left := end - time.monotonic()) > 0:
        try:
            message = decode(heard(line, left), 100_000_000)
        except TimeoutError:
            break
        chunks += isinstance(message, ChunkStats)
    return chunks / seconds


# -- attacks, each for ever --------------------------------------------------------------------------------------------


def small_events(address: str, token: str) -> None:
    """Events as fast as they go."""
    with opened(address, token) as line:
        line.send(encode(Init()))
        until(line, FrameBatch)
        packet, number = encode(Event(kind="heartbeat")), 0
        while True:
            line.send(packet)
            number += 1


def long_scripts(address: str, token: str) -> None:
    """Scripts of the largest size, as fast as they go."""
    with opened(address, token) as line:
        line.send(encode(Init()))
        until(line, FrameBatch)
        number = 0
        while True:
            number += 1
            line.send(encode(Event(kind="camera_actions", event_id=number, payload=[[]] * 10_000)))


def new_worlds(address: str, token: str) -> None:
    """A new world after the other, each with a whole place to remember."""
    with opened(address, token) as line:
        while True:
            line.send(encode(Init(known=True)))
            until(line, Ready)


def rewinds(address: str, token: str) -> None:
    """Back to the first frame, again and again."""
    with opened(address, token) as line:
        line.send(encode(Init()))
        until(line, FrameBatch)
        line.send(encode(keys("l", 1)))
        while True:
            line.send(encode(Rewind(frame=0)))
            until(line, Ready)


def scans(address: str, token: str, number: int = 60) -> None:
    """A progressive JPEG of 40 megapixels with as many scans as are taken."""
    data = io.BytesIO()
    Image.fromarray(np.zeros((6300, 6300, 3), np.uint8)).save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    at, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    picture = whole[:at] + whole[at:end] * (number - 10) + whole[end:]
    with opened(address, token) as line:
        while True:
            line.send(encode(Init(first_frame=picture)))
            line.recv(timeout=60)


def many_scans(address: str, token: str) -> None:
    """The same with 6,000."""
    scans(address, token, 6000)


def silent_strangers(address: str, token: str) -> None:
    """Two hundred sockets without a token that say nothing, opened again when they are closed."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(Exception):
            for _ in range(200):
                stack.enter_context(opened(address, None))
            time.sleep(1)


def downloads(address: str, token: str) -> None:
    """Worlds that are asked for and not read."""
    import socket
    import urllib.request

    base = address.replace("ws://", "http://")
    worlds = json.loads(urllib.request.urlopen(f"{base}v1/worlds?token={token}").read())
    names = [world["name"] for world in worlds]
    host, port = re.findall(r"//(.*):(\d+)/", address)[0]
    while True:
        lines = []
        for _ in range(20):
            lines.append(socket.create_connection((host, int(port))))
            request = f"GET /v1/worlds/{names[0]}/walk.mp4?token={token} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
            lines[-1].sendall(request.encode())
        time.sleep(2)
        for line in lines:
            line.close()


ATTACKS: tuple[Callable[[str, str], None], ...] = (
    small_events,
    long_scripts,
    new_worlds,
    rewinds,
    scans,
    many_scans,
    silent_strangers,
    downloads,
)


def attack(function: Callable[[str, str], None], address: str, token: str) -> None:
    while True:  # one that is thrown out comes back
        with contextlib.suppress(Exception):
            function(address, token)
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    token, address = "the token of a benchmark", f"ws://127.0.0.1:{port}/"
    token = token.replace(" ", "-")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        words = ["explore", "--no-browser", "--port", str(port), "--weights", options.weights, "--worlds", folder]
        environment = os.environ | {"CAM_TOKEN": token}
        program = [sys.executable, "-m", "context_as_memory", *words]
        server = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        server.stdout.readline()
        try:
            for function in ATTACKS:
                if options.only and function.__name__ not in options.only:
                    continue
                with opened(address, token) as line:
                    line.send(encode(Init()))
                    until(line, FrameBatch)
                    line.send(encode(keys("l", 1)))
                    until(line, ChunkStats)
                    alone = rate(line, options.seconds)
                    process = multiprocessing.Process(target=attack, args=(function, address, token), daemon=True)
                    process.start()
                    rate(line, 2)  # until it is under way
                    beside = rate(line, options.seconds)
                    process.kill()
                    process.join()
                rows[function.__name__] = {"alone": round(alone, 2), "beside": round(beside, 2)}
                print(f"{function.__name__:18s} alone {alone:5.2f}  beside {beside:5.2f} chunks a second", flush=True)
                time.sleep(2)
        finally:
            server.terminate()
            server.wait(30)
    for row in rows.values():
        row["ratio"] = round(row["beside"] / max(row["alone"], 1e-9), 2)
    print(json.dumps(rows, indent=2))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
