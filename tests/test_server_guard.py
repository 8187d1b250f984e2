"""The door of the server: names, headers, tokens, strangers, floods, pictures that cost, downloads."""

import asyncio
import contextlib
import io
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from context_as_memory.cli.explore import Explore, _token, listen
from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.server import app as application
from context_as_memory.server.app import LOOPBACK, PATH, Counter, Download, create_app
from context_as_memory.server.guard import HEADERS, Pace, host_name, is_own_page
from context_as_memory.server.hub import Hub
from context_as_memory.server.limits import Limits
from context_as_memory.server.pictures import decode_upload
from context_as_memory.server.protocol import (
    Alive,
    ChunkStats,
    Event,
    Failure,
    Fork,
    FrameBatch,
    Init,
    Ready,
    Rewind,
    decode,
    encode,
)
from context_as_memory.server.upload import Upload, Uploads
from context_as_memory.storage import WorldFile
from tiny import hold

TOKEN = "a token of enough length"
HOSTS = [*LOOPBACK, "testserver"]


def _receive(line):
    return decode(line.receive_bytes(), 10_000_000)


def _until(line, kind):
    while not isinstance(message := _receive(line), kind):
        pass
    return message


@pytest.fixture
def client(store):
    with TestClient(create_app(store, Limits(sessions=3), hosts=HOSTS), base_url="http://127.0.0.1") as client:
        yield client


# -- names and headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "[::1]"),
        ("[::1]", "[::1]"),
        ("Walks.Example.ORG", "walks.example.org"),
        ("", ""),
        ("a:b:c", ""),
        ("[::1]evil", ""),
        ("evil.example:80@127.0.0.1", ""),
    ],
)
def test_the_name_in_a_host_header(host, name):
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        (None, True),
        ("http://127.0.0.1:8000", True),
        ("https://walks.example.org", True),
        ("https://walks.example.org:444", True),
        ("https://elsewhere.example", False),
        ("null", False),
        ("https://walks.example.org.evil.example", False),
        ("http://127.0.0.1:8001", False),
    ],
)
def test_only_own_pages_drive_a_server_without_a_token(origin, own):
    assert is_own_page(origin, "127.0.0.1:8000", ["walks.example.org", "*"]) is own


@pytest.mark.parametrize("path", ["/", "/app.js", "/v1/worlds", "/healthz", "/metrics", "/none", "/v1/worlds/x/y"])
def test_every_answer_carries_the_rules_for_browsers(client, path):
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value, name
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]


