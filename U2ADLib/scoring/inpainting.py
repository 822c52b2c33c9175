"""Linear inpainting of the cord: the companion of the network.

The cord is straightened: every row is sampled at 18 points across it. A row's cord is predicted, linearly, from the
cord farther away along the neck and from the fluid beside it; nothing within ±8 rows of it is seen. So a lesion cannot
help to predict itself, a bulge of CSF at the border can.
"""

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import gaussian_filter1d, map_coordinates

from .gain import local_gain_difference

POSITIONS = np.linspace(-1.7, 1.7, 18)  # half widths of the cord from its centre, along the columns
IN_RING = np.abs(POSITIONS) > 1.15  # what lies beside the cord
CONTEXT_ROWS = 6  # seen on either side of the hidden rows
CLIP = (-1.0, 4.0)  # local-gain difference; CSF of 3D sequences is 3 to 4 above the cord


class RidgeInpainting:
    """Ridge regression with `gap` hidden rows on either side and penalty `penalty`.

    weights: (features, points inside) float64, or None before `fit`.
    """

    def __init__(self, gap: int = 8, penalty: float = 30.0, weights: np.ndarray | None = None):
        self.gap, self.penalty, self.weights = gap, penalty, weights

    def fit(self, slices: Iterable[tuple[np.ndarray, np.ndarray]]) -> "RidgeInpainting":
        """Learn from pairs of a lesion-free image and its cord mask, each (H, W)."""
        gram, moment = 0.0, 0.0
        for image, cord in slices:
            strip, _, half_width = _straighten(local_gain_difference(image, cord), cord)
            rows = cord.any(axis=1)
            features = self._features(strip, half_width)[rows]
            gram = gram + features.T @ features
            moment = moment + features.T @ strip[rows][:, ~IN_RING]
        self.weights = np.linalg.solve(gram + self.penalty * np.eye(len(gram)), moment)
        return self

    def residual(self, difference: np.ndarray, cord: np.ndarray) -> np.ndarray:
        """Local-gain difference minus its prediction, (H, W); meaningful inside the cord."""
        strip, centre, half_width = _straighten(difference, cord)
        prediction = self._features(strip, half_width) @ self.weights
        height, width = difference.shape
        position = (np.arange(width)[None] - centre[:, None]) / half_width[:, None]
        inner = POSITIONS[~IN_RING]
        sample = (np.clip(position, inner[0], inner[-1]) - inner[0]) / (inner[1] - inner[0])
        rows = np.repeat(np.arange(height)[:, None], width, 1)
        return difference - map_coordinates(prediction, [rows, sample], order=1, mode="nearest")

    def _features(self, strip, half_width):
        reach = self.gap + CONTEXT_ROWS
        padded = np.pad(strip, ((reach, reach), (0, 0)), mode="edge")
        near = range(self.gap + 1, reach + 1)

        def shifted(offset):
            return padded[reach + offset : reach + offset + len(strip)]

        context = [shifted(-offset) for offset in near] + [shifted(offset) for offset in near]
        ring = [shifted(offset)[:, IN_RING] for offset in range(-self.gap, self.gap + 1)]
        shape = [half_width[:, None], np.gradient(half_width)[:, None], np.ones((len(strip), 1))]
        return np.concatenate(context + ring + shape, axis=1)


def centre_columns(cord: np.ndarray) -> np.ndarray:
    """Mean column of the mask in each row, (H,); 0 in rows without cord."""
    count = cord.sum(axis=1)
    return np.where(count > 0, (cord * np.arange(cord.shape[1])).sum(axis=1) / np.maximum(count, 1), 0)


def _straighten(difference, cord):
    """(H, 18) samples of the clipped difference, and centre and half width per row."""
    count = cord.sum(axis=1)
    known = count >= min(2, count.max())
    rows = np.arange(len(cord))
    centre = np.interp(rows, rows[known], centre_columns(cord)[known])
    half_width = np.interp(rows, rows[known], count[known]) / 2
    centre = gaussian_filter1d(centre, 2)
    half_width = np.maximum(gaussian_filter1d(half_width, 2), 1.5)
    columns = centre[:, None] + half_width[:, None] * POSITIONS
    row_index = np.repeat(rows[:, None], len(POSITIONS), 1)
    return (
        map_coordinates(np.clip(difference, *CLIP), [row_index, columns], order=1, mode="nearest"),
        centre,
        half_width,
    )
