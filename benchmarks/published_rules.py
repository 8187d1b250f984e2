"""Retrieval rules of other systems, written plainly from their papers, for comparison.

All take the cameras of the bank, the target cameras of a chunk and a number of frames, and return frame numbers.
"""

import numpy as np

from context_as_memory.camera import Cameras

REACH_M = 15.0  # all rules get the same reach as ours


def _half_height_tan(cameras: Cameras) -> np.ndarray:
    """Tangent of half the vertical field of view, [N]."""
    return cameras.height / (2 * cameras.K[:, 1])


def seen(camera: Cameras, points: np.ndarray) -> np.ndarray:
    """Which points [P, 3] one camera has in its picture: bool [P]."""
    local = (points - camera.position[0]) @ camera.c2w[0, :3, :3]
    ahead = local[:, 2]
    wide = np.abs(local[:, 0]) <= camera.half_width_tan[0] * ahead
    return (ahead > 0) & wide & (np.abs(local[:, 1]) <= _half_height_tan(camera)[0] * ahead)


def ball(centre: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Random points [number, 3], uniform in a ball of the common reach."""
    direction = rng.normal(size=(number, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return centre + direction * REACH_M * rng.random((number, 1)) ** (1 / 3)


def worldmem(bank: Cameras, target: Cameras, frames: int, rng: np.random.Generator, points: int = 10_000) -> list[int]:
    """WorldMem (arXiv 2504.12369): random points in a ball around the target; greedily the frame that sees most of the
    target's points not seen by those chosen before, older ones a little less."""
    cloud = ball(target.position[0], points, rng)
    masks = np.stack([seen(camera, cloud) for camera in bank])
    left, chosen = seen(target[0], cloud), list[int]()
    age = 0.2 * (1 - np.arange(len(bank)) / max(len(bank), 1))
    for _ in range(min(frames, len(bank))):
        score = (masks & left).sum(axis=1) / max(int(left.sum()), 1) - age
        score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
        left &= ~masks[chosen[-1]]
    return chosen


def memorizon(bank: Cameras, target: Cameras, frames: int) -> list[int]:
    """Memorizon: 256 fixed points in the target's frustum, log-spaced in depth; the share that each frame sees, less a
    little for distance and turn; the best few."""
    last = target[len(target) - 1]
    u, v, depth = np.meshgrid(np.linspace(-0.9, 0.9, 8), np.linspace(-0.9, 0.9, 8), np.geomspace(0.5, REACH_M, 4))
    rays = np.stack([u * last.half_width_tan[0], v * _half_height_tan(last)[0], np.ones_like(u)], axis=-1)
    local = (rays * depth[..., None]).reshape(-1, 3)
    cloud = local @ last.c2w[0, :3, :3].T + last.position[0]
    score = np.empty(len(bank))
    for start in range(0, len(bank), 4096):
        part = slice(start, start + 4096)
        inside = np.einsum("nij,npi->npj", bank.c2w[part, :3, :3], cloud[None] - bank.position[part, None])
        ahead = inside[..., 2]
        ok = (ahead > 0.1) & (ahead < REACH_M)
        ok &= np.abs(inside[..., 0]) <= bank.half_width_tan[part, None] * ahead
        ok &= np.abs(inside[..., 1]) <= _half_height_tan(bank)[part, None] * ahead
        score[part] = ok.mean(axis=1)
    turn = np.arccos(np.clip(bank.forward @ last.forward[0], -1, 1))
    far = np.linalg.norm(bank.position - last.position[0], axis=1)
    score -= 0.2 * (far / REACH_M + 4 * turn / np.pi)
    return [int(i) for i in np.argsort(-score, kind="stable")[:frames]]


def worldplay(
    bank: Cameras, target: Cameras, frames: int, rng: np.random.Generator, points: int = 10_000, clip: int = 4
) -> list[int]:
    """HY-WorldPlay: random points in a ball; the mean share of the target's points that the frames of a clip of four
    see; whole clips, best first."""
    cloud = ball(target.position[0], points, rng)
    wanted = seen(target[0], cloud)
    shares = np.array([(seen(camera, cloud) & wanted).sum() for camera in bank]) / max(int(wanted.sum()), 1)
    starts = np.arange(0, len(bank) - clip + 1, clip)
    order = starts[np.argsort(-np.array([shares[s : s + clip].mean() for s in starts]), kind="stable")]
    return [int(i) for s in order for i in range(s, s + clip)][:frames]
