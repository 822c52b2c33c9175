"""SLIC superpixels and their z-scores (paper, B.3)."""

from dataclasses import dataclass

import numpy as np
from skimage.segmentation import slic

from .rules import SliceRule
from .z_scoring import standard_scores


@dataclass(frozen=True)
class SLIC(SliceRule):
    """The cord is cut into superpixels; each gets the z-score of its mean, 0 where that is not above the threshold.

    The paper leaves open against what a superpixel is scored: here it is the mean and the SD of the means of all
    superpixels of the slice, each counted once. Dark ones count as bright ones do, unless `bright_only`. Intensities
    are 0–1, where a compactness of 10 makes superpixels that hardly follow the signal.
    """

    name = "slic"

    superpixels: int = 100  # M
    compactness: float = 10.0
    threshold: float = 2.0  # SD
    bright_only: bool = False

    def map_of(self, image, cord):
        if cord.sum() < 2:
            return np.zeros(image.shape)
        labels = superpixels(image, cord, self.superpixels, self.compactness)[cord]
        means = np.bincount(labels, image[cord]) / np.maximum(np.bincount(labels), 1)
        scored = standard_scores(means, means[np.unique(labels)], self.threshold, self.bright_only)
        result = np.zeros(image.shape)
        result[cord] = scored[labels]
        return result


def superpixels(image: np.ndarray, cord: np.ndarray, count: int, compactness: float) -> np.ndarray:
    """Labels (H, W), 0 outside the cord (H, W) bool; there may be some fewer or more than `count`. Not random."""
    return slic(
        image.astype(float), n_segments=count, compactness=compactness, mask=cord, channel_axis=None, start_label=1
    )