def test_files_of_a_page_are_asked_for_again_and_cost_nothing_if_they_are_the_same(client):
    for name in ("", "app.js", "player.js", "style.css"):
        first = client.get(f"/{name}")
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(f"/{name}", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304 and not again.content


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.evil.example", "[::2]", "", "localhost.evil:8000"])
def test_a_name_that_is_not_ours_is_refused_with_the_flag_that_helps(store, host):
    with TestClient(create_app(store, hosts=LOOPBACK), base_url="http://127.0.0.1") as client:
        answer = client.get("/", headers={"host": host})
        assert answer.status_code == 400 and "--allow-host" in answer.text
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(PATH, headers={"host": host}):
            pass
    with TestClient(create_app(store, hosts=[*LOOPBACK, "elsewhere.example"]), base_url="http://127.0.0.1") as client:
        assert client.get("/", headers={"host": "elsewhere.example:443"}).status_code == 200  # does what it says


@pytest.mark.parametrize("host", ["[::1]:8000", "localhost:8000", "127.0.0.1"])
def test_every_name_of_this_machine_is_answered(store, host):
    with TestClient(create_app(store, hosts=LOOPBACK), base_url="http://127.0.0.1") as client:
        assert client.get("/", headers={"host": host}).status_code == 200


def test_with_the_token_any_proxy_or_tunnel_will_do(store):
    """A tunnel rewrites Host and leaves Origin; a page that does not know the token gets nowhere."""
    headers = {"host": "abc-8000.tunnel.example", "origin": "https://other.example"}
    with TestClient(create_app(store, token=TOKEN, hosts=["*"])) as client:
        with client.websocket_connect(f"{PATH}?token={TOKEN}", headers=headers) as line:
            line.send_bytes(encode(Init()))
            assert isinstance(_receive(line), Ready)
        with client.websocket_connect(PATH, headers=headers) as line:
            line.send_bytes(encode(Init()))
            assert "wants a token" in _receive(line).content


@pytest.mark.parametrize("path", ["/cam/", "/cam", "/"])
def test_a_prefix_that_a_proxy_leaves_or_takes_off(store, path):
    with TestClient(create_app(store, hosts=HOSTS, root_path="/cam/"), base_url="http://127.0.0.1") as client:
        assert "explorer" in client.get(path).text
        base = path if path.endswith("/") else path + "/"
        assert client.get(f"{base}app.js").status_code == 200
        assert client.get(f"{base}v1/worlds").json() == []
        with client.websocket_connect(f"{base[:-1]}{PATH}") as line:
            line.send_bytes(encode(Init()))
            assert isinstance(_receive(line), Ready)
        assert client.get("/camera/app.js").status_code == 404


def test_a_body_without_end_is_not_read(store):
    """Neither one that says its length nor one that comes in pieces; the token is looked at later than that."""
    app = create_app(store, Limits(upload_bytes=50_000), token=TOKEN, hosts=["*"])

    def pieces():
        for _ in range(200):
            yield b"x" * 10_000

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/v1/sessions", content=b"x" * 100_001).status_code == 413
        assert client.post("/v1/sessions", content=pieces()).status_code >= 400
        assert client.get("/healthz").status_code == 200


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_on_this_machine_too(monkeypatch):
    monkeypatch.delenv("CAM_TOKEN", raising=False)
    made = _token(Explore(), True)
    assert made is not None and len(made) >= 16 and made != _token(Explore(), True)
    assert _token(Explore(guard=False), True) is None
    with pytest.raises(UserError, match="--no-guard"):
        _token(Explore(guard=False, host="0.0.0.0"), False)
    with pytest.raises(UserError, match="at least 16"):
        _token(Explore(token="a"), False)
    monkeypatch.setenv("CAM_TOKEN", "x" * 20)
    assert _token(Explore(), False) == "x" * 20
    assert _token(Explore(token="y" * 16), False) == "y" * 16


@pytest.mark.parametrize("path", ["/metrics", f"/v1/worlds/{'0' * 16}/world.tar", f"/v1/worlds/{'0' * 16}/walk.mp4"])
def test_what_operators_and_owners_see_wants_the_token(store, path):
    with TestClient(create_app(store, token=TOKEN, hosts=["*"])) as client:
        for query in ("", "?token=", "?token=wrong", f"?token={TOKEN[:-1]}"):
            assert client.get(path + query).status_code == 403
        assert client.get(f"{path}?token={TOKEN}").status_code in (200, 404)


# -- the port ----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_before_anything_is_loaded(tmp_path, capsys, weights):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--port", str(port), "--weights", str(tmp_path / "none")]) == 2
        said = capsys.readouterr()
        assert f"port {port} is in use" in said.err and f"--port {port + 1}" in said.err and "walk at" not in said.out
    listen("127.0.0.1", port).close()
    with pytest.raises(UserError, match="no address of this machine|cannot be listened on"):
        listen("192.0.2.1", 8000)
    with pytest.raises(UserError, match="no address of this machine"):
        listen("no.such.name.invalid", 8000)
    with contextlib.suppress(UserError):  # where there is no IPv6
        listen("::1", port).close()


def test_worlds_are_walked_in_again_when_their_folder_was_taken_away(client, store):
    import shutil

    shutil.rmtree(store.folder)
    assert client.get("/v1/worlds").json() == []
    shutil.rmtree(store.folder)
    with client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init()))
        assert isinstance(_receive(line), Ready)


# -- floods ------------------------------------------------------------------------------------------------------------


def test_the_pace_of_one_connection():
    pace = Pace(100)
    waits = [pace.wait_s(10) for _ in range(300)]
    assert waits[:90] == [0.0] * 90 and waits[-1] > 1.5, "a second's worth at once, then the network holds the rest"
    large = Pace(100)
    assert large.wait_s(6_000) == 0 < large.wait_s(8_000), "large messages count for more"
    assert Pace(100).wait_s(8_000_000) <= 1.01, "a picture is no flood"


def test_events_of_one_visitor_are_slowed_down_and_nothing_is_lost(store):
    app = create_app(store, Limits(message_rate=50), hosts=HOSTS)
    with TestClient(app, base_url="http://127.0.0.1") as client, client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init()))
        _until(line, FrameBatch)
        began = time.monotonic()
        for number in range(150):
            line.send_bytes(encode(hold("", number)))
        line.send_bytes(encode(Event(kind="heartbeat")))
        assert isinstance(_receive(line), Alive) and time.monotonic() - began > 1.5
        line.send_bytes(encode(hold("l", 1000)))
        assert _until(line, ChunkStats).event_id == 1000


