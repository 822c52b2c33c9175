"""Simple rules that any detector has to beat: anomaly maps without learning.

Each takes a slice (H, W) in any positive intensity unit and its cord (H, W) bool, and returns a map (H, W), 0 outside
the cord, in which bright means suspicious. What comes after (components, AnoCurve, scores) is the same as for the
network.
"""

from collections.abc import Callable

import numpy as np

from ..anomaly import erode
from ..scoring.gain import smooth_inside

Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]

LOCAL_ROWS = 25  # half of the window of `local_robust_z`
_MAD_TO_SIGMA = 1.4826


def maximum_intensity(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """The image itself, inside the cord eroded by 1 px (its border is mixed with CSF)."""
    return np.where(erode(cord, 1), image, 0)


def robust_z(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """(x − median) / (1.4826 MAD) of the cord eroded by 1 px; negative values are 0."""
    inner = erode(cord, 1)
    return np.where(inner, np.maximum(_z(image, image[inner]), 0), 0)


def global_difference(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """|x / median − 1| of the cord eroded by 1 px, smoothed by a Gaussian of 1 px that stays inside."""
    inner = erode(cord, 1)
    return smooth_inside(np.abs(image / np.median(image[inner]) - 1), inner)


def local_robust_z(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """As `robust_z`, against the cord within ±25 rows, smoothed. 2 % of the median are added to the spread."""
    inner = erode(cord, 1)
    scores = np.zeros(image.shape)
    for row in np.flatnonzero(inner.any(axis=1)):
        window = slice(max(0, row - LOCAL_ROWS), row + LOCAL_ROWS + 1)
        scores[row] = _z(image[row], image[window][inner[window]], floor=0.02)
    return smooth_inside(np.maximum(scores, 0), inner)


BASELINES: dict[str, Baseline] = {
    "maximum intensity": maximum_intensity,
    "robust z": robust_z,
    "global |x − median|, smoothed": global_difference,
    "local robust z, smoothed": local_robust_z,
}


def signed_residual(image: np.ndarray, mean: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """x − μ where it is positive, inside the cord eroded by 1 px, smoothed: T2 *hyper*intensity is bright."""
    return smooth_inside(np.maximum(image - mean, 0), erode(cord, 1))


def _z(values, reference, floor=0.0):
    median = np.median(reference)
    spread = _MAD_TO_SIGMA * np.median(np.abs(reference - median)) + floor * median
    return (values - median) / max(spread, 1e-9)
