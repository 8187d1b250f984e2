"""Numbers of camera files as rigid motions: rotations near enough to one, quaternions, axes, the found poses."""

from dataclasses import dataclass, field, replace

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.formats.options import METRES, PoseOptions

ROUNDED = 0.01  # how far rounded rotations are from orthonormal at most: 3 decimals, half precision, textbook formulas
# Columns: the camera's right, down and forward in the axes that a file counts in.
_AXES = {
    "opencv": np.eye(3),
    "opengl": np.diag([1.0, -1.0, -1.0]),
    "unreal": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "ned": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
}
_LEFT_HANDED = np.diag([1.0, -1.0, 1.0])  # Unreal's world becomes right-handed by turning y around
_UPS = {"x": (1.0, 0, 0), "y": (0.0, 1, 0), "z": (0.0, 0, 1)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What stands in a camera file, in its own terms.

    kind: name of the format. poses: float64 [N,4,4]. w2c, axes, unit: what the format says they are; None where it does
    not say (then camera-to-world, OpenCV, metres are assumed). K: [4] or [N,4] fx fy cx cy, or None. shares: whether K
    is in shares of the image size; None: told by its values. size: width and height that K is for. hfov_deg: a field of
    view instead of K. square: whether a lens without size has square pixels. numbers, times_s, names: of the frames, as
    the file has them. up: of the file's world, where the format knows it. lens_file: where the lens was read.
    scale_known: whether positions are in `unit` at all, or in a scale of their own. fixed: axes and direction are part
    of the format (angles), no option changes them. notes: what was not used.
    """

    kind: str
    poses: np.ndarray
    w2c: bool | None = None
    axes: str | None = None
    unit: str | None = None
    K: np.ndarray | None = None
    shares: bool | None = None
    size: tuple[int, int] | None = None
    hfov_deg: float | None = None
    numbers: tuple[int, ...] | None = None
    times_s: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    up: tuple[float, float, float] | None = None
    lens_file: str = ""
    scale_known: bool = True
    fixed: bool = False
    notes: list[str] = field(default_factory=list)

    def picked(self, order: np.ndarray | list[int]) -> "Found":
        """The same with some frames only, by number [n], in this order."""
        order = np.asarray(order, np.int64)
        K = self.K[order] if self.K is not None and self.K.ndim == 2 else self.K
        return replace(
            self,
            poses=self.poses[order],
            K=K,
            numbers=None if self.numbers is None else tuple(self.numbers[i] for i in order),
            times_s=None if self.times_s is None else self.times_s[order],
            names=None if self.names is None else tuple(self.names[i] for i in order),
        )


def camera_to_world(found: Found, options: PoseOptions) -> tuple[np.ndarray, np.ndarray | None]:
    """Poses of a file as `c2w` [N,4,4] with OpenCV axes in metres, right-handed; and the known up of that world, [3].

    Options go before what the format says. `UserError` names the first frame that is no rigid motion.
    """
    if found.fixed:
        for flag, given in (("--axes", options.axes not in (None, "unreal")), ("--w2c", options.w2c)):
            if given:
                raise UserError(f"this is {found.kind}, whose axes and direction are known; leave {flag} away")
    axes = found.axes if found.fixed else options.axes or found.axes
    poses = nearest_rigid(found.poses)
    if options.w2c or found.w2c:
        poses = inverse(poses)
    up = found.up
    if axes == "unreal":
        c2w = poses @ _four(_AXES["unreal"])
        c2w = _four(_LEFT_HANDED) @ c2w
        up = up or (0.0, 0.0, 1.0)
    else:
        c2w = poses @ _four(_AXES[axes or "opencv"])
        up = up or ((0.0, 0.0, -1.0) if axes == "ned" else None)
    if options.up is not None:
        up = up_vector(options.up)
        if axes == "unreal":
            up = (up[0], -up[1], up[2])
    unit = options.unit or found.unit or ("cm" if axes == "unreal" else "m")
    c2w[:, :3, 3] *= METRES[unit]
    return c2w, None if up is None else np.array(up)


def up_vector(name: str) -> tuple[float, float, float]:
    """The direction of an option such as `-y`."""
    sign = -1.0 if name.startswith("-") else 1.0
    x, y, z = _UPS[name[-1]]
    return (sign * x + 0.0, sign * y + 0.0, sign * z + 0.0)


def _four(rotation: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    return matrix


def matrices(table: np.ndarray) -> np.ndarray:
    """Poses [N,4,4] from [4,4], [3,4], [N,4,4], [N,3,4], [N,16] or [N,12] (by rows). `UserError` for other shapes."""
    table = np.asarray(table)
    shape = table.shape
    if shape in ((4, 4), (3, 4)):
        table = table[None]
    elif table.ndim == 2 and shape[1] in (12, 16):
        table = table.reshape(len(table), shape[1] // 4, 4)
    if table.ndim != 3 or table.shape[1:] not in ((4, 4), (3, 4)):
        raise UserError(f"camera poses have shape {list(shape)}; give camera-to-world matrices [N,4,4]")
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, : table.shape[1]] = table
    return poses


def quaternion_poses(places: np.ndarray, xyzw: np.ndarray) -> np.ndarray:
    """Poses [N,4,4] from positions [N,3] and quaternions [N,4] with the real part last, of any length but 0."""
    length = np.linalg.norm(xyzw, axis=1)
    _refuse(~(length > 1e-6), "has a quaternion of length 0; give a rotation")
    x, y, z, w = (xyzw / length[:, None]).T
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    poses[:, :3, 0] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], 1)
    poses[:, :3, 1] = np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], 1)
    poses[:, :3, 2] = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1)
    poses[:, :3, 3] = places
    return poses


def quaternions(rotations: np.ndarray) -> np.ndarray:
    """Unit quaternions [N,4], real part last and not negative, of rotations [N,3,3]."""
    R = rotations
    trace = np.trace(R, axis1=1, axis2=2)
    # Four times the outer product of a quaternion with itself; its longest column is the quaternion.
    outer = np.empty((len(R), 4, 4))
    diagonal = np.stack([R[:, 0, 0], R[:, 1, 1], R[:, 2, 2]], 1)
    outer[:, :3, :3] = R + R.transpose(0, 2, 1)
    for i in range(3):
        outer[:, i, i] = 1 + 2 * diagonal[:, i] - trace
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[:, i, 3] = outer[:, 3, i] = R[:, k, j] - R[:, j, k]
    outer[:, 3, 3] = 1 + trace
    best = np.argmax(np.stack([outer[:, i, i] for i in range(4)], 1), axis=1)
    q = outer[np.arange(len(R)), best]
    q = q / np.linalg.norm(q, axis=1, keepdims=True)
    return np.asarray(q * np.where(q[:, 3:] < 0, -1.0, 1.0))


def axis_angle_rotations(vectors: np.ndarray) -> np.ndarray:
    """Rotations [N,3,3] from axes times angles [N,3] in radians."""
    angle = np.linalg.norm(vectors, axis=1)
    half = np.where(angle > 1e-12, np.sin(angle / 2) / np.maximum(angle, 1e-12), 0.5)
    xyzw = np.concatenate([vectors * half[:, None], np.cos(angle / 2)[:, None]], 1)
    return quaternion_poses(np.zeros_like(vectors), xyzw)[:, :3, :3]


def inverse(poses: np.ndarray) -> np.ndarray:
    """Inverses [N,4,4] of rigid motions."""
    result = np.tile(np.eye(4), (len(poses), 1, 1))
    result[:, :3, :3] = poses[:, :3, :3].transpose(0, 2, 1)
    result[:, :3, 3] = -np.einsum("nij,nj->ni", result[:, :3, :3], poses[:, :3, 3])
    return result


def nearest_rigid(poses: np.ndarray) -> np.ndarray:
    """The rigid motions that rounded numbers stand for, float64 [N,4,4].

    Exact rotations stay as they are, bit for bit.

    Raises:
        UserError: the first pose that is not finite, scales, shears, mirrors or has another bottom row.
    """
    poses = np.array(poses, np.float64)
    _refuse(~np.isfinite(poses).all((1, 2)), "has a pose that is not finite; remove or repair it")
    R = poses[:, :3, :3]
    skew = np.abs(R.transpose(0, 2, 1) @ R - np.eye(3)).max((1, 2)) if len(R) else np.empty(0)
    scale = np.cbrt(np.abs(np.linalg.det(R))) if len(R) else np.empty(0)
    even = np.abs(R.transpose(0, 2, 1) @ R - (scale**2)[:, None, None] * np.eye(3)).max((1, 2)) if len(R) else skew
    scaled = (skew > ROUNDED) & (even <= ROUNDED * np.maximum(scale, 1e-9) ** 2)
    if scaled.any():
        factor = float(scale[np.argmax(scaled)])
        _refuse(
            scaled,
            f"has a rotation that is not orthonormal but scaled by {factor:.4g}; give poses without scale or shear",
        )
    sheared = ~(skew <= ROUNDED)
    _refuse(sheared, "has a rotation that is not orthonormal; give poses without scale or shear")
    _refuse(np.linalg.det(R) < 0, "has a rotation that mirrors (determinant -1); convert left-handed poses first")
    wrong = np.abs(poses[:, 3] - [0, 0, 0, 1]).max(1) > 1e-6 if len(R) else np.empty(0, bool)
    _refuse(wrong, "has a bottom row other than 0 0 0 1; give 4x4 matrices that act on columns")
    rounded = skew > 1e-6
    if rounded.any():
        U, _, Vt = np.linalg.svd(R[rounded])
        poses[rounded, :3, :3] = U @ Vt
    return poses


def _refuse(bad: np.ndarray, complaint: str) -> None:
    if np.any(bad):
        raise UserError(f"camera {int(np.argmax(bad))} {complaint}")