def test_strangers_who_say_nothing_take_no_place_and_go_soon(store, monkeypatch):
    monkeypatch.setattr(application, "STRANGER_S", 0.5)
    app = create_app(store, Limits(sessions=1, viewers=1, strangers=20), token=TOKEN, hosts=["*"])
    with TestClient(app) as client, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(client.websocket_connect(PATH)) for _ in range(20)]
        hub: Hub = app.state.hub
        assert hub.connections == 0
        late = stack.enter_context(client.websocket_connect(PATH))
        assert _receive(late).code == "too_many"
        time.sleep(0.8)
        for line in silent:
            assert _receive(line).code == "idle"
        assert hub.silent == {True: 0, False: 0}
        with client.websocket_connect(f"{PATH}?token={TOKEN}") as line:
            line.send_bytes(encode(Init()))
            assert isinstance(_receive(line), Ready) and hub.connections == 1


def test_the_rightful_visitor_enters_beside_strangers(store):
    app = create_app(store, Limits(sessions=1, viewers=1, strangers=5), token=TOKEN, hosts=["*"])
    with TestClient(app) as client, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(client.websocket_connect(PATH))
        with client.websocket_connect(f"{PATH}?token={TOKEN}") as line:
            line.send_bytes(encode(Init()))
            assert isinstance(_receive(line), Ready)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _jpeg(size=(64, 48), **settings) -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(data, "JPEG", **settings)
    return data.getvalue()


def _with_scans(data: bytes, number: int) -> bytes:
    """A progressive JPEG whose last scan is there many times."""
    at = data.rindex(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    return data[:at] + data[at:end] * number + data[end:]


def test_pictures_are_unpacked_elsewhere_and_are_the_same():
    data, upload = _jpeg((320, 200), progressive=True), Upload(width=64, height=48, max_pixels=10**6)
    found = asyncio.run(Uploads().frame(data, upload))
    np.testing.assert_array_equal(found, decode_upload(data, 64, 48, 10**6))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (_with_scans(_jpeg(progressive=True), 200), "more than 64 scans"),
        (b"no picture", "no picture"),
        (_jpeg()[:300], "cannot be read"),
        (_jpeg((2000, 1000)), "megapixels"),
        (b"", "no picture"),
    ],
    ids=["scans", "text", "cut", "large", "empty"],
)
def test_pictures_that_cost_or_are_none_are_one_sentence(data, told):
    upload = Upload(width=64, height=48, max_pixels=10**6)
    with pytest.raises(UserError, match=told):
        asyncio.run(Uploads().frame(data, upload))


def test_a_picture_that_takes_too_long_is_given_up(monkeypatch):
    from context_as_memory.server import upload

    monkeypatch.setattr(upload, "SECONDS", 0.01)
    with pytest.raises(UserError, match="takes too long to unpack"):
        asyncio.run(Uploads().frame(_jpeg(), Upload(width=64, height=48, max_pixels=10**6)))


def test_a_photo_starts_a_world(client):
    with client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init(first_frame=_jpeg())))
        assert isinstance(_receive(line), Ready) and isinstance(_receive(line), FrameBatch)
        line.send_bytes(encode(Init(first_frame=b"GIF89a none of these")))
        assert "no picture" in _receive(line).content
        line.send_bytes(encode(hold("l", 1)))  # the walk goes on
        assert _until(line, ChunkStats).frames >= 5


# -- room --------------------------------------------------------------------------------------------------------------


def test_frames_are_counted_for_a_world_not_for_a_branch(store):
    limits = Limits(history_frames=20)
    with TestClient(create_app(store, limits, hosts=HOSTS), base_url="http://127.0.0.1") as client:
        with client.websocket_connect(PATH) as line:
            line.send_bytes(encode(Init()))
            name = _receive(line).world
            message = None
            for _ in range(12):
                line.send_bytes(encode(hold("l")))
                message = _receive(line)
                while not isinstance(message, (ChunkStats, Failure)):
                    message = _receive(line)
                if isinstance(message, Failure):
                    break
                line.send_bytes(encode(Rewind(frame=0)))
                _until(line, Ready)
            assert isinstance(message, Failure) and "in all its branches" in message.content
        with WorldFile.open(store.path(name), write=False) as file:
            assert file.frames_in_all() <= 20


def test_branches_of_a_world_and_room_on_the_disk_have_limits(store, monkeypatch):
    app = create_app(store, Limits(branches=2), hosts=HOSTS)
    with TestClient(app, base_url="http://127.0.0.1") as client, client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init()))
        _until(line, FrameBatch)
        line.send_bytes(encode(Fork(frame=0, name="one")))
        assert isinstance(_receive(line), Ready)
        line.send_bytes(encode(Fork(frame=0, name="two")))
        assert "2 branches, the most" in _until(line, Failure).content
        monkeypatch.setattr(store, "free_bytes", lambda: 10)
        line.send_bytes(encode(hold("l", 1)))
        assert "nearly full" in _until(line, Failure).content
        line.send_bytes(encode(Init()))
        assert "nearly full" in _until(line, Failure).content
        monkeypatch.undo()
        line.send_bytes(encode(hold("l", 2)))
        assert _until(line, ChunkStats).frames >= 5


