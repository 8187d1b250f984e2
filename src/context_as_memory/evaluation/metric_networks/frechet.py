"""What FID and FVD share: TensorFlow 1's resizing, features in batches, the distance of two clouds of features."""

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from context_as_memory.errors import UserError


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions fitted to features [n, d] and [m, d], n and m at least 2:

        |mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)), covariances over n - 1 and m - 1, in float64.

    The sets may be of unequal size; their order does not matter. Few items bias the value (arXiv 1911.07023): compare
    only values of equally large sets. Fewer items than features (singular covariances) need no special case.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    gap = a.mean(axis=0) - b.mean(axis=0)
    # With C = R^T R the eigenvalues of C_a C_b are the squared singular values of R_a R_b^T; the trace of the root is
    # their sum. Nothing turns complex and no offset is put on the diagonal, as with a root of the product itself.
    r_a, r_b = _root_of_covariance(a), _root_of_covariance(b)
    trace_of_root = scipy.linalg.svdvals(r_a @ r_b.T).sum()
    return max(0.0, float(gap @ gap + np.square(r_a).sum() + np.square(r_b).sum() - 2 * trace_of_root))


def _root_of_covariance(x: np.ndarray) -> np.ndarray:
    """R [min(n, d), d] with R^T R the covariance of x [n, d]."""
    root: np.ndarray = scipy.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1), mode="r")[0]
    return root[: x.shape[1]]  # the rows below are zero


def features(network: nn.Module, items_u8: np.ndarray, batch: int) -> np.ndarray:
    """float64 [n, d] of uint8 items [n, ..., 3]; the network takes float items [batch, 3, ...] in [0, 255]."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(items_u8), batch):
            part = torch.from_numpy(np.ascontiguousarray(items_u8[start : start + batch]))
            found.append(network(part.movedim(-1, 1).float()).double().numpy())
    return np.concatenate(found)


def check_items(metric: str, items_u8: np.ndarray, shape: str) -> None:
    """`UserError` unless the items are uint8 [N, ..., 3], at least two, of as many axes as `shape` has words."""
    if items_u8.dtype != np.uint8 or items_u8.ndim != len(shape.split()) or items_u8.shape[-1] != 3:
        raise UserError(f"{metric} needs uint8 [{shape}], got {items_u8.dtype} {list(items_u8.shape)}")
    if len(items_u8) < 2:
        raise UserError(f"{metric} compares sets of at least 2, got {len(items_u8)}; give more")


def resize_bilinear(x: Tensor, side: int) -> Tensor:
    """[..., H, W] to [..., side, side] as TensorFlow 1's `resize_bilinear` does: place j of the result is place
    j * size / side of the original (corners not aligned, no half-pixel centres, no smoothing before shrinking)."""
    for dim in (x.ndim - 2, x.ndim - 1):
        size = x.shape[dim]
        place = torch.arange(side, dtype=torch.float64) * size / side
        low = place.long()
        weight = (place - low).to(x.dtype)
        low_values, high_values = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp_max(size - 1))
        x = torch.lerp(low_values, high_values, weight.unsqueeze(-1) if dim == x.ndim - 2 else weight)
    return x
