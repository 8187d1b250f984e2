"""Picture metrics as pure functions. Every function takes single pictures or stacks [..., H, W, 3] of equal shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from context_as_memory.errors import UserError

MAX_PSNR_DB = 100.0  # identical pictures: a finite number, so that means and JSON stay usable


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval. `num` is the number of values resampled."""

    mean: float
    low: float
    high: float
    num: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def psnr(a: np.ndarray, b: np.ndarray, *, data_range: float = 255.0) -> np.ndarray:
    """Peak signal-to-noise ratio in dB per picture: float64 [...] from [..., H, W, 3].

    data_range: largest minus smallest possible value: 255 for uint8 frames, 2 for `video` in [-1, 1].
    Identical pictures give `MAX_PSNR_DB`. Raises `UserError` on unequal shapes or values outside the stated range.
    """
    a, b = _checked(a, b, data_range)
    mean_square = np.mean((a - b) ** 2, axis=(-3, -2, -1))
    floor = data_range**2 * 10 ** (-MAX_PSNR_DB / 10)
    return 10.0 * np.log10(data_range**2 / np.maximum(mean_square, floor))


def ssim(a: np.ndarray, b: np.ndarray, *, data_range: float = 255.0) -> np.ndarray:
    """Structural similarity per picture (Wang et al. 2004, 7x7 uniform window, mean over RGB): float64 [...] from [...,
    H, W, 3].

    data_range as in `psnr`; pictures with negative values are taken to be centred on zero. Raises `UserError` on
    unequal shapes, wrong ranges, or pictures under 7 pixels a side.
    """
    from skimage.metrics import structural_similarity

    a, b = _checked(a, b, data_range)
    if min(a.shape[-3:-1]) < 7:
        raise UserError(
            f"SSIM needs pictures of at least 7x7 pixels, got {a.shape[-2]}x{a.shape[-3]}; use larger frames"
        )
    if min(a.min(), b.min()) < 0:  # SSIM compares brightness too, so zero must be black
        a, b = a + data_range / 2, b + data_range / 2
    pairs = zip(a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:]), strict=True)
    values = [structural_similarity(x, y, channel_axis=-1, data_range=data_range) for x, y in pairs]
    return np.array(values, dtype=np.float64).reshape(a.shape[:-3])


def mean_interval(
    values: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of values [n] with a percentile bootstrap interval. One value gives a zero-width interval.

    groups: what each value was measured on, for example its episode. Values of one group are alike: groups are
    resampled first, then values within them. Without groups the values must be independent draws (one per clip or per
    return, not one per frame of the same clip), or the interval is too narrow.
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    if values.size == 0 or not np.isfinite(values).all():
        raise UserError(
            f"a mean needs finite values, got {values.size} of which {int((~np.isfinite(values)).sum())} are not finite"
        )
    means = resampled_means(values[:, None], groups, seed=seed, num_resamples=num_resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), values.size)


def resampled_means(
    values: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0, num_resamples: int = 2000
) -> np.ndarray:
    """Means of rows [n, k] drawn anew, float64 [num_resamples, k]: groups first, then rows within them (`mean_interval`
    says why). The columns of a row stay together, so that paired quantities stay paired."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return np.asarray(values[rng.integers(0, len(values), (num_resamples, len(values)))].mean(axis=1))
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(member)
    first = np.cumsum(sizes) - sizes
    ordered = values[np.argsort(member, kind="stable")]
    sums, counts = np.zeros((num_resamples, values.shape[1])), np.zeros((num_resamples, 1))
    for _ in names:
        drawn = rng.integers(0, len(names), num_resamples)
        within = (rng.random((num_resamples, sizes.max())) * sizes[drawn, None]).astype(np.int64)
        used = np.arange(sizes.max()) < sizes[drawn, None]
        sums += (ordered[first[drawn, None] + within] * used[..., None]).sum(axis=1)
        counts += used.sum(axis=1, keepdims=True)
    return sums / counts


def _checked(a: np.ndarray, b: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3:
        raise UserError(
            f"pictures must both be [..., H, W, 3] and equal in shape, got {list(a.shape)} and {list(b.shape)}"
        )
    if a.dtype != b.dtype:
        raise UserError(f"pictures must have one type, got {a.dtype} and {b.dtype}; convert one of them first")
    if a.dtype == np.uint8 and data_range != 255.0:
        raise UserError(f"uint8 pictures span 255, got data_range={data_range}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    spread = max(a.max(), b.max()) - min(a.min(), b.min()) if a.size else 0.0
    if not spread <= data_range * (1 + 1e-6):
        raise UserError(f"pictures span {spread:.4g}, more than data_range={data_range:g}; state their true range")
    return a, b
