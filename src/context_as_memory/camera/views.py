"""What a camera can see: fans on the ground and frusta in space."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from context_as_memory.camera.core import Cameras
from context_as_memory.errors import UserError


@dataclass(frozen=True)
class PlanarViews:
    """Cameras seen from above: origin [N,2] metres, heading [N,2] unit, half_width_tan [N]."""

    origin: Float[np.ndarray, "n 2"]
    heading: Float[np.ndarray, "n 2"]
    half_width_tan: Float[np.ndarray, " n"]


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


def wedge_polygon(views: PlanarViews, near_m: float, far_m: float) -> Float[np.ndarray, "n 4 2"]:
    """What each view covers between two depths: trapezoids [N,4,2] metres, counter-clockwise from near right.

    A point at depth z along the heading and x across it is inside when near <= z <= far and |x| <= half_width_tan z.
    """
    check_range(near_m, far_m)
    left = np.stack([-views.heading[:, 1], views.heading[:, 0]], axis=1)
    depth = np.array([near_m, far_m, far_m, near_m])
    across = np.array([-near_m, -far_m, far_m, near_m]) * views.half_width_tan[:, None]
    return np.asarray(
        views.origin[:, None] + depth[:, None] * views.heading[:, None] + across[..., None] * left[:, None]
    )


def level_heading(
    up: Float[np.ndarray, "3"], right: Float[np.ndarray, "3"], forward: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """Unit heading [3] square to `up`: from the camera's x axis, which stays level however far the camera tilts."""
    ahead = np.cross(up, right)
    if np.linalg.norm(ahead) < 1e-3:  # rolled on its side: x is vertical, so the view direction is level
        ahead = forward - (forward @ up) * up
    return np.asarray(ahead / np.linalg.norm(ahead))


def check_range(near_m: float, far_m: float) -> None:
    if not 0 <= near_m < far_m < np.inf:
        raise UserError(f"near {near_m} m and far {far_m} m; give 0 <= near < far")
