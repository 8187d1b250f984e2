"""A batch of pinhole cameras, two ways to make one, and what they see on the ground."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import radians, tan

import numpy as np
from numpy.typing import ArrayLike

from context_as_memory.camera.checks import check_poses, check_size, floats, refuse
from context_as_memory.errors import UserError
from context_as_memory.shapes import Float


@dataclass(frozen=True, eq=False)
class Cameras:
    """A batch of N pinhole cameras; N may be 0.

    Args:
        c2w: float [N,4,4] camera-to-world, OpenCV axes (x right, y down, z forward), metres. Stored as float64.
        K: float [N,4] or [4] (the same for all): fx fy cx cy in pixels of a (width, height) image. Stored as [N,4].
        width: image width in pixels.
        height: image height in pixels.

    Raises:
        UserError: wrong shapes, or the first camera that is not finite, not a rigid motion (rotation orthonormal to
            1e-4 with determinant +1, bottom row 0 0 0 1) or has a focal length that is not positive.
    """

    c2w: Float[np.ndarray, "n 4 4"]
    K: Float[np.ndarray, "n 4"]
    width: int
    height: int

    def __post_init__(self) -> None:
        c2w = floats(self.c2w, "c2w")
        if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
            raise UserError(f"camera poses have shape {list(c2w.shape)}; give camera-to-world matrices [N,4,4]")
        K = floats(self.K, "K")
        if K.shape == (4,):
            K = np.tile(K, (len(c2w), 1))
        if K.shape != (len(c2w), 4):
            raise UserError(
                f"intrinsics have shape {list(K.shape)} for {len(c2w)} poses; give fx fy cx cy as [4] or [{len(c2w)},4]"
            )
        check_size(self.width, self.height)
        check_poses(c2w)
        refuse(~np.isfinite(K).all(1), "has intrinsics that are not finite; give numbers for fx fy cx cy")
        refuse(np.any(K[:, :2] <= 0, axis=1), "has a focal length that is not positive; give fx and fy in pixels")
        # Stored in one canonical form, hence the way round the freeze.
        c2w, K = c2w.copy(), K.copy()  # what was checked cannot change afterwards
        c2w.flags.writeable = K.flags.writeable = False
        for name, value in (("c2w", c2w), ("K", K), ("width", int(self.width)), ("height", int(self.height))):
            object.__setattr__(self, name, value)

    @classmethod
    def known_good(
        cls, c2w: Float[np.ndarray, "n 4 4"], K: Float[np.ndarray, "n 4"], width: int, height: int
    ) -> "Cameras":
        """Cameras from arrays that were checked before (they come out of other `Cameras`); no copy, no second check.

        The arrays must not change afterwards.
        """
        made = object.__new__(cls)
        for name, value in (("c2w", c2w), ("K", K), ("width", width), ("height", height)):
            object.__setattr__(made, name, value)
        return made

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, idx: int | slice | Sequence[int] | np.ndarray) -> "Cameras":
        """Select cameras: an int gives a batch of one; slices, index arrays and boolean masks work as in NumPy."""
        if not isinstance(idx, slice):
            picked = np.atleast_1d(np.asarray(idx))
            if picked.ndim != 1:
                raise UserError(f"cameras are a list; an index of shape {list(picked.shape)} picks no list of them")
            idx = picked if picked.size else picked.astype(np.int64)
        return Cameras.known_good(self.c2w[idx], self.K[idx], self.width, self.height)

    def __iter__(self) -> Iterator["Cameras"]:
        return (self[i] for i in range(len(self)))

    @staticmethod
    def concat(parts: Sequence["Cameras"]) -> "Cameras":
        """Join batches of the same image size, in order.

        Raises:
            UserError: no parts, or parts of different image sizes (use `resized` first).
        """
        if not parts:
            raise UserError("no cameras to join; give at least one batch")
        width, height = parts[0].width, parts[0].height
        for i, part in enumerate(parts):
            if (part.width, part.height) != (width, height):
                raise UserError(
                    f"cameras part {i} is {part.width}x{part.height} but part 0 is {width}x{height}; "
                    "bring them to one size with resized()"
                )
        return Cameras(np.concatenate([p.c2w for p in parts]), np.concatenate([p.K for p in parts]), width, height)

    @property
    def position(self) -> Float[np.ndarray, "n 3"]:
        """Camera centres, [N,3] metres."""
        return self.c2w[:, :3, 3]

    @property
    def right(self) -> Float[np.ndarray, "n 3"]:
        """Unit camera x axes in the world, [N,3]."""
        return self.c2w[:, :3, 0]

    @property
    def down(self) -> Float[np.ndarray, "n 3"]:
        """Unit camera y axes in the world, [N,3]."""
        return self.c2w[:, :3, 1]

    @property
    def forward(self) -> Float[np.ndarray, "n 3"]:
        """Unit view directions in the world, [N,3]."""
        return self.c2w[:, :3, 2]

    @property
    def half_width_tan(self) -> Float[np.ndarray, " n"]:
        """Tangent of half the horizontal field of view, width / (2 fx), [N]."""
        return self.width / (2 * self.K[:, 0])

    @property
    def hfov_rad(self) -> Float[np.ndarray, " n"]:
        """Full horizontal field of view, [N] radians."""
        return np.asarray(2 * np.arctan(self.half_width_tan))

    @property
    def w2c(self) -> Float[np.ndarray, "n 4 4"]:
        """World-to-camera matrices, [N,4,4]: the true inverse of `c2w`, also where it is only orthonormal to 1e-4."""
        w2c = np.tile(np.eye(4), (len(self), 1, 1))
        w2c[:, :3, :3] = np.linalg.inv(self.c2w[:, :3, :3])
        w2c[:, :3, 3] = -np.einsum("nij,nj->ni", w2c[:, :3, :3], self.position)
        return w2c

    def resized(self, width: int, height: int) -> "Cameras":
        """The same cameras after their image is scaled to cover (width, height) and cropped around its centre.

        The crop is exact, not rounded to whole pixels: the image centre stays the image centre.
        """
        check_size(width, height)
        scale = max(width / self.width, height / self.height)
        crop = np.array([0.0, 0.0, (scale * self.width - width) / 2, (scale * self.height - height) / 2])
        return Cameras(self.c2w, scale * self.K - crop, width, height)

    def normalized_K(self) -> Float[np.ndarray, "n 4"]:
        """Intrinsics for image coordinates in [-1,1]: (2fx/W, 2fy/H, (2cx-W)/W, (2cy-H)/H), [N,4]."""
        size = np.array([self.width, self.height], dtype=np.float64)
        return np.concatenate([2 * self.K[:, :2] / size, (2 * self.K[:, 2:] - size) / size], axis=1)


def pinhole(hfov_deg: float, width: int, height: int) -> Float[np.ndarray, "4"]:
    """Intrinsics [4] of square pixels and a centred principal point from a horizontal field of view in degrees."""
    check_size(width, height)
    if not 0 < hfov_deg < 180:
        raise UserError(f"a horizontal field of view of {hfov_deg} degrees is impossible; give one between 0 and 180")
    focal = width / (2 * tan(radians(hfov_deg) / 2))
    return np.array([focal, focal, width / 2, height / 2])


def look(
    position: ArrayLike, yaw_rad: ArrayLike, K: np.ndarray, width: int, height: int, *, pitch_rad: ArrayLike = 0.0
) -> Cameras:
    """Cameras without roll in a world with z up.

    Args:
        position: [3] or [N,3] metres.
        yaw_rad: scalar or [N], heading counter-clockwise from +x seen from above; broadcast against `position`.
        K: [4] or [N,4] pixels.
        pitch_rad: scalar or [N], upwards from the level (the I key), broadcast likewise.
    """
    place = np.atleast_2d(floats(position, "position"))
    yaw, pitch = np.atleast_1d(floats(yaw_rad, "yaw_rad")), np.atleast_1d(floats(pitch_rad, "pitch_rad"))
    counts = {len(place), len(yaw), len(pitch)} - {1}
    if place.ndim != 2 or place.shape[1] != 3 or yaw.ndim != 1 or pitch.ndim != 1 or len(counts) > 1:
        raise UserError(
            f"positions {list(place.shape)}, yaws {list(yaw.shape)} and pitches {list(pitch.shape)} do not fit; "
            "give [N,3], [N] and [N], or one of each"
        )
    count = counts.pop() if counts else 1
    cos, sin, level, rise = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, :3, 0] = np.stack([sin, -cos, 0 * yaw], axis=1)
    c2w[:, 0, 1], c2w[:, 1, 1], c2w[:, 2, 1] = cos * rise + 0.0, sin * rise + 0.0, -level  # no -0 where it is level
    c2w[:, 0, 2], c2w[:, 1, 2], c2w[:, 2, 2] = cos * level, sin * level, rise
    c2w[:, :3, 3] = place
    return Cameras(c2w, K, width, height)


@dataclass(frozen=True)
class PlanarViews:
    """Cameras seen from above: origin [N,2] metres, heading [N,2] unit, half_width_tan [N]."""

    origin: Float[np.ndarray, "n 2"]
    heading: Float[np.ndarray, "n 2"]
    half_width_tan: Float[np.ndarray, " n"]

    def __getitem__(self, idx: slice | np.ndarray) -> "PlanarViews":
        """Select views: a slice, rows int64 [M] or a mask bool [N]."""
        arrays = self.origin, self.heading, self.half_width_tan
        if isinstance(idx, slice):
            return PlanarViews(*(array[idx] for array in arrays))
        rows = np.flatnonzero(idx) if idx.dtype == np.bool_ else idx
        return PlanarViews(*(array.take(rows, axis=0) for array in arrays))  # ten times as fast as `array[rows]`


def ground_basis(cameras: Cameras, up: Float[np.ndarray, "3"] | None = None) -> Float[np.ndarray, "2 3"]:
    """Orthonormal basis [2,3] of the plane orthogonal to the mean up (-down) of the cameras, or to `up` [3].

    The first row is the level heading of the first camera and the second points to its left, so that rows and up are
    right-handed. Moving the world rigidly rotates the rows with it.
    """
    if not len(cameras):
        raise UserError("no cameras to find the ground from; give at least one")
    up = -cameras.down.mean(axis=0) if up is None else up
    if np.linalg.norm(up) < 1e-3:  # as many cameras upside down as upright: any choice will do, but always the same one
        up = -cameras.down[0]
    up = up / np.linalg.norm(up)
    ahead = level_heading(up, cameras.right[0], cameras.forward[0])
    return np.stack([ahead, np.cross(up, ahead)])


def planar(cameras: Cameras, basis: Float[np.ndarray, "2 3"]) -> PlanarViews:
    """Project cameras onto the plane spanned by `basis` [2,3] (see `ground_basis`).

    A camera that looks straight up or down keeps the heading of its image: the one with its x axis to the right.
    """
    heading, origin = coordinates(cameras.forward, basis), coordinates(cameras.position, basis)
    length = np.hypot(heading[:, 0], heading[:, 1])
    vertical = length < 1e-3
    if vertical.any():
        right = coordinates(cameras.right[vertical], basis)
        heading[vertical] = np.stack([-right[:, 1], right[:, 0]], axis=1)
        length = np.hypot(heading[:, 0], heading[:, 1])
    return PlanarViews(origin, heading / length[:, None], cameras.half_width_tan)


def coordinates(vectors: Float[np.ndarray, "n 3"], basis: Float[np.ndarray, "axes 3"]) -> Float[np.ndarray, "n axes"]:
    """vectors [N,3] along the rows of a basis [n,3]: [N,n]. Written out, since the last digit of a library's
    matrix product depends on how many rows it is given, and a bank that grew must equal one that was read at once."""
    return np.asarray(vectors[:, :1] * basis[:, 0] + vectors[:, 1:2] * basis[:, 1] + vectors[:, 2:] * basis[:, 2])


def level_heading(
    up: Float[np.ndarray, "3"], right: Float[np.ndarray, "3"], forward: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """Unit heading [3] square to `up`: from the camera's x axis, which stays level however far the camera tilts."""
    ahead = np.cross(up, right)
    if np.linalg.norm(ahead) < 1e-3:  # rolled on its side: x is vertical, so the view direction is level
        ahead = forward - (forward @ up) * up
    return np.asarray(ahead / np.linalg.norm(ahead))
