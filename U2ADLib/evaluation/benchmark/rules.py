"""The simple rules as one method: arithmetic on the slice, and linear inpainting."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.ndimage import binary_erosion

from ...scoring.gain import local_gain_difference
from ...scoring.inpainting import RidgeInpainting
from . import study
from .methods import Fold

RIDGE_DRAWS, RIDGE_SEED = 500, 3
MAD_TO_SIGMA = 1.4826


def global_difference(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """x / median of the cord − 1."""
    return image / np.median(image[cord]) - 1


def robust_z(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """(x − median) / (1.4826 MAD) of the cord eroded by 1 px."""
    values = image[binary_erosion(cord)]
    values = values if values.size else image[cord]
    median = np.median(values)
    return (image - median) / max(MAD_TO_SIGMA * np.median(np.abs(values - median)), 1e-9)


def sliding_z(image: np.ndarray, cord: np.ndarray, half_window: int = 25) -> np.ndarray:
    """As `robust_z`, within ±`half_window` rows; 2 % of the median are added to the spread."""
    eroded = binary_erosion(cord)
    result = np.zeros_like(image)
    for row in np.flatnonzero(cord.any(1)):
        window = slice(max(0, row - half_window), row + half_window + 1)
        values = image[window][eroded[window]]
        if len(values) < 10:
            values = image[window][cord[window]]
        median = np.median(values)
        spread = MAD_TO_SIGMA * np.median(np.abs(values - median))
        result[row] = (image[row] - median) / (spread + 0.02 * median)
    return result


def row_smooth(image: np.ndarray, cord: np.ndarray) -> np.ndarray:
    """x / mean of the cord, Gaussian over 15 rows, − 1."""
    return image / np.maximum(study.row_mean(image, cord, 15), 1e-3)[:, None] - 1


RULES = {
    "maximum intensity": lambda image, cord: image,
    "robust z": robust_z,
    "global": global_difference,
    "sliding z": sliding_z,
    "row-smooth": row_smooth,
    "local gain": local_gain_difference,
}
RIDGE = "ridge8"  # 8 rows on either side are hidden


class SimpleRules:
    """All of `RULES` and ridge inpainting, which is fitted on healthy slices, changed and degraded at random."""

    name = "rules"
    absolute = ("global",)

    def __init__(self):
        self.ridge = RidgeInpainting(gap=8)

    def fit(self, fold: Fold) -> None:
        kept = Path(fold.folder) / "ridge.safetensors"
        if kept.exists():
            self.ridge.weights = load_file(kept)["weights"]
            return
        self.ridge.fit(training_slices(fold, RIDGE_DRAWS, RIDGE_SEED))
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.ridge.weights}, kept)

    def maps(self, images: np.ndarray, cords: np.ndarray) -> dict[str, np.ndarray]:
        pairs = list(zip(images, cords, strict=True))
        maps = {name: np.array([rule(*pair) for pair in pairs]) for name, rule in RULES.items()}
        differences = zip(maps["local gain"], cords, strict=True)
        return maps | {RIDGE: np.array([self.ridge.residual(*one) for one in differences])}


def training_slices(fold: Fold, draws: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of image and mask to learn from: a person is drawn first, then one of their slices."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        person = fold.training[rng.integers(len(fold.training))]
        image, mask = study.random_training_slice(person.slices, rng)
        yield study.divide_by_csf(image, mask), mask
