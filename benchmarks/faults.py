"""Does a world survive? Writers killed at random moments, full disks, damaged files and databases, other versions.

    python benchmarks/faults.py [--kills 200] [--damages 100] [--json faults.json]

Every chunk has content that follows from its number, so that whatever is read can be judged. A chunk counts as
committed once its writer has said so to the outside. Reported: kills, chunks committed, `chunks_lost` (committed, and
gone or unreadable afterwards), `worlds_unreadable`, `wrong_frames` (served without an error, and not what was stored).
Half of the kills are SIGKILL; SIGTERM and SIGINT, which Python turns into an exception wherever it is, share the rest.
"""

import argparse
import json
import os
import resource
import signal
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.errors import UserError
from context_as_memory.storage import MAIN, BranchStore, WorldFile, compact, schema, verify

WIDTH, HEIGHT, FRAMES = 64, 32, 4
SETTINGS = {"width": WIDTH, "height": HEIGHT}


def content(number: int) -> tuple[np.ndarray, Cameras, torch.Tensor]:
    """Pictures, cameras and latents of chunk `number`."""
    rng = np.random.default_rng(number)
    frames = rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    cameras = look(rng.normal(size=(FRAMES, 3)), rng.normal(size=FRAMES), pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    return frames, cameras, torch.from_numpy(rng.normal(size=(16, FRAMES, 4, 8)).astype(np.float16))


def writer(folder: Path, said: int, limit: int | None = None) -> None:
    """Append chunks for ever; write each number to the pipe `said` once it is committed."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    exists = (folder / schema.DATABASE).exists()
    world = WorldFile.open(folder) if exists else WorldFile.create(folder, SETTINGS)
    while True:
        head = world.branch_head(MAIN)
        number = 0 if head is None else world.chunk(head).steps
        world.append(MAIN, *content(number), {"step": number})
        os.write(said, number.to_bytes(4, "little"))


def run_writer(
    folder: Path, delay_s: float, limit: int | None = None, how: signal.Signals = signal.SIGKILL, at_work: bool = False
) -> set[int]:
    """Start a writer, end it with a signal after a while (or wait for its end if `limit` is given). Returns what it
    said. `at_work`: the while begins with its first chunk."""
    reading, said = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            writer(folder, said, limit)
        except BaseException:
            os._exit(1)
    os.close(said)
    data = os.read(reading, 4) if at_work else b""
    if limit is None:
        time.sleep(delay_s)
        os.kill(child, how)
    # An interrupt in a place where Python can raise nothing is lost; then the writer would go on for ever.
    last_resort = threading.Timer(5, os.kill, (child, signal.SIGKILL))
    if limit is None:
        last_resort.start()
    while part := os.read(reading, 1 << 16):
        data += part
    os.close(reading)
    last_resort.cancel()
    os.waitpid(child, 0)
    return {int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)}


class Tally:
    """Counts over all faults."""

    def __init__(self) -> None:
        self.kills = self.chunks_lost = self.worlds_unreadable = self.wrong_frames = self.refused = 0

    def check(self, folder: Path, committed: set[int], since: int = 0) -> None:
        """Open a world after a fault and judge everything that was committed, from chunk `since` on in full."""
        if not committed and not (folder / schema.DATABASE).exists():
            return  # killed before there was a world
        try:
            with WorldFile.open(folder) as world:
                store = BranchStore(world)
                found = {info.note["step"] for info in store.chunks}
                self.chunks_lost += len(committed - found)
                for number in sorted(found):
                    if number >= since:
                        self.read(store, number)
        except UserError as error:
            print(f"unreadable: {error}")
            self.worlds_unreadable += 1

    def read(self, store: BranchStore, number: int, expect_error: bool = False) -> None:
        """Read one chunk: right content, an error, or the worst, wrong content."""
        frames, cameras, latents = content(number)
        rows = range(number * FRAMES, (number + 1) * FRAMES)
        try:
            got_frames, got_latents = store.frames_u8(rows), store.latents(rows)
            c2w, _ = store.file.cameras([store.chunks[number]])
        except UserError as error:
            self.refused += 1
            if not expect_error:
                print(f"lost: {error}")
                self.chunks_lost += 1
            return
        wrong = (got_frames != frames).any(axis=(1, 2, 3)) | (got_latents != latents).numpy().any(axis=(0, 2, 3))
        wrong |= (c2w != cameras.c2w).any(axis=(1, 2))
        self.wrong_frames += int(wrong.sum())


def kills(tally: Tally, count: int, folder: Path, rng: np.random.Generator) -> int:
    """Kill writers at random moments, also while a world is made; a new world after every 20. Returns chunks
    committed."""
    from rich.progress import track

    total, committed, world, since = 0, set[int](), folder, 0
    for number in track(range(count), "killing writers"):
        if number % 20 == 0:
            tally.check(world, committed)  # everything once more
            total += len(committed)
            world, committed, since = folder / f"world_{number}", set(), 0
        how = (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)[number % 4]
        # A quarter also while the world is made or opened; on a slow machine that takes longer than a chunk.
        said = run_writer(world, float(rng.uniform(0.0, 0.25)), how=how, at_work=rng.random() < 0.75)
        committed |= said
        tally.kills += 1
        tally.check(world, committed, since)
        since = max(committed, default=-1) + 1
    if (world / schema.DATABASE).exists():
        with WorldFile.open(world) as file:
            compact(file)
            assert verify(file).sound
    tally.check(world, committed)
    return total + len(committed)


def full_disk(tally: Tally, folder: Path) -> None:
    """Writers whose files may not grow beyond a limit: what the kernel then does is what a full disk does."""
    for number, limit in enumerate((20_000, 60_000, 150_000, 400_000)):
        world = folder / f"full_{number}"
        committed = run_writer(world, 0, limit)
        tally.check(world, committed)
        more = run_writer(world, 0.3)  # there is room again
        tally.check(world, committed | more)


def made(folder: Path, chunks: int = 12) -> Path:
    """A world of known content."""
    with WorldFile.create(folder, SETTINGS) as file:
        for number in range(chunks):
            file.append(MAIN, *content(number), {"step": number})
    return folder


def damages(tally: Tally, count: int, world: Path, rng: np.random.Generator) -> None:
    """Flip a byte, cut a file short or remove it: the damaged chunk is refused, every other one is right."""
    chunks = len(list((world / "frames").iterdir()))
    for _ in range(count):
        path = sorted((world / str(rng.choice(["frames", "latents"]))).iterdir())[int(rng.integers(chunks))]
        data = path.read_bytes()
        how = rng.choice(["flip", "cut", "remove"])
        if how == "flip":
            broken = bytearray(data)
            broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
        elif how == "cut":
            path.write_bytes(data[: int(rng.integers(len(data)))])
        else:
            path.unlink()
        with WorldFile.open(world) as file:
            store = BranchStore(file)
            token = path.name.split(".")[0]
            refused = tally.refused
            for number, info in enumerate(store.chunks):
                tally.read(store, number, expect_error=info.token == token)
            if tally.refused == refused:
                print(f"not noticed: {how} of {path}")
                tally.wrong_frames += FRAMES
            assert set(verify(file).problems) == {info.id for info in store.chunks if info.token == token}
        path.write_bytes(data)
    with WorldFile.open(world) as file:
        assert verify(file).sound


def damaged_rows(tally: Tally, count: int, world: Path, rng: np.random.Generator) -> None:
    """Flip a bit in a camera or a note inside the database: that chunk is lost, every other one is right."""
    path = world / schema.DATABASE
    whole = path.read_bytes()
    with WorldFile.open(world, write=False) as file:
        tokens = [info.token.encode() for info in file.chunks()]
    for _ in range(count):
        number = int(rng.integers(len(tokens)))
        if rng.random() < 0.5:
            cameras = content(number)[1]
            part = [*cameras.c2w, *cameras.K[:1]][int(rng.integers(FRAMES + 1))].astype("<f8").tobytes()
            places = [i for i in range(len(whole)) if whole.startswith(part, i)]
            start = places[0 if len(part) > 32 else FRAMES * number]  # all lenses are equal, rows lie in their order
        else:
            part = b'{"step": %d}' % number
            start = whole.index(part)
        broken = bytearray(whole)
        broken[start + int(rng.integers(len(part)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            with WorldFile.open(world, write=False) as file:
                store = BranchStore(file)
                lost = [n for n, info in enumerate(store.chunks) if info.lost]
                for n in range(len(tokens)):
                    if n not in lost:
                        tally.read(store, n)
                tally.refused += len(lost)
                if len(lost) != 1 or (len(part) > 32 and lost != [number]):
                    print(f"not noticed: flip in a row of chunk {number}, lost {lost}")
                    tally.wrong_frames += FRAMES
                problems = verify(file).problems
                assert {store.chunks[n].id for n in lost} == set(problems), problems
        except UserError as error:
            print(f"unreadable: {error}")
            tally.worlds_unreadable += 1
    path.write_bytes(whole)


def damaged_pages(tally: Tally, count: int, world: Path, rng: np.random.Generator) -> None:
    """Flip a bit anywhere in the database: what is served is right, the rest is refused in plain words. (The whole
    world may be, when the bit belongs to its structure.)"""
    path = world / schema.DATABASE
    whole = path.read_bytes()
    for _ in range(count):
        broken = bytearray(whole)
        broken[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            with WorldFile.open(world, write=False) as file:
                store = BranchStore(file)
                for number, info in enumerate(store.chunks):
                    if not info.lost:
                        tally.read(store, number, expect_error=True)
        except UserError:
            tally.refused += 1
    path.write_bytes(whole)


def versions(tally: Tally, world: Path) -> None:
    """An older world is read as it is, a newer one refused with a word about it; both work again in their version."""
    set_version = f"PRAGMA user_version = {schema.VERSION}"
    newer = [f"PRAGMA user_version = {schema.VERSION + 1}"]
    older = ["DROP TABLE checksum", "PRAGMA user_version = 1"]
    for statements, write, opens in (
        (newer, True, False),
        (newer, False, False),
        ([set_version], True, True),
        (older, False, True),  # a reader changes nothing
        ([], True, True),  # a writer brings it to this version
        ([], False, True),
    ):
        with sqlite3.connect(world / schema.DATABASE) as database:
            for statement in statements:
                database.execute(statement)
        database.close()
        try:
            with WorldFile.open(world, write=write) as file:
                store = BranchStore(file)
                for number in range(len(store.chunks)):
                    tally.read(store, number)
                if write and opens:
                    number = len(store.chunks)
                    store.append(*content(number), {"step": number})
            opened = True
        except UserError as error:
            opened = "newer" not in str(error)
        if opened != opens:
            tally.worlds_unreadable += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, tally = np.random.default_rng(options.seed), Tally()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        folder = Path(scratch)
        committed = kills(tally, options.kills, folder, rng)
        full_disk(tally, folder)
        world = made(folder / "damaged")
        damages(tally, options.damages, world, rng)
        damaged_rows(tally, options.damages, world, rng)
        damaged_pages(tally, options.damages, world, rng)
        versions(tally, world)
    figures = {
        "kills": tally.kills,
        "chunks_committed": committed,
        "chunks_lost": tally.chunks_lost,
        "worlds_unreadable": tally.worlds_unreadable,
        "wrong_frames": tally.wrong_frames,
        "damages": 3 * options.damages,  # of files, of rows, of pages
        "damages_refused": tally.refused,
    }
    for name, value in figures.items():
        print(f"{name:20s} {value:8d}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
