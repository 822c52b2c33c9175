"""The error to expect at each place of the cord, learnt on lesion-free slices.

Thin bright CSF at the edge of a slightly wrong mask is the commonest false alarm. What is usual at a place (so far
from the border, in the posterior or the anterior half) is subtracted, and the rest divided by its usual spread.
"""

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import distance_transform_edt

from .inpainting import centre_columns

DEEPEST = 4  # px from the border; all that lies deeper is one place
PLACES = 2 * DEEPEST
MAD_TO_SIGMA = 1.4826


def place_of_pixels(cord: np.ndarray) -> np.ndarray:
    """Place 0–7 of each pixel of the mask, (pixels,): depth 1, 2, 3, 4+ px; even: lower columns, odd: higher."""
    depth = np.minimum(np.floor(distance_transform_edt(cord)), DEEPEST).astype(int) - 1
    second_half = np.arange(cord.shape[1])[None] > centre_columns(cord)[:, None]
    return (depth * 2 + second_half)[cord]


class ExpectedError:
    """Median and spread (mean of standard deviation and 1.4826 MAD) of a map at the 8 places, (8,) each."""

    def __init__(self, median: np.ndarray | None = None, spread: np.ndarray | None = None):
        self.median, self.spread = median, spread

    def fit(self, maps: Iterable[np.ndarray], cords: Iterable[np.ndarray]) -> "ExpectedError":
        """Learn from maps of lesion-free slices, (H, W) each, and their cords."""
        pairs = list(zip(maps, cords, strict=True))
        values = np.concatenate([values[cord] for values, cord in pairs])
        places = np.concatenate([place_of_pixels(cord) for _, cord in pairs])
        groups = [values[places == place] for place in range(PLACES)]
        self.median = np.array([np.median(group) for group in groups])
        self.spread = np.array([
            0.5 * group.std() + 0.5 * MAD_TO_SIGMA * np.median(np.abs(group - np.median(group))) for group in groups
        ])  # fmt: skip
        return self

    def standardise(self, values: np.ndarray, cord: np.ndarray) -> np.ndarray:
        """(value − median) / spread of the pixel's place, (H, W) float32; 0 outside the cord."""
        places = place_of_pixels(cord)
        result = np.zeros(values.shape, np.float32)
        result[cord] = (values[cord] - self.median[places]) / self.spread[places]
        return result
