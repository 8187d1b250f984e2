"""The yardstick: every way of measuring, defined once. Suites are lists of these; every number names its protocol.

`scenes` draws what is measured on, `contexts` says what a generator may read. A protocol turns them into clips: values
by name, pictures to look at, arrays for films. The name of a clip begins with its protocol.
"""

PROTOCOLS = {
    "codec": "recorded frames encoded and decoded, without a denoiser",
    "chunk": "one chunk anywhere on a recorded path, generated from recorded frames, against the recorded chunk",
    "return": "the same where the view was seen long ago and hardly in the last four frames: only memory can know it",
    "swap": "returns with wrong frames in memory: of the same walk but showing something else, or of another scene",
    "visibility": "retrieved frames against what the walls of the true map let every frame see",
    "gate": "recorded walks that leave a view and come back, on own frames; counted only if the pictures left too",
    "mirror": "own frames out and back along the same poses; every frame of the way back against its mirror",
    "closure": "turn 90 degrees away from the one given picture and back; the given picture against the last frame",
    "still": "200 frames without moving, and ten turns by 10 degrees and back, against the given picture",
    "territory": "long walks on own frames from one picture along recorded paths: looks of the last frames",
    "videos": "every return in a video against its first visit",
    "control": "how the camera moved, told from pairs of pictures, against how it was commanded to",
}


def protocol_of(metric: str, kind: str) -> str:
    """The protocol of a metric in a clip of a kind (the first part of the clip's name)."""
    name = metric.rpartition(".")[0] or metric
    if kind == "return" and any(word in metric for word in ("swap", "wrong_same_trajectory", "other_scene")):
        return "swap"
    if name.startswith("retrieval"):
        return "visibility"
    if name in ("closure", "mirror", "control"):
        return name
    return kind if kind in PROTOCOLS else "videos"
