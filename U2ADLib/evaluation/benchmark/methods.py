"""What a method is, and how its maps become scores: the same steps for all.

A map is an image; only its values inside the given cord mask mean anything, and bright is suspicious. From map to
score: (1) the expected error, in half of the variants; (2) the absolute value, for maps that have two sides; (3)
erosion of the given mask by 1 or 2 px; (4) a Gaussian of 1 px, normalised inside what is left. The curve along the cord
is the mean of each row, and in half of the variants its maximum.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.ndimage import binary_erosion

from ...scoring.expected import ExpectedError
from ...scoring.gain import smooth_inside
from .cases import Case, Person

EROSIONS = (1, 2)
ACROSS = ("mean", "max")
SMALLEST_DOMAIN = 50  # px; where erosion would leave no more, the mask stays whole


@dataclass(frozen=True, eq=False)
class Fold:
    """One person is left out; a method learns from the others.

    folder: of this fold and method alone, where a fit may be kept and found again.
    """

    test: str
    training: tuple[Person, ...]
    folder: Path


class Method(Protocol):
    """Anything that makes maps. It may have `absolute`: names of maps that are scored by their absolute value; and
    `variants`: its scores, where not all of `variants_of` make sense."""

    name: str

    def fit(self, fold: Fold) -> None:
        """Learn from `fold.training` and nobody else; may do nothing. What took long should be kept in `fold.folder`
        and read from there when it is called again, in another process."""

    def maps(self, images: np.ndarray, cords: np.ndarray) -> dict[str, np.ndarray]:
        """Raw maps (N, H, W) by name, all from one pass.

        :param images: (N, H, W) float32, sagittal slices at 1 mm, rows from head to feet, columns from posterior to
            anterior, CSF about 1. :param cords: (N, H, W) bool, the given masks, which may be wrong.
        """


@dataclass(frozen=True, order=True)
class Variant:
    """One score: a map and what happens to it."""

    map: str
    expected_error: bool
    erosion: int
    across: str = "mean"
    absolute: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        expected, across = " + expected error" if self.expected_error else "", ", max" if self.across == "max" else ""
        return f"{self.map}{expected}, {self.erosion} px{across}"


def variants_of(maps: Iterable[str], absolute: Collection[str] = ()) -> list[Variant]:
    """All scores of these maps."""
    return [Variant(*one, one[0] in absolute) for one in product(maps, (False, True), EROSIONS, ACROSS)]


def scores_of(method: Method, maps: Iterable[str]) -> list[Variant]:
    """The scores of a method that makes these maps."""
    return list(getattr(method, "variants", ())) or variants_of(maps, getattr(method, "absolute", ()))


def fit_expected_errors(method: Method, references: Iterable[Case]) -> dict[str, ExpectedError]:
    """By map, from lesion-free cases (`cases.reference_cases`)."""
    references = list(references)
    masks = np.array([case.mask for case in references])
    maps = method.maps(np.array([case.image for case in references]), masks)
    return {name: ExpectedError().fit(values, masks) for name, values in maps.items()}


def eroded_domain(mask: np.ndarray, erosion: int) -> np.ndarray:
    """The mask (H, W) without its outermost pixels."""
    if erosion == 0:
        return mask
    eroded = binary_erosion(mask, iterations=erosion)
    return eroded if eroded.sum() > SMALLEST_DOMAIN else mask


def final_scores(
    maps: Mapping[str, np.ndarray],
    mask: np.ndarray,
    expected: Mapping[str, ExpectedError],
    variants: Iterable[Variant],
) -> dict[Variant, tuple[np.ndarray, np.ndarray]]:
    """Score and domain, (H, W) each, of every variant, from one case's maps (H, W) and mask."""
    standard = {name: expected[name].standardise(values, mask) for name, values in maps.items()}
    variants = list(variants)
    domains = {erosion: eroded_domain(mask, erosion) for erosion in {variant.erosion for variant in variants}}
    result = {}
    for variant in variants:
        values, domain = (standard if variant.expected_error else maps)[variant.map], domains[variant.erosion]
        result[variant] = smooth_inside(np.abs(values) if variant.absolute else values, domain), domain
    return result


def curve_along_cord(score: np.ndarray, domain: np.ndarray, across: str = "mean") -> np.ndarray:
    """Mean (or maximum) score of each row of the domain, (H,); −inf in rows with fewer than 2 pixels."""
    count = domain.sum(1)
    if across == "max":
        return np.where(count < 2, -np.inf, np.where(domain, score, -np.inf).max(1))
    return np.where(count < 2, -np.inf, np.where(domain, score, 0).sum(1) / np.maximum(count, 1))
