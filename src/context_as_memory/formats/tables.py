"""Camera files that are rows of numbers: RealEstate10K, TUM, KITTI, EuRoC, 7-Scenes, TartanAir, ARKitScenes, CSV.

Columns are told by their names where a heading gives some, else by their number.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.formats.files import read_text
from context_as_memory.formats.poses import Found, axis_angle_rotations, inverse, matrices, quaternion_poses
from context_as_memory.formats.vertical import forward_share

# What columns are called, without units, punctuation and case.
_NAMES = {
    "time": ("timestamp", "time", "t", "ts", "frame", "frameid", "index", "number"),
    "x": ("x", "tx", "px", "posx", "positionx", "prsrx", "prx", "locationx"),
    "y": ("y", "ty", "py", "posy", "positiony", "prsry", "pry", "locationy"),
    "z": ("z", "tz", "pz", "posz", "positionz", "prsrz", "prz", "locationz"),
    "qx": ("qx", "qrsx", "rotx", "quatx", "rotationx", "orientationx"),
    "qy": ("qy", "qrsy", "roty", "quaty", "rotationy", "orientationy"),
    "qz": ("qz", "qrsz", "rotz", "quatz", "rotationz", "orientationz"),
    "qw": ("qw", "qrsw", "rotw", "quatw", "rotationw", "orientationw"),
    "roll": ("roll", "rolldeg"),
    "pitch": ("pitch", "pitchdeg"),
    "yaw": ("yaw", "yawdeg", "heading"),
    "fx": ("fx", "flx"),
    "fy": ("fy", "fly"),
    "cx": ("cx",),
    "cy": ("cy",),
}
_PLACE, _QUATERNION, _LENS = ("x", "y", "z"), ("qx", "qy", "qz", "qw"), ("fx", "fy", "cx", "cy")
RE10K_COLUMNS = 19
BARELY_TURNED = 0.97  # real part of a turn by less than 28 degrees
_HINT = "give TUM (t x y z qx qy qz qw), KITTI (3x4 by rows), RealEstate10K (19 numbers), or name the columns"


@dataclass(frozen=True)
class Rows:
    """Lines of a text as words. heading: words of the line before the first row, if it was no row; lines: of the rows,
    from 1."""

    heading: tuple[str, ...]
    words: list[list[str]]
    lines: list[int]

    def numbers(self) -> np.ndarray:
        """All rows as float64 [N, columns]; `UserError` names the first line that is not like the others."""
        if not self.words:
            raise UserError("no row of numbers in it; write numbers with a point for decimals and spaces between them")
        columns = Counter(len(row) for row in self.words).most_common(1)[0][0]
        table = np.empty((len(self.words), columns))
        for i, (row, line) in enumerate(zip(self.words, self.lines, strict=True)):
            if len(row) != columns:
                raise UserError(f"line {line} has {len(row)} entries, the others {columns}; mend it")
            for j, word in enumerate(row):
                value = number(word)
                if value is None:
                    raise UserError(f"line {line}: {word[:20]!r} is not a number; mend it")
                table[i, j] = value
        return table


def number(word: str) -> float | None:
    """The number that a word stands for, or None. Python's own extras (`1_000`) are none."""
    if "_" in word:
        return None
    try:
        return float(word)
    except ValueError:
        return None


def split_rows(text: str) -> Rows:
    """Words of a text with one camera a line, whatever separates them: spaces, tabs, commas, semicolons.

    With semicolons or tabs, a comma may stand for the decimal point. Lines that begin with # or // are comments; the
    last one before the rows may be a heading.
    """
    lines = [line.strip() for line in text.splitlines()]
    content = [line for line in lines if line and not line.startswith(("#", "//", "%"))]
    sample = content[-1] if content else ""
    if ";" in sample:
        separator = ";"
    elif "\t" in sample:
        separator = "\t"
    elif "," in sample and len(sample.split(",")) > 3:
        separator = ","
    else:
        separator = " "
    heading: tuple[str, ...] = ()
    words: list[list[str]] = []
    numbers: list[int] = []
    for line_number, line in enumerate(lines, start=1):
        if not line:
            continue
        comment = line.startswith(("#", "//", "%"))
        parts = _split(line.lstrip("#/% "), separator)
        if comment or (not words and _is_heading(parts)):
            heading = tuple(parts) if not words else heading
            continue
        words.append(parts)
        numbers.append(line_number)
    return Rows(heading, words, numbers)


