"""A prompt that is changed while walking: taken at the next chunk, with a receipt, and kept with the world."""

import numpy as np
import pytest

import tiny_wan
from context_as_memory.errors import UserError
from context_as_memory.server.limits import Limits
from context_as_memory.server.protocol import ChunkStats, Event, Init, Ready, Rewind
from context_as_memory.server.session import NewFrames, Session
from context_as_memory.server.store import FolderStore
from tiny import hold

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def model(pipelines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "model"
    return tiny_wan.adapted(pipelines["ti2v"], folder, "ti2v", chunk_latents=1, steps=1)


@pytest.fixture
def session(model, tmp_path):
    made = Session(FolderStore(tmp_path / "worlds", model, "cpu", prompt="old stone"), Limits())
    yield made
    made.close()


def stepped(session):
    told = session.step()
    frames, (stats,) = (
        [item for item in told if isinstance(item, NewFrames)],
        [i for i in told if isinstance(i, ChunkStats)],
    )
    return [item.frames_u8 for item in frames], stats


def prompts(session):
    return [note.get("prompt") for _, note in session._world.bank.store.notes()]


def test_it_is_taken_at_the_next_chunk_and_acknowledged(session):
    ready, *_ = session.receive(Init(compare=True))
    assert isinstance(ready, Ready) and ready.prompt == "old stone"
    session.receive(hold("w", 1))
    assert stepped(session)[1].event_id == 1
    session.receive(Event(kind="prompt", payload="a red room", event_id=7))
    session.receive(Event(kind="prompt", payload="came late", event_id=6))
    session.receive(hold("j", 3))  # of another kind: it is the newest of its own
    _, stats = stepped(session)
    assert (stats.event_id, stats.received_event_id) == (7, 7)
    assert prompts(session) == [None, "old stone", "a red room"]
    assert session._forgetful.prompt == "a red room"
    assert session._world.bank.cameras.forward[-1][1] > session._world.bank.cameras.forward[1][1]  # turned left
    session.receive(Event(kind="prompt", payload="", event_id=8))
    stepped(session)
    assert prompts(session)[-1] == ""


def test_pictures_follow_it(session, model, tmp_path):
    other = Session(FolderStore(tmp_path / "others", model, "cpu", prompt="old stone"), Limits())
    for one in (session, other):
        one.receive(Init())
        one.receive(hold("w", 1))
    assert np.array_equal(stepped(session)[0][0], stepped(other)[0][0])
    other.receive(Event(kind="prompt", payload="blue", event_id=2))
    assert not np.array_equal(stepped(session)[0][0], stepped(other)[0][0])
    other.close()


def test_going_back_says_what_was_said_then(session):
    session.receive(Init(prompt="a temple"))
    session.receive(hold("w", 1))
    stepped(session)
    session.receive(Event(kind="prompt", payload="blue", event_id=2))
    stepped(session)
    assert prompts(session) == [None, "a temple", "blue"]
    ready, *_ = session.receive(Rewind(frame=2))
    assert ready.prompt == "a temple"


def test_a_prompt_that_nothing_can_read_is_refused_and_the_walk_goes_on(session):
    session.receive(Init())
    session.receive(hold("w", 1))
    stepped(session)
    session._world.model.words.base = None  # as if the encoder had never been fetched
    with pytest.raises(UserError, match="'green' cannot be read"):
        session.receive(Event(kind="prompt", payload="green", event_id=2))
    stepped(session)
    assert prompts(session)[-1] == "old stone"


def test_a_store_refuses_a_prompt_for_weights_that_read_none(weights, tmp_path):
    with pytest.raises(UserError, match="read no text"):
        FolderStore(tmp_path / "worlds", weights, "cpu", prompt="a temple")
