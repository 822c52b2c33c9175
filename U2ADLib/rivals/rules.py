"""Simple rules that any detector has to beat: anomaly maps without learning.

The functions take a slice (H, W) in any positive intensity unit and its cord (H, W) bool, not empty, and return a map
(H, W), 0 outside the cord, in which bright means suspicious. What comes after (components, AnoCurve, scores) is the
same as for the network. The classes are these rules as methods of the comparison.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..anomaly import erode
from ..errors import ModelError
from ..files import staged, write_json
from ..scoring.gain import smooth_inside
from .detector import Maps, Training, TrainingSlices

Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]

LOCAL_ROWS = 25  # half of the window of `local_robust_z`
RECORD = "rule.json"
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
    return smooth_inside(np.abs(image / max(np.median(image[inner]), 1e-9) - 1), inner)


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


@dataclass(frozen=True)
class SliceRule:
    """A method (`detector.MapDetector`) that looks at one slice at a time and learns nothing.

    A subclass is a frozen dataclass whose fields are its settings. It has a `rule` that has none, or its own `map_of`.
    """

    name: ClassVar[str]
    learns: ClassVar[bool] = False
    supervised: ClassVar[bool] = False
    rule: ClassVar[Baseline]

    def map_of(self, image: np.ndarray, cord: np.ndarray) -> np.ndarray:
        """Map (H, W) of one slice, see the head of this file. What it says outside the cord is not looked at."""
        return self.rule(image, cord)

    def anomaly_map(self, images: np.ndarray, cords: np.ndarray, seed: int = 0) -> Maps:
        """See `detector.MapDetector`. Slices without cord have an empty map; there is nothing random."""
        maps = np.zeros(images.shape, np.float32)
        for one, image, cord in zip(maps, images, cords, strict=True):
            if cord.any():
                one[cord] = self.map_of(image, cord)[cord]
        return Maps(maps)

    def fit(self, slices: TrainingSlices, training: Training) -> None:
        """Nothing is learnt."""

    def save(self, folder: Path) -> None:
        """Write name and settings."""
        with staged(folder, [RECORD], overwrite=True) as place:
            write_json(place / RECORD, self._record())

    def load(self, folder: Path) -> None:
        """:raises ModelError: the folder holds another method, or other settings."""
        try:
            record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ModelError(f"{folder} does not hold {self.name}: train it again.") from None
        if record != self._record():
            raise ModelError(f"{folder} holds another method than {self.name}, or other settings: choose another.")

    def _record(self) -> dict:
        return {"method": self.name, "settings": asdict(self)}


@dataclass(frozen=True)
class AllPositive(SliceRule):
    """The same value for every pixel of the cord: what a figure is worth that this rule reaches."""

    name = "all-positive"

    def map_of(self, image, cord):
        return cord.astype(np.float32)


@dataclass(frozen=True)
class MaximumIntensity(SliceRule):
    """`maximum_intensity`."""

    name = "maximum-intensity"
    rule = staticmethod(maximum_intensity)


@dataclass(frozen=True)
class GlobalRobustZ(SliceRule):
    """`robust_z`."""

    name = "global-robust-z"
    rule = staticmethod(robust_z)


@dataclass(frozen=True)
class GlobalDifference(SliceRule):
    """`global_difference`."""

    name = "global-difference"
    rule = staticmethod(global_difference)


@dataclass(frozen=True)
class LocalRobustZ(SliceRule):
    """`local_robust_z`."""

    name = "local-robust-z"
    rule = staticmethod(local_robust_z)
