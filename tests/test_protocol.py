"""What browser and server say to each other, and the pictures in it."""

import contextlib
import io
import struct
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from context_as_memory.errors import UserError
from context_as_memory.server.pictures import decode_upload, encode_pictures
from context_as_memory.server.protocol import (
    MAX_MESSAGE_BYTES,
    ChunkStats,
    Edit,
    Event,
    Failure,
    Fork,
    Init,
    ProtocolError,
    Rewind,
    Settings,
    Switch,
    decode,
    encode,
    held_keys,
)

TEXT, NUMBERS = st.text(max_size=20), st.integers(-(2**40), 2**60)
MESSAGES = st.one_of(
    st.builds(
        Init,
        first_frame=st.none() | st.binary(max_size=20),
        start=st.none() | TEXT,
        seed=NUMBERS,
        strategy=TEXT,
        max_context=st.none() | NUMBERS,
        watch=st.none() | TEXT,
        compare=st.booleans(),
    ),
    st.builds(
        Event,
        kind=TEXT | st.just("camera_actions"),
        event_id=st.none() | NUMBERS,
        payload=st.none() | TEXT | st.lists(st.lists(TEXT, max_size=2), max_size=3),
    ),
    st.builds(Settings, strategy=TEXT, max_context=NUMBERS, compare=st.booleans()),
    st.builds(Rewind, frame=NUMBERS),
    st.builds(Fork, frame=NUMBERS, name=TEXT),
    st.builds(Switch, branch=TEXT),
    st.builds(Edit, frame=NUMBERS, picture=st.binary(max_size=20)),
    st.builds(Failure, content=TEXT),
    st.builds(
        ChunkStats,
        chunk_index=NUMBERS,
        event_id=st.none() | NUMBERS,
        received_event_id=st.none() | NUMBERS,
        num_frames=NUMBERS,
        chunk_total_ms=NUMBERS,
        content_type=TEXT,
        frames=NUMBERS,
        frames_per_second=st.floats(0, 99),
        resident_mb=st.none() | NUMBERS,
        seconds=st.dictionaries(TEXT, st.floats(0, 9), max_size=3),
    ),
)


# -- messages --------------------------------------------------------------------------------------------------------


@given(MESSAGES)
def test_every_message_comes_back_as_it_went(message):
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_noise_is_never_more_than_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        decode(data)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "map"),
        ({"type": "dance"}, "unknown message type"),
        ({"type": "event", "payload": 1}, "missing"),
        ({"type": "event", "kind": 1}, "kind has the wrong type"),
        ({"type": "event", "kind": "x", "event_id": True}, "event_id has the wrong type"),
        ({"type": "settings", "strategy": "x", "max_context": 1, "more": 1}, "unknown field"),
        ({"type": "fork", "frame": 1, "name": "x" * MAX_MESSAGE_BYTES}, "at most"),
        ({"type": "init", "condition_inputs": {"camera_actions": [[]] * MAX_MESSAGE_BYTES}}, "at most"),
        ({1: 2}, "text keys"),
    ],
)
def test_what_is_no_message_is_named(value, words):
    with pytest.raises(ProtocolError, match=words):
        decode(msgpack.packb(value), 1_000_000)


def test_what_means_nothing_here_is_never_built():
    """A field of another server may be large: it is passed over as bytes."""
    message = decode(msgpack.packb({"type": "init", "other": [[]] * 900_000, "seed": 3}), 1_000_000)
    assert message == Init(seed=3)
    with pytest.raises(ProtocolError, match="more than one|ValueError"):
        decode(msgpack.packb({"type": "event", "kind": "heartbeat"}) + b"\x01")
    with pytest.raises(UserError, match="script"):
        held_keys([[]] * 10_001)


def test_messages_of_sglangs_clients_are_understood():
    """Fields that mean nothing here are passed over; both forms of camera actions are read."""
    init = {"type": "init", "prompt": "a cellar", "size": "832x480", "guidance_scale": 1.0, "seed": 7,
            "realtime_output_format": "jpeg", "condition_inputs": {"camera_actions": [["w"], ["W", "j"]]}}  # fmt: skip
    message = decode(msgpack.packb(init))
    assert isinstance(message, Init) and message.seed == 7 and message.condition_inputs is not None
    assert held_keys(message.condition_inputs["camera_actions"]) == [frozenset("w"), frozenset("wj")]
    event = {"type": "event", "kind": "camera_actions", "event_id": 3, "client_sent_perf_ms": 1.5,
             "payload": {"mode": "state", "transitions": [{"actions": ["w"]}, {"actions": []}]}}  # fmt: skip
    message = decode(msgpack.packb(event))
    assert isinstance(message, Event) and held_keys(message.payload) == frozenset()
    for payload in (None, 3, ["w"], [["q"]], {"mode": "state"}, {"mode": "state", "transitions": []}, {"mode": "x"}):
        with pytest.raises(UserError, match="camera_actions"):
            held_keys(payload)


# -- pictures --------------------------------------------------------------------------------------------------------


def test_every_format_shows_the_frames():
    import av

    ramp = np.linspace(0, 200, 64 * 48).reshape(48, 64)
    frames = np.stack([np.stack([ramp, ramp + 20, ramp + 40], -1) + step for step in range(4)]).astype(np.uint8)
    raw = np.stack([np.frombuffer(data, np.uint8).reshape(48, 64, 3) for data in encode_pictures(frames, "raw")])
    assert (raw == frames).all()
    jpegs = [np.asarray(Image.open(io.BytesIO(data))) for data in encode_pictures(frames, "jpeg")]
    decoder = av.CodecContext.create("h264", "r")
    packets = encode_pictures(frames, "h264")
    assert len(packets) == 4 and packets[0].startswith(b"\0\0\0\1")  # a picture each, Annex B
    films = [frame for data in packets for frame in decoder.decode(av.Packet(data))] + decoder.decode(None)
    assert films[0].key_frame
    for shown in (np.stack(jpegs), np.stack([frame.to_ndarray(format="rgb24") for frame in films])):
        assert shown.shape == frames.shape and np.abs(shown.astype(int) - frames).mean() < 4


def _png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_uploaded_pictures_are_decoded_within_limits():
    buffer = io.BytesIO()
    Image.fromarray(np.full((90, 160, 3), 80, np.uint8)).save(buffer, "JPEG")
    frame = decode_upload(buffer.getvalue(), 64, 48, 1_000_000)
    assert frame.shape == (48, 64, 3) and abs(int(frame.mean()) - 80) < 3
    gif = io.BytesIO()
    Image.new("RGB", (9, 9)).save(gif, "GIF")
    for data, words in (
        (b"", "no picture"),
        (b"<svg/>", "no picture"),
        (gif.getvalue(), "no picture"),  # only the three kinds, whatever else the library reads
        (buffer.getvalue()[:300], "damaged"),
        (_png_of(30_000, 30_000), "pixels"),  # judged by its header, before it is unpacked
        (_png_of(3, 30_000), "too few"),
    ):
        with pytest.raises(UserError, match=words):
            decode_upload(data, 64, 48, 1_000_000)
