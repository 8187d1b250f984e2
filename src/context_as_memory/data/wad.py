"""Doom WAD archives: read, write, identify, and the add-on that gives the engine a free camera.

A WAD is a flat list of named byte strings ("lumps"). A map is a marker lump (its name, empty) followed by ten lumps of
geometry. The camera add-on consists of two small lumps, an actor definition in the engine's DECORATE language and a
script library in its ACS bytecode, both of which `camera_lumps` assembles; no compiler and no game logic is involved.
"""

import hashlib
import struct
from collections.abc import Iterable
from pathlib import Path

from context_as_memory.errors import UserError

Lump = tuple[str, bytes]

MAP_LUMPS = (
    "THINGS", "LINEDEFS", "SIDEDEFS", "VERTEXES", "SEGS", "SSECTORS", "NODES", "SECTORS", "REJECT", "BLOCKMAP",
)  # fmt: skip

# The two Freedoom archives as shipped inside the vizdoom 1.3 wheels. Another release has other maps: another world.
FREEDOOM_SHA256 = {
    "freedoom1.wad": "7323bcc168c5a45ff10749b339960e98314740a734c30d4b9f3337001f9e703d",
    "freedoom2.wad": "a8772e088847032510d97ba2312406a6998f21cbab44d4ff10696faa9c0ecd4b",
}


