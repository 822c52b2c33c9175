"""Z-scoring (paper, B.3): how many standard deviations a pixel lies from the cord's mean."""

from dataclasses import dataclass

import numpy as np

from .rules import SliceRule


@dataclass(frozen=True)
class ZScoring(SliceRule):
    """|x − mean| / SD over the cord of the slice; 0 where that is not above the threshold, which the paper has at 0.1.

    The paper does not say whether dark pixels count ("the deviation … from the mean"): they do, as in the
    reconstruction errors that it is compared with, unless `bright_only`.
    """

    name = "z-scoring"

    threshold: float = 0.1  # SD
    bright_only: bool = False

    def map_of(self, image, cord):
        return standard_scores(image.astype(float), image[cord].astype(float), self.threshold, self.bright_only)


def standard_scores(values: np.ndarray, population: np.ndarray, threshold: float, bright_only: bool) -> np.ndarray:
    """z of values against the mean and the SD (n in the denominator) of a population; 0 up to the threshold.

    Without any spread nothing deviates.
    """
    spread = population.std()
    if not spread > 1e-9:
        return np.zeros_like(values)
    z = (values - population.mean()) / spread
    z = z if bright_only else np.abs(z)
    return np.where(z > threshold, z, 0)
