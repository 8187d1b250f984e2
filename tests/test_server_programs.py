"""The session API of the server, for programs."""

import base64
import io
import time

import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from context_as_memory.camera import MotionSpeed
from context_as_memory.server.app import OPENAPI, create_app
from context_as_memory.server.limits import Limits
from context_as_memory.server.store import FolderStore
from tiny import PaintedWorld

HERE = "http://127.0.0.1"


@pytest.fixture
def client(store):
    with TestClient(create_app(store, Limits(sessions=3, stored_worlds=4, free_bytes=0)), base_url=HERE) as client:
        yield client


def _begin(client, **asked):
    answer = client.post("/v1/sessions", json=asked)
    assert answer.status_code == 201, answer.text
    return answer.json()


def _step(client, session, **asked):
    answer = client.post(f"/v1/sessions/{session}/step", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_begin_step_and_close(client):
    standing = _begin(client, seed=3)
    assert standing["first"] == 0 and len(standing["images"]) == len(standing["poses"]) == 1
    picture = Image.open(io.BytesIO(base64.b64decode(standing["images"][0])))
    assert picture.size == (standing["width"], standing["height"])
    count = standing["chunk_frames"]
    walked = _step(client, standing["session"], keys=["w"])
    assert walked["first"] == 1 and len(walked["images"]) == len(walked["poses"]) == count
    way = np.array(walked["poses"])[:, :3, 3] - np.array(standing["poses"])[0, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), MotionSpeed().move_m * np.arange(1, count + 1), atol=1e-9)
    assert walked["context"] == [0] and walked["frames_per_second"] > 0
    assert _step(client, standing["session"], keys=[])["first"] == 1 + count
    assert client.post(f"/v1/sessions/{standing['session']}/close").status_code == 204
    gone = client.post(f"/v1/sessions/{standing['session']}/step", json={"keys": ["w"]})
    assert gone.status_code == 404 and "no such session" in gone.json()["detail"]
    again = _begin(client, world=standing["world"])
    assert again["first"] == 2 * count, "the world is stored and gone on with"


def test_poses_are_followed_as_they_are(client):
    standing = _begin(client, format="raw")
    poses = np.repeat(np.array(standing["poses"]), standing["chunk_frames"], axis=0)
    poses[:, 2, 3] += 0.2 * np.arange(1, len(poses) + 1)
    walked = _step(client, standing["session"], poses=poses.tolist())
    np.testing.assert_array_equal(walked["poses"], poses)
    with_keys = _begin(client, format="raw")
    first = _step(client, with_keys["session"], keys=["j"])
    same = _begin(client, format="raw")
    again = _step(client, same["session"], poses=first["poses"])
    assert again["images"] == first["images"], "keys are poses, too"


def test_both_sides_of_a_fork_go_on_as_if_alone(client):
    trunk = _begin(client, seed=5, format="raw")
    _step(client, trunk["session"], keys=["w"])
    answer = client.post(f"/v1/sessions/{trunk['session']}/fork", json={})
    assert answer.status_code == 201, answer.text
    branch = answer.json()
    assert branch["session"] != trunk["session"] and branch["world"] != trunk["world"]
    assert branch["first"] == trunk["chunk_frames"]
    left, right = _step(client, trunk["session"], keys=["l"]), _step(client, branch["session"], keys=["l"])
    assert left["images"] == right["images"]
    _step(client, trunk["session"], keys=["w"])
    _step(client, branch["session"], keys=["s"])
    assert client.post(f"/v1/sessions/{trunk['session']}/close").status_code == 204
    assert _step(client, branch["session"], keys=["j"])["first"] == 1 + 3 * trunk["chunk_frames"]


def test_reset_begins_anew_in_the_same_session(client):
    standing = _begin(client, seed=5, format="raw")
    before = _step(client, standing["session"], keys=["j"])
    answer = client.post(f"/v1/sessions/{standing['session']}/reset", json={"seed": 5, "format": "raw"})
    assert answer.status_code == 200, answer.text
    again = answer.json()
    assert again["session"] == standing["session"] and again["world"] != standing["world"] and again["first"] == 0
    assert _step(client, standing["session"], keys=["j"])["images"] == before["images"]