def read_wad(path: Path | str) -> list[Lump]:
    """All lumps of a WAD file in order. Raises `UserError` when the file is missing, is no WAD, or is cut short."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no WAD file at {path}; give the path of an existing .wad file")
    data = path.read_bytes()
    if data[:4] not in (b"IWAD", b"PWAD") or len(data) < 12:
        raise UserError(f"{path} is not a WAD file (it does not start with IWAD or PWAD); give a Doom archive")
    count, directory = struct.unpack_from("<ii", data, 4)
    if count < 0 or directory < 12 or directory + 16 * count > len(data):
        raise UserError(f"{path} is cut short: its directory lies beyond the end of the file; fetch the file again")
    lumps = []
    for index in range(count):
        start, size, raw_name = struct.unpack_from("<ii8s", data, directory + 16 * index)
        name = raw_name.split(b"\0", 1)[0].decode("latin1")
        if size < 0 or (size and (start < 0 or start + size > len(data))):
            raise UserError(f"{path} is cut short: lump {index} ({name}) lies beyond its end; fetch the file again")
        lumps.append((name, data[start : start + size]))
    return lumps


def write_wad(path: Path | str, lumps: Iterable[Lump]) -> None:
    """Write lumps as an add-on archive (PWAD); the inverse of `read_wad`. Names are at most 8 Latin-1 characters."""
    body, directory = bytearray(), bytearray()
    count = 0
    for name, data in lumps:
        if not 0 < len(name) <= 8:
            raise UserError(f"lump name {name!r} must have 1 to 8 characters")
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode("latin1"))
        body += data
        count += 1
    Path(path).write_bytes(struct.pack("<4sii", b"PWAD", count, 12 + len(body)) + body + directory)


def find_maps(lumps: list[Lump]) -> dict[str, dict[str, bytes]]:
    """The maps of an archive: map name -> its geometry lumps by name, in archive order."""
    maps = {}
    for index in range(1, len(lumps)):
        block = lumps[index : index + len(MAP_LUMPS)]
        if tuple(name for name, _ in block) == MAP_LUMPS:
            maps[lumps[index - 1][0]] = dict(block)
    return maps


def wad_sha256(path: Path | str, *, allow_other_wads: bool = False) -> str:
    """SHA-256 of an archive, checked against the pinned Freedoom release.

    Raises `UserError` for other contents, because the same map name would then show another world under an old seed,
    unless `allow_other_wads`.
    """
    path = Path(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = FREEDOOM_SHA256.get(path.name)
    if digest != expected and not allow_other_wads:
        raise UserError(
            f"{path} is not the pinned Freedoom archive (SHA-256 {digest[:12]}, expected {(expected or 'none')[:12]}): "
            "another release is another world; install vizdoom 1.3.2 or pass allow_other_wads"
        )
    return digest


# --- The camera add-on ----------------------------------------------------------------------------

SPAWN_SCRIPT, MOVE_SCRIPT = 902, 903

# Animated decorations, each frozen to its first sprite so that a place looks the same at every visit.
_FROZEN_SPRITES = {
    "BlueTorch": "TBLU", "GreenTorch": "TGRN", "RedTorch": "TRED",
    "ShortBlueTorch": "SMBT", "ShortGreenTorch": "SMGT", "ShortRedTorch": "SMRT",
    "TechLamp": "TLMP", "TechLamp2": "TLP2", "BurningBarrel": "FCAN", "ExplosiveBarrel": "BAR1",
    "EvilEye": "CEYE", "FloatingSkull": "FSKU", "HeartColumn": "COL5", "BloodyTwitch": "GOR1",
    "NonsolidTwitch": "GOR1", "LiveStick": "POL6", "HeadCandles": "POL3",
}  # fmt: skip


def _actor(header: str, properties: tuple[str, ...], sprite: str) -> str:
    # Every state keyword needs its own line: a one-line state block crashes the engine.
    lines = [f"ACTOR {header}", "{", *properties, "States", "{", "Spawn:", f"{sprite} A -1", "Stop", "}", "}", ""]
    return "\n".join(lines)


def _decorate() -> bytes:
    camera_properties = (
        "Radius 1",
        "Height 1",
        "CameraHeight 0",
        "+NOGRAVITY",
        "+NOBLOCKMAP",
        "+NOINTERACTION",
        "+NOCLIP",
    )
    actors = [_actor("MemoryCamera", camera_properties, "TNT1")]
    actors += [_actor(f"Frozen{name} : {name} replaces {name}", (), sprite) for name, sprite in _FROZEN_SPRITES.items()]
    return "".join(actors).encode("ascii")


def _words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _camera_scripts() -> bytes:
    """A script library in the engine's oldest bytecode layout ("ACS0", 32-bit words).

    Script 902 (x, y, z): spawn the camera, look through it, hide the player. Script 903 (x, y, z, angle): move the
    camera. Positions are 16.16 fixed point map units, angles 16-bit fractions of a turn.
    """
    terminate, drop, spawn, set_angle, set_position, set_property = (
        _words(code) for code in (1, 54, 149, 276, 283, 245)
    )
    camera, activator, actor_name = 77, 0, 0  # thing id, "whoever runs the script", index into the string table

    def number(value: int) -> bytes:
        return _words(3, value)

    def argument(index: int) -> bytes:
        return _words(28, index)

    position = argument(0) + argument(1) + argument(2)
    look_through = number(camera) + number(0) + number(0) + _words(6, 237)  # line special 237 is ChangeCamera
    hide_player = number(activator) + number(4) + number(0) + set_property  # property 4 is the render style, 0 is none
    spawn_code = number(actor_name) + position + number(camera) + number(0) + spawn + drop + look_through + hide_player
    move_code = number(camera) + position + number(0) + set_position + drop + number(camera) + argument(3) + set_angle
    spawn_code, move_code = spawn_code + terminate, move_code + terminate

    header_size = 8
    directory_at = header_size + len(spawn_code) + len(move_code)
    directory = _words(2, SPAWN_SCRIPT, header_size, 3, MOVE_SCRIPT, header_size + len(spawn_code), 4)
    string_table = _words(1, directory_at + len(directory) + 8) + b"MemoryCamera\0"
    return b"ACS\0" + _words(directory_at) + spawn_code + move_code + directory + string_table


def camera_lumps() -> list[Lump]:
    """The lumps that give the engine a free camera in a still world; put static maps behind them with `write_wad`."""
    return [
        ("LOADACS", b"CAMLIB\n"),
        ("A_START", b""),
        ("CAMLIB", _camera_scripts()),
        ("A_END", b""),
        ("DECORATE", _decorate()),
        ("ANIMATED", b"\xff" + bytes(22)),  # a bare terminator: no floor or wall texture is animated
    ]
