"""Local gain: the cord's own brightness along the neck, and the difference from it.

Coils make the cord up to twice as bright at one end as at the other. A lesion is bright against the cord beside it, so
everything that is scored is divided by the cord's own level first. It is also the simplest rule worth beating.
"""

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter, gaussian_filter1d

from ..anomaly import CROSS

HALF_WINDOW = 20  # rows (mm) to either side: a window shorter than a lesion would swallow it
PERCENTILE = 40  # of the rows' medians in the window: below the middle, because lesions only brighten
SMOOTHING = 6  # rows
SMALLEST = 1e-3


def local_gain(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """The cord's level in each row, (H,): row medians of the cord less 1 px, their 40th percentile over ±20 rows,
    Gaussian over 6 rows. Rows without cord take the level of the nearest ones.

    :param image: (H, W), rows 1 mm apart from head to feet. :param cord: (H, W) bool, not empty.
    """
    eroded = binary_erosion(cord, CROSS)
    rows = len(image)
    medians = np.full(rows, np.nan)
    for row in np.flatnonzero(cord.any(axis=1)):
        inside = eroded[row] if eroded[row].sum() >= 2 else cord[row]
        if inside.sum() >= 2:
            medians[row] = np.median(image[row][inside])
    if not np.isfinite(medians).any():
        return np.full(rows, max(float(np.median(image[cord])), SMALLEST))
    level = np.full(rows, np.nan)
    for row in range(rows):
        window = medians[max(0, row - HALF_WINDOW) : row + HALF_WINDOW + 1]
        if np.isfinite(window).any():
            level[row] = np.nanpercentile(window, PERCENTILE)
    known = np.flatnonzero(np.isfinite(level))
    level = np.interp(np.arange(rows), known, level[known])
    return np.maximum(gaussian_filter1d(level, SMOOTHING, mode="nearest"), SMALLEST)


def local_gain_difference(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """x / local gain − 1, (H, W) float32: 0.2 is a fifth brighter than the cord thereabouts."""
    return (image / local_gain(image, cord)[:, None]).astype(np.float32) - 1


def smooth_inside(values: np.ndarray, inside: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Gaussian of `sigma` px that takes nothing from outside the mask and does not darken its border. 0 outside."""
    total = gaussian_filter(np.where(inside, values, 0).astype(np.float32), sigma)
    weight = gaussian_filter(inside.astype(np.float32), sigma)
    return np.where(inside, total / np.maximum(weight, 1e-4), 0)
