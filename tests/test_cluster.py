"""One local Ray cluster of two workers: parts of encoding and evaluation, walks behind replicas; workers are killed."""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import tiny
from context_as_memory.camera import look, pinhole
from context_as_memory.cli import data as cli
from context_as_memory.cli.cluster import InParts, encode_on
from context_as_memory.cli.data import Encode
from context_as_memory.cli.main import main
from context_as_memory.cluster.connect import QUIET
from context_as_memory.data import precompute
from context_as_memory.data.episode import write_episode
from context_as_memory.errors import UserError
from context_as_memory.formats.video import VideoWriter
from context_as_memory.formats.write import write_poses
from context_as_memory.server.protocol import Init, decode, encode

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.cluster,
    # Ray's own affairs:
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*extra keyword arguments on `Field`.*:DeprecationWarning"),
]
TOKEN = {"Authorization": "Bearer of-this-test-0123456789"}
ENVIRONMENT = QUIET | {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine is slow to start
    "PYTHONPATH": os.pathsep.join(str(Path(__file__).parent.parent / name) for name in ("src", "tests")),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a cluster of two machines with a CPU each answers; both are this one."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        machine: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=machine)
        cluster.add_node(**machine)
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            yield cluster.address
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three episodes."""
    root = tmp_path_factory.mktemp("episodes")
    for number in range(3):
        lens = pinhole(90, tiny.ROOM_WIDTH, tiny.ROOM_HEIGHT)
        path = look(np.full((20, 3), 0.3 * number), np.linspace(0, 2, 20), lens, tiny.ROOM_WIDTH, tiny.ROOM_HEIGHT)
        write_episode(root / f"room_{number}", tiny.paint_room(path), path, {"split": "train", "fps": 15}, raw=True)
    return root


# -- parts -----------------------------------------------------------------------------------------------------------


def _dies_once(mark: Path, command: Encode) -> int:
    """`cam encode`, on a worker that is killed after its first episode; not when it is called again."""
    write = precompute.write_array

    def and_die(path: str | Path, array: np.ndarray) -> None:
        write(path, array)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    precompute.write_array = and_die
    try:
        return cli._encode(command)
    finally:
        precompute.write_array = write


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_latents_of_a_cluster_are_those_of_one_process(address, weights, data, tmp_path, monkeypatch, capsys):
    words = ["encode", "--data", str(data), "--weights", str(weights), "--cache"]
    assert main([*words, str(tmp_path / "one")]) == 0
    monkeypatch.chdir(tmp_path)  # workers are elsewhere: the folder must not be relative for them
    assert main([*words, "many", "--cluster", address, "--parts", "4"]) == 0, capsys.readouterr().err
    assert "latents in many" in capsys.readouterr().out
    assert _files(tmp_path / "many") == _files(tmp_path / "one")
    assert len(_files(tmp_path / "many")) == 4, "three episodes and the stamp; a part without an episode left nothing"

    command = Encode(
        data=data, weights=str(weights), cache=tmp_path / "killed", where=InParts(cluster=address, parts=1)
    )
    encode_on(command, partial(_dies_once, tmp_path / "mark"))
    assert (tmp_path / "mark").exists(), "the worker was killed"
    assert _files(tmp_path / "killed") == _files(tmp_path / "one"), "and what it left undone was done again"


def test_an_evaluation_in_parts_is_that_of_one_process(address, tmp_path, capsys):
    """Videos that return are scored: the quickest that there is to measure."""
    (tmp_path / "videos").mkdir()
    for name in ("first", "second"):
        with VideoWriter(tmp_path / "videos" / f"{name}.mp4", tiny.WIDTH, tiny.HEIGHT, 10) as writer:
            writer.write(tiny.pictures(40))
        write_poses(tiny.walk(40), tmp_path / "videos" / name)
    words = ["evaluate", "--videos", str(tmp_path / "videos")]
    reports = []
    for name, more in (("one", []), ("many", ["--cluster", address, "--parts", "2"])):
        assert main([*words, "--out", str(tmp_path / name), *more]) == 0, capsys.readouterr().err
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
        assert (tmp_path / name / "report.html").exists()
    assert reports[0]["clips"] and reports[0]["clips"] == reports[1]["clips"]
    assert len(list((tmp_path / "many" / "clips").glob("*.json"))) == 3, "two videos and the settings"


def test_what_is_wrong_is_said_in_a_sentence(address, weights, data, tmp_path, monkeypatch):
    from context_as_memory.cluster import connect as joining

    def seen(paths: Any) -> Any:
        return joining.__version__, [path != data for path in paths]

    command = Encode(data=data, weights=str(weights), cache=tmp_path / "c", where=InParts(cluster=address))
    monkeypatch.setattr(joining, "_seen", seen)
    with pytest.raises(UserError, match=f"does not see the folder {data} of this machine; share it"):
        encode_on(command, cli._encode)
    monkeypatch.setattr(joining, "_seen", lambda paths: ("0.0.0", []))
    with pytest.raises(UserError, match="has version 0.0.0, this one"):
        encode_on(command, cli._encode)
    monkeypatch.undo()
    with pytest.raises(UserError, match="no episode"):  # said by a worker, as if it were here
        encode_on(replace(command, data=weights), cli._encode)
    with pytest.raises(UserError, match=f"{tmp_path / 'none'} does not exist"):
        encode_on(replace(command, data=tmp_path / "none"), cli._encode)
    assert main(["encode", "--data", str(data), "--cache", str(tmp_path / "c"), "--parts", "2"]) == 2
    assert main(["evaluate", "--suite", "returns", "--out", str(tmp_path / "e"), "--cluster", address]) == 2


# -- walks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(address, weights, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Two replicas behind one address, and the folder of their worlds."""
    from context_as_memory.cli.explore import listen
    from context_as_memory.cluster import serve as serving
    from context_as_memory.server.limits import Limits

    free = listen("127.0.0.1", 0)
    port = free.getsockname()[1]
    free.close()
    worlds = tmp_path_factory.mktemp("worlds")
    token = TOKEN["Authorization"].split()[1]
    limits = Limits(free_bytes=0)
    replica = serving.ReplicaConfig(worlds=worlds, weights=str(weights), token=token, limits=limits, device="cpu")
    ready, asked = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            serving.serve_walks(address, replica, 2, "127.0.0.1", port, ready.set, asked)
        except BaseException as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert ready.wait(150) and not failed, failed
        yield f"127.0.0.1:{port}", worlds
    finally:
        asked.set()
        thread.join(60)
    assert not thread.is_alive() and not failed, failed


def _process_of(worlds: Path, world: str) -> int:
    """The process of the replica that has a world open."""
    return int(json.loads((worlds / world / "writer.lock").read_text())["pid"])


def _page(host: str, walk: str = "") -> Any:
    token = TOKEN["Authorization"].split()[1]
    return connect(f"ws://{host}/v1/realtime_video/generate?token={token}&walk={walk}", max_size=None)


def _told(socket: Any, kind: str) -> Any:
    """The next message of a kind."""
    while True:
        message = decode(socket.recv(timeout=20), 1 << 24)
        assert message.type != "error" or kind == "error", message
        if message.type == kind:
            return message


def test_walks_outlive_replicas(served, weights):
    """Sessions stay where they are; the one whose replica is killed goes on elsewhere, as if nothing had happened."""
    host, worlds = served
    with httpx.Client(base_url=f"http://{host}", headers=TOKEN, timeout=60) as client:

        def begin(**asked: Any) -> Any:
            return client.post("/v1/sessions", json={"format": "raw", **asked}).raise_for_status().json()

        def step(session: str) -> Any:
            return client.post(f"/v1/sessions/{session}/step", json={"keys": ["w"]}).raise_for_status().json()

        walks: dict[int, Any] = {}  # one on each replica
        for _ in range(40):
            walk = begin(seed=7)
            process = _process_of(worlds, walk["world"])
            if process in walks:
                client.post(f"/v1/sessions/{walk['session']}/close").raise_for_status()
            walks.setdefault(process, walk)
            if len(walks) == 2:
                break
        (victim, lost), (other, kept) = walks.items()
        for walk in (lost, kept):
            step(walk["session"])
        # A page beside each of the two sessions: a socket may name any walk that a replica holds.
        with _page(host, lost["session"]) as broken, _page(host, kept["session"]) as page:
            worlds_of_pages = [_begun(broken), _begun(page)]
            assert [_process_of(worlds, str(ready.world)) for ready in worlds_of_pages] == [victim, other]
            os.kill(victim, signal.SIGKILL)
            third, again = step(kept["session"]), step(lost["session"])
            assert not third["reopened"] and again["reopened"], "the one says that it was opened again, the other not"
            assert again["first"] == third["first"] and again["images"] == third["images"], "as if nothing had happened"
            assert _process_of(worlds, kept["world"]) == other, "it stayed where it was"
            page.send(encode(tiny.hold("d", 2)))
            while _told(page, "chunk_stats").event_id != 2:
                pass
            _watch(host, worlds_of_pages[1].share)
            fourth, again = step(kept["session"]), step(lost["session"])
            assert not again["reopened"] and again["images"] == fourth["images"]
            with pytest.raises(ConnectionClosed):
                while True:
                    broken.recv(timeout=20)
        world = str(worlds_of_pages[0].world)
        with _page(host, world) as page:  # as the page of a browser does
            page.send(encode(Init(world=world, realtime_output_format="raw")))
            assert len(_told(page, "ready").poses) >= 4, "the chunk of before is there"
        client.post(f"/v1/sessions/{lost['session']}/close").raise_for_status()
        assert client.post(f"/v1/sessions/{lost['session']}/step", json={"keys": ["w"]}).status_code == 404
        assert client.get("/").status_code == client.get("/healthz").status_code == 200


def _begun(page: Any) -> Any:
    """Begin a world and walk a chunk."""
    page.send(encode(Init(seed=7, realtime_output_format="raw")))
    ready = _told(page, "ready")
    page.send(encode(tiny.hold("w", 1)))
    _told(page, "chunk_stats")
    return ready


def _watch(host: str, share: str) -> None:
    """Who has a share link sees the walk, on whichever replica it is; replicas tell every second."""
    for _ in range(10):
        with _page(host, share) as viewer, contextlib.suppress(AssertionError):
            viewer.send(encode(Init(watch=share)))
            assert not _told(viewer, "ready").driver
            return
        time.sleep(0.5)
    raise AssertionError("nobody found the walk")