def test_a_download_that_nobody_reads_is_given_up_and_closed(monkeypatch):
    monkeypatch.setattr(application, "SEND_S", 0.1)
    sending, file, sent = Counter(1), io.BytesIO(bytes(3_000_000)), []

    async def send(message):
        sent.append(message)
        if len(sent) == 3:
            await asyncio.sleep(10)

    asyncio.run(Download(file, sending, {"Content-Length": "3000000"})({}, None, send))
    assert len(sent) == 3 and file.closed and sending.count == 0


def test_there_is_an_end_to_downloads_at_once(client, store):
    with client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init()))
        name = _receive(line).world
        line.send_bytes(encode(hold("l", 1)))
        _until(line, ChunkStats)
    hub: Hub = client.app.state.hub
    for _ in range(6):  # one after the other: each gives its place back, errors too
        assert client.get(f"/v1/worlds/{name}/world.tar").status_code == 200
        assert client.get(f"/v1/worlds/{name}/walk.mp4?branch=none").status_code == 404
    hub.limits = replace(hub.limits, downloads=0)
    assert client.get(f"/v1/worlds/{name}/world.tar").status_code == 503


# -- a second tab ------------------------------------------------------------------------------------------------------


def test_a_world_in_another_tab_can_be_watched_or_taken_over(client):
    connected = client.websocket_connect
    with contextlib.suppress(CancelledError), connected(PATH) as first, connected(PATH) as second:
        first.send_bytes(encode(Init()))
        ready = _receive(first)
        first.send_bytes(encode(hold("l", 1)))
        _until(first, ChunkStats)
        first.send_bytes(encode(hold("", 2)))
        second.send_bytes(encode(Init(world=ready.world)))
        told = _receive(second)
        assert told.code == "busy" and told.share == ready.share and "another tab" in told.content
        assert "process" not in told.content and socket.gethostname() not in told.content
        second.send_bytes(encode(Init(world=ready.world, take=True)))
        again = _receive(second)
        assert isinstance(again, Ready) and again.world == ready.world and len(again.poses) >= 4
        assert _until(first, Failure).code == "taken"
        second.send_bytes(encode(hold("l", 1)))
        assert isinstance(_until(second, ChunkStats), ChunkStats)


def test_a_world_that_another_program_writes_is_told_without_its_number(client, store):
    name, world = store.create(0)
    # Leaving the block, the test client may cancel the server's side before it has seen the end; that is its own.
    with contextlib.suppress(CancelledError), client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init(world=name, take=True)))
        told = _receive(line)
        assert told.code == "busy" and told.share is None and "another program" in told.content
    world.close()


def test_a_world_that_is_not_here_is_told_as_such(client):
    with client.websocket_connect(PATH) as line:
        line.send_bytes(encode(Init(world="0" * 16)))
        told = _receive(line)
        assert told.code == "refused" and "keeps no world" in told.content and "--worlds" in told.content


def test_heartbeats_are_answered_to_visitors_and_viewers(client):
    connected = client.websocket_connect
    with contextlib.suppress(CancelledError), connected(PATH) as line, connected(PATH) as viewer:
        line.send_bytes(encode(Init()))
        ready = _receive(line)
        _receive(line)
        line.send_bytes(encode(Event(kind="heartbeat")))
        assert isinstance(_receive(line), Alive)
        assert ready.version
        viewer.send_bytes(encode(Init(watch=ready.share)))
        _until(viewer, FrameBatch)
        viewer.send_bytes(encode(Event(kind="heartbeat")))
        assert isinstance(_receive(viewer), Alive)


def test_the_program_says_where_one_walks_when_that_is_so(tmp_path, weights):
    """The real command: what it prints is an address that answers, with a token that opens the door."""
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    words = ["explore", "--no-browser", "--port", str(port), "--weights", str(weights), "--worlds", str(tmp_path / "w")]
    process = subprocess.Popen([sys.executable, "-m", "context_as_memory", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.removeprefix("walk at ").strip()
        assert address.startswith(f"http://127.0.0.1:{port}/?token=")
        base, query = address.split("?")
        assert urllib.request.urlopen(f"{base}v1/worlds?{query}").read() == b"[]"
        assert urllib.request.urlopen(f"{base}metrics?{query}").status == 200
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{base}metrics")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