def _split(line: str, separator: str) -> list[str]:
    parts = line.split() if separator == " " else [part.strip() for part in line.split(separator)]
    if separator in ";\t":
        parts = [re.sub(r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)$", r"\1.\2", part) for part in parts]
    while len(parts) > 1 and parts[-1] == "":
        parts.pop()
    return [part.strip('"') for part in parts]


def _is_heading(parts: Sequence[str]) -> bool:
    """Whether a line is words: fewer than half of it are numbers."""
    return sum(number(part) is not None for part in parts) * 2 < len(parts)


def read_table(path: Path, text: str | None = None) -> Found:
    """Any camera file with one camera a line (or one 4x4 matrix over four lines). `UserError` without its name."""
    rows = split_rows(read_text(path) if text is None else text)
    if not rows.words:
        raise UserError("no camera rows; each row is one camera: " + _HINT)
    common = Counter(len(row) for row in rows.words).most_common(1)[0][0]
    address = any("://" in word for word in rows.heading) or len(rows.heading) == 1
    if common in (18, 19, 20) or address:
        return read_re10k_rows(rows)
    named = _named_columns(rows.heading, common)
    table = rows.numbers()
    if named is not None:
        return _by_name(path, table, named)
    return _by_count(path, table)


def read_re10k_rows(rows: Rows) -> Found:
    """RealEstate10K: `timestamp fx fy cx cy 0 0` and a 3x4 world-to-camera matrix by rows; the lens in shares."""
    table = np.empty((len(rows.words), RE10K_COLUMNS))
    times_known = True
    for i, (words, line) in enumerate(zip(rows.words, rows.lines, strict=True)):
        values = [number(word) for word in words]
        # The first entry is a time in some unit: it may be written as 00:00:00, and is not needed.
        if len(values) != RE10K_COLUMNS or any(value is None for value in values[1:]):
            raise UserError(f"line {line} is not 19 numbers; each row is timestamp fx fy cx cy 0 0 and a 3x4 w2c")
        times_known = times_known and values[0] is not None
        table[i] = [0.0 if value is None else value for value in values]
    return Found(
        kind="a RealEstate10K file",
        poses=matrices(table[:, 7:]),
        w2c=True,
        axes="opencv",
        K=table[:, 1:5],
        shares=True,
        times_s=table[:, 0] / 1e6 if times_known else None,
        scale_known=False,
    )


def _named_columns(heading: Sequence[str], columns: int) -> dict[str, int] | None:
    """Which column is what, by a heading that names at least a position and a rotation; else None."""
    if len(heading) != columns:
        return None
    found: dict[str, int] = {}
    for column, word in enumerate(heading):
        plain = re.sub(r"[^a-z0-9]", "", re.sub(r"[\[(].*?[\])]", "", word.lower()))
        for name, spellings in _NAMES.items():
            if plain in spellings and name not in found:
                found[name] = column
                break
    places = all(name in found for name in _PLACE)
    turned = all(name in found for name in _QUATERNION) or all(name in found for name in ("roll", "pitch", "yaw"))
    return found if places and turned else None


def _by_name(path: Path, table: np.ndarray, named: dict[str, int]) -> Found:
    places = table[:, [named[name] for name in _PLACE]]
    times = table[:, named["time"]] if "time" in named else None
    K = table[:, [named[name] for name in _LENS]] if all(name in named for name in _LENS) else None
    used = set(named.values())
    notes = []
    if len(used) < table.shape[1]:
        notes.append(f"{table.shape[1] - len(used)} of {table.shape[1]} columns are no pose and are not used")
    if "qw" not in named:
        raise UserError(
            "roll, pitch and yaw mean something else in every program; give quaternions (qx qy qz qw) or matrices"
        )
    poses = quaternion_poses(places, table[:, [named[name] for name in _QUATERNION]])
    found = Found(kind="a table with named columns", poses=poses, K=K, times_s=_seconds(times), notes=notes)
    if named["qw"] < named["qx"] and table.shape[1] >= 8 and times is not None:
        return _euroc(path, found)
    return found


def _by_count(path: Path, table: np.ndarray) -> Found:
    """What a table without names is, by the number of its columns."""
    count, columns = table.shape
    if columns == 12:
        return Found(kind="a KITTI file", poses=matrices(table), axes="opencv")
    if columns == 16:
        return Found(kind="a table of 4x4 matrices", poses=matrices(table))
    if columns == 13:
        return Found(kind="a table of times and 3x4 matrices", poses=matrices(table[:, 1:]), times_s=table[:, 0])
    if columns == 4 and count % 4 == 0:
        return Found(kind="4x4 matrices", poses=matrices(table.reshape(-1, 4, 4)))
    if columns == 17:
        if np.allclose(table[:, 13:], [0, 0, 0, 1]):
            return Found(kind="a table of times and 4x4 matrices", poses=matrices(table[:, 1:]), times_s=table[:, 0])
        xyzw = table[:, [5, 6, 7, 4]]
        poses = quaternion_poses(table[:, 1:4], xyzw)
        return _euroc(path, Found(kind="a table", poses=poses, times_s=_seconds(table[:, 0])))
    if columns == 8:
        poses, notes = quaternion_poses(table[:, 1:4], table[:, 4:]), _real_part_doubts(table[:, 1:4], table[:, 4:])
        return Found(kind="a TUM file", poses=poses, axes="opencv", times_s=_seconds(table[:, 0]), notes=notes)
    if columns == 7:
        if np.abs(np.linalg.norm(table[:, 3:], axis=1) - 1).max() < 0.01:
            return _tartan(path, table)
        poses = np.tile(np.eye(4), (count, 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = axis_angle_rotations(table[:, 1:4]), table[:, 4:]
        up = (0.0, 0.0, 1.0)
        return Found(kind="an ARKitScenes file", poses=poses, w2c=True, axes="opencv", times_s=table[:, 0], up=up)
    raise UserError(f"rows of {columns} numbers are no camera format that is known here; {_HINT}")


def _tartan(path: Path, table: np.ndarray) -> Found:
    """x y z qx qy qz qw. TartanAir's own files (pose_left.txt) count in north, east, down."""
    poses, notes = quaternion_poses(table[:, :3], table[:, 3:]), _real_part_doubts(table[:, :3], table[:, 3:])
    if re.fullmatch(r"pose_(left|right|[lr]cam_\w+)", path.stem):
        return Found(kind="a TartanAir file", poses=poses, axes="ned", up=(0.0, 0.0, -1.0), notes=notes)
    note = "rows of x y z qx qy qz qw are taken for OpenCV axes; for TartanAir's say --axes ned"
    return Found(kind="a table of positions and quaternions", poses=poses, notes=[note, *notes])


def _real_part_doubts(places: np.ndarray, quaternions: np.ndarray) -> list[str]:
    """Whether unnamed quaternions [N,4] at positions [N,3] look as if their real part came first. No length tells it,
    but paths begin near no turn at all, (0, 0, 0, 1) or (1, 0, 0, 0), and go forward."""
    if not len(quaternions):
        return []
    first = np.abs(quaternions[0]) / np.linalg.norm(quaternions[0])
    now, other = (
        float(np.nan_to_num(forward_share(quaternion_poses(places, quaternions[:, order]))))
        for order in ([0, 1, 2, 3], [1, 2, 3, 0])
    )
    begins, goes = first[0] > BARELY_TURNED, other >= max(0.6, now + 0.3)
    if not (begins or goes) or now >= max(0.6, other + 0.3):
        return []
    sign = "the first camera is turned over" if begins else f"only {100 * now:.0f} % of the steps go forward"
    return [
        f"{sign} if its quaternions are qx qy qz qw, as assumed; if the real part is first, write the names of the "
        f"columns into a first line (time x y z qw qx qy qz, without time if there is none)"
    ]


def _seconds(times: np.ndarray | None) -> np.ndarray | None:
    """Times in seconds: whole numbers above 1e15 are nanoseconds, as EuRoC writes them."""
    if times is None or not len(times):
        return None
    return times / 1e9 if np.abs(times).min() > 1e15 else times


def _euroc(path: Path, found: Found) -> Found:
    """EuRoC: poses of the body; those of the camera follow from T_BS in cam0/sensor.yaml near the file."""
    places = [path.parent / "sensor.yaml", *(up / "cam0" / "sensor.yaml" for up in list(path.parents)[:3])]
    sensor = next((place for place in places if place.is_file() and "T_BS" in read_text(place)), None)
    if sensor is None or (sensor.parent == path.parent and "camera" not in read_text(sensor)):
        note = "no cam0/sensor.yaml is near, so the poses are taken for the camera's own, not the body's"
        return Found(kind="a EuRoC file", poses=found.poses, times_s=found.times_s, notes=[*found.notes, note])
    text = read_text(sensor)
    body_from_camera = np.array(_list(text, r"T_BS\s*:.*?data\s*:", sensor, 16)).reshape(4, 4)
    K = np.array(_list(text, r"intrinsics\s*:", sensor, 4))
    width, height = _list(text, r"resolution\s*:", sensor, 2)
    notes = list(found.notes)
    if re.search(r"distortion_coefficients\s*:\s*\[[^\]]*[1-9]", text):
        notes.append(f"the distortion in {sensor.name} is not undone; undistort the pictures for exact cameras")
    return Found(
        kind="a EuRoC file",
        poses=found.poses @ body_from_camera,
        axes="opencv",
        K=K,
        shares=False,
        size=(int(width), int(height)),
        times_s=found.times_s,
        up=(0.0, 0.0, 1.0),
        lens_file=sensor.name,
        notes=notes,
    )


def _list(text: str, key: str, path: Path, count: int) -> list[float]:
    match = re.search(key + r"\s*\[([^\]]*)\]", text, flags=re.DOTALL)
    values = [number(word.strip()) for word in match[1].split(",")] if match else []
    if len(values) != count or any(value is None for value in values):
        raise UserError(f"{path} has no list of {count} numbers after {key.split(chr(92))[0]}; mend it")
    return [value for value in values if value is not None]


def read_matrix_files(files: Sequence[Path]) -> Found:
    """A folder of texts with one 4x4 matrix each, such as 7-Scenes (frame-000000.pose.txt) and ScanNet."""
    found = []
    for file in files:
        table = split_rows(read_text(file))
        rows = table.numbers() if table.words else np.empty((0, 0))
        if rows.shape not in ((4, 4), (3, 4), (1, 16), (1, 12)):
            raise UserError(f"{file} holds no 4x4 matrix; give one pose a file")
        if not np.isfinite(rows).all():
            raise UserError(f"{file} holds a pose that is not finite; remove it and its picture")
        found.append(matrices(rows if rows.shape[0] > 1 else rows.reshape(1, -1))[0])
    seven = files[0].name.endswith(".pose.txt")
    kind = "a folder of 7-Scenes poses" if seven else "a folder of 4x4 matrices"
    return Found(
        kind=kind, poses=np.array(found), axes="opencv", names=tuple(file.name.split(".")[0] for file in files)
    )


def read_kitti_calibration(path: Path) -> np.ndarray:
    """fx fy cx cy, float64 [4], of the left grey (P0) or colour (P2) camera from KITTI's calib.txt."""
    for line in read_text(path).splitlines():
        match = re.match(r"P[02]\s*:\s*(.*)", line)
        if match:
            values = [number(word) for word in match[1].split()]
            if len(values) == 12 and None not in values:
                matrix = np.array(values, np.float64).reshape(3, 4)
                return matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
    raise UserError(f"{path} has no row P0: with 12 numbers; give KITTI's calib.txt")


def camera_rows(poses: np.ndarray, *, w2c: bool = False) -> np.ndarray:
    """Poses [N,4,4] as rows of 12 numbers, turned to world-to-camera if asked."""
    return np.asarray((inverse(poses) if w2c else poses)[:, :3].reshape(-1, 12))