@pytest.mark.parametrize(
    ("what", "asked", "status", "says"),
    [
        ("step", {}, 422, "Field required"),
        ("step", {"keys": ["w"], "poses": []}, 422, "not permitted"),
        ("step", {"keys": ["x"]}, 422, "keys"),
        ("step", {"poses": [np.eye(4).tolist()]}, 400, "1 poses; a chunk of this world has 4 frames"),
        ("step", {"poses": [np.ones((4, 4)).tolist()] * 4}, 400, "pose"),
        ("step", {"poses": [[[1.0]]] * 4}, 400, "pose 0 is no matrix of 4x4 numbers"),
        ("reset", {"start": "nowhere"}, 400, "nowhere"),
        ("reset", {"first_frame": "%%"}, 400, "base64"),
        ("reset", {"first_frame": base64.b64encode(b"no picture").decode()}, 400, "picture"),
        ("reset", {"world": "0" * 16}, 400, "keeps no world"),
        ("reset", {"strategy": "sorcery"}, 400, "sorcery"),
        ("reset", {"seeds": 1}, 422, "seeds"),
    ],
)
def test_bad_input_is_one_clear_error_and_the_session_goes_on(client, what, asked, status, says):
    session = _begin(client)["session"]
    answer = client.post(f"/v1/sessions/{session}/{what}", json=asked)
    assert answer.status_code == status and says in answer.text
    assert len(_step(client, session, keys=["w"])["images"]) == 4


def test_limits_and_doors_are_those_of_the_page(store):
    app = create_app(store, Limits(sessions=1, stored_worlds=1, free_bytes=0), token="word", hosts=("127.0.0.1",))
    with TestClient(app, base_url=HERE) as client:
        assert client.post("/v1/sessions", json={}).status_code == 403
        client.headers["authorization"] = "Bearer word"
        assert client.post("/v1/sessions", json={}, headers={"origin": "http://elsewhere"}).status_code == 403
        session = _begin(client)["session"]
        full = client.post("/v1/sessions", json={})
        assert full.status_code == 429 and "all 1 places are taken" in full.json()["detail"]
        assert client.post(f"/v1/sessions/{session}/fork", json={}).status_code == 429
        walked = client.post(
            f"/v1/sessions/{session}/step?token=word", json={"keys": []}, headers={"authorization": ""}
        )
        assert walked.status_code == 200


def test_a_session_that_nobody_asks_any_more_gives_its_place_away(store):
    app = create_app(store, Limits(sessions=1, idle_s=0.05, free_bytes=0))
    with TestClient(app, base_url=HERE) as client:
        session = _begin(client)["session"]
        hub = app.state.hub
        for _ in range(400):
            if not hub.broadcasts:
                break
            client.get("/healthz")
            time.sleep(0.02)
        assert not hub.broadcasts
        assert client.post(f"/v1/sessions/{session}/step", json={"keys": []}).status_code == 404


@pytest.fixture(scope="module")
def described(tmp_path_factory, weights):
    """What the server says of its sessions, with one of them to ask."""
    store = FolderStore(tmp_path_factory.mktemp("described"), weights, "cpu", PaintedWorld)
    app = create_app(store, Limits(sessions=3, stored_worlds=100, free_bytes=0), hosts=("127.0.0.1", "testserver"))
    with TestClient(app, base_url=HERE) as client:
        schema = schemathesis.openapi.from_asgi(OPENAPI, app).include(path_regex="^/v1/sessions")
        schema.session = _begin(client)["session"]
        yield schema


@pytest.mark.parametrize("what", ["", "/step", "/reset", "/fork", "/close"])
def test_what_the_description_says_holds(described, what):
    """Whatever is sent, allowed or not, is answered as the description says, and never with a fault."""
    found = [operation.ok() for operation in described.get_all_operations()]
    asked = next(one for one in found if one.path == "/v1/sessions" + ("/{session}" + what if what else ""))

    @given(asked.as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def answered(case):
        if what in ("/step", "/reset", "/fork"):
            case.path_parameters["session"] = described.session
        # What no schema can say (there is no such start place, a matrix is no pose) is refused with 400.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    answered()
