"""Cameras: where each frame was taken from, and what it could see. Files are read and written by `formats`.

One convention everywhere. A pose is a camera-to-world matrix `c2w` in metres with OpenCV camera axes: x right, y down,
z forward. Intrinsics are `fx fy cx cy` in pixels of a `width` x `height` image whose plane runs from 0 to `width` and
from 0 to `height`, so an exactly centred principal point is `(width / 2, height / 2)` and rescaling is a plain product.
Worlds are right-handed; the ones made here (`look`) have z up and count yaw counter-clockwise from
+x. Only NumPy is needed.
"""

from context_as_memory.camera.actions import (
    Z_UP,
    MotionSpeed,
    cameras_from_keys,
)
from context_as_memory.camera.core import (
    Cameras,
    PlanarViews,
    coordinates,
    ground_basis,
    look,
    pinhole,
    planar,
)
from context_as_memory.camera.profiles import (
    PROFILE,
    checked_profiles,
    eye_level,
    horizon_profile,
    profiles_from_note,
    profiles_to_note,
)

__all__ = [
    "Cameras",
    "pinhole",
    "look",
    "PlanarViews",
    "coordinates",
    "ground_basis",
    "planar",
    "PROFILE",
    "checked_profiles",
    "eye_level",
    "horizon_profile",
    "profiles_from_note",
    "profiles_to_note",
    "Z_UP",
    "MotionSpeed",
    "cameras_from_keys",
]
