"""Names on the hub: a local server that speaks its HTTP interface, the cache without a network, and wrong names."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from context_as_memory.adapters.hub import fetch, is_hub_name
from context_as_memory.errors import UserError
from context_as_memory.weights import resolve

pytest.importorskip("huggingface_hub")
SRC = Path(__file__).resolve().parents[1] / "src"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one repository, `somebody/tiny-wan`, whose branch `main` and tag `v1` are a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        (folder / "README.md").write_text("not to be fetched")
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, *about: object) -> None:
        pass

    def _answer(self, whole: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        folder = self.server.folder
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for revision in ("main", "v1", COMMIT):
            if path == f"/api/models/somebody/tiny-wan/revision/{revision}":
                siblings = [{"rfilename": file.relative_to(folder).as_posix()} for file in files]
                body = {"id": "somebody/tiny-wan", "modelId": "somebody/tiny-wan", "sha": COMMIT, "siblings": siblings}
                return self._send(json.dumps(body).encode(), "application/json", whole)
            if path == f"/api/models/somebody/tiny-wan/tree/{revision}":
                entries = [self._entry(file) for file in files]
                return self._send(json.dumps(entries).encode(), "application/json", whole)
            start = f"/somebody/tiny-wan/resolve/{revision}/"
            if path.startswith(start) and (folder / path.removeprefix(start)).is_file():
                return self._send((folder / path.removeprefix(start)).read_bytes(), "application/octet-stream", whole)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _entry(self, file: Path) -> dict[str, object]:
        data = file.read_bytes()
        name = file.relative_to(self.server.folder).as_posix()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _send(self, body: bytes, kind: str, whole: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if whole:
            self.wfile.write(body)


@pytest.fixture(scope="module")
def hub(pipelines, tmp_path_factory):
    import shutil

    server = Hub(shutil.copytree(pipelines["ti2v"], tmp_path_factory.mktemp("hub") / "repository"))
    yield server
    server.shutdown()
    server.server_close()


def cam(home: Path, *words: str, endpoint: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, since huggingface_hub reads its environment once."""
    env = {**os.environ, "PYTHONPATH": str(SRC), "HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1" if offline else "0"}
    command = [sys.executable, "-W", "ignore", "-m", "context_as_memory", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=home)


def adapt(home: Path, name: str, out: str, *, endpoint: str, offline: bool = False):
    words = ["adapt", "--backbone", name, "--size", "64x64", "--out", out]
    return cam(home, *words, endpoint=endpoint, offline=offline)


def test_a_backbone_by_name_is_fetched_once_and_found_offline(hub, tmp_path):
    name = "somebody/tiny-wan@v1"
    done = adapt(tmp_path, name, "first", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "first" / "model.json").read_text())["backbone"]
    assert told["path"] == name
    asked = [path for method, path in hub.asked if "/resolve/" in path]
    assert any(path.endswith("-00003-of-00006.safetensors") for path in asked)
    assert not any(path.endswith("README.md") for path in asked)
    nowhere = "http://127.0.0.1:9"
    again = adapt(tmp_path, name, "second", endpoint=nowhere, offline=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "second" / "model.json").read_text() == (tmp_path / "first" / "model.json").read_text()


def test_names_that_cannot_be_fetched_are_one_sentence(hub, tmp_path):
    missing = adapt(tmp_path, "somebody/nothing", "out", endpoint=hub.address)
    offline = adapt(tmp_path, "somebody/tiny-wan", "out", endpoint=hub.address, offline=True)
    for done, name in ((missing, "somebody/nothing"), (offline, "somebody/tiny-wan")):
        assert done.returncode == 2
        assert f"{name} is no folder, and as a name on the hub it cannot be fetched" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_a_name_on_the_hub():
    assert is_hub_name("Wan-AI/Wan2.2-TI2V-5B-Diffusers") and is_hub_name("a/b@refs/pr/1")
    for other in ("/a/b", "a", "a/b/c", "../a", "a/b@", "./a/b", ""):
        assert not is_hub_name(other), other
    with pytest.raises(UserError, match="no name on a hub"):
        fetch("nothing")
    with pytest.raises(UserError, match="is no folder; give `default`"):
        resolve("no-such-folder")
