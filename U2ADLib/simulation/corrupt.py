"""Corruptions to train on: shapeless bright patches in a healthy cord, of any size, sharpness, contrast and grain.

They are kept apart from the lesions that everything is judged on (`plant`): no ellipse along the centreline, no fixed
contrast, no fixed softness.
"""

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, gaussian_filter1d

CONTRAST = (0.05, 0.9)  # of the way from cord to CSF, log-uniform
HALF_LENGTH = (1.0, 14.0)  # rows, log-uniform
HALF_WIDTH = (0.8, 4.5)  # columns, log-uniform, at most 0.55 of the cord's width
ATTEMPTS = 30
SMALLEST_PX = 3


def corrupt(image: np.ndarray, cord: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Plant one corruption: the image (H, W) float32 and its pixels (H, W) bool.

    :param image: 1 mm, rows from head to feet, 0 = no signal. :param cord: (H, W) bool, not empty.
    """
    level = _row_level(image, cord)
    ring = binary_dilation(cord, iterations=3) & ~cord
    ratio = np.percentile((image / level[:, None])[ring], 85) - 1
    mask = _shape(cord, rng)
    profile = gaussian_filter(mask.astype(float), rng.uniform(0.3, 1.0))
    if mask.sum() < 16 and rng.random() < 0.7:
        profile /= max(profile.max(), 1e-6)  # a small one keeps its contrast in the middle
    grain = np.ones(image.shape)
    kind = rng.random()
    if kind < 0.3:
        grain = 1 + rng.uniform(0.1, 0.6) * _field(image.shape, rng.uniform(0.5, 2), rng)
    elif kind < 0.55:
        grain = 1 + rng.uniform(0.2, 1.0) * _field(image.shape, 0, rng)
    low, high = np.log(CONTRAST)
    added = profile * grain * np.exp(rng.uniform(low, high)) * max(ratio, 0.3) * level[:, None]
    return np.maximum(image + added, 0).astype(np.float32), mask


def _shape(cord, rng):
    rows, columns = np.nonzero(cord)
    height, width = cord.shape
    grid_rows, grid_columns = np.mgrid[:height, :width]
    inner = binary_erosion(cord) if rng.random() < 0.6 else cord
    centre = _centre(cord)
    for _ in range(ATTEMPTS):
        at = rng.integers(len(rows))
        row, column = rows[at], columns[at]
        half_length = np.exp(rng.uniform(*np.log(HALF_LENGTH)))
        half_width = np.exp(rng.uniform(*np.log(HALF_WIDTH)))
        half_width = min(half_width, 1.5 * half_length, max(0.55 * cord[row].sum(), 0.8))
        # Its middle keeps some of its distance from the cord's, and leans.
        middle = centre + (column - centre[row]) * rng.uniform(0.3, 1)
        middle = middle + rng.uniform(-0.15, 0.15) * (np.arange(height) - row)
        power = rng.uniform(1.5, 4)
        distance = np.abs((grid_columns - middle[:, None]) / half_width) ** power
        distance = distance + np.abs((grid_rows - row) / half_length) ** power
        if rng.random() < 0.6:
            distance = distance * np.exp(rng.uniform(0.2, 0.7) * _field(cord.shape, rng.uniform(1, 3), rng))
        mask = (distance <= 1) & inner
        if mask.sum() >= SMALLEST_PX:
            break
    return mask


def _centre(cord):
    count = cord.sum(1)
    rows = np.flatnonzero(count)
    middle = (cord[rows] * np.arange(cord.shape[1])).sum(1) / count[rows]
    return gaussian_filter1d(np.interp(np.arange(len(cord)), rows, middle), 2, mode="nearest")


def _row_level(image, cord):
    total = gaussian_filter1d(np.where(cord, image, 0).sum(1).astype(float), 10)
    return np.maximum(total / np.maximum(gaussian_filter1d(cord.sum(1).astype(float), 10), 1e-6), 1e-6)


def _field(shape, sigma, rng):
    """Random numbers with standard deviation 1 and the given grain."""
    values = rng.standard_normal(shape)
    if sigma:
        values = gaussian_filter(values, sigma)
        values /= max(values.std(), 1e-9)
    return values
