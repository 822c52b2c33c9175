"""What the experiments hand each other."""

from dataclasses import dataclass, field

import numpy as np

from ...roi.region import Region


@dataclass(frozen=True, eq=False)
class ExperimentCase:
    """One image of a test set, with its truth.

    Slices are in the stack of `roi.source.prepare`, only the analysed ones: images (S, 256, 256) float32 0–1, cords
    (S, 256, 256) bool, slices: their numbers in the stack, spacing_mm between them.
    region: of the whole stack; its segments name what can be scored. found: False where the cord was given.
    patient: has a hyperintensity. segments: by name, of those labelled; a segment that is labelled but not in
    `region.segments` counts as missed.
    lesions (S, 256, 256) uint8, 1, 2, … and original (S, 256, 256): of planted lesions, and the images before; None of
    annotated images, whose lesions nobody outlined.
    """

    id: str
    person: str
    group: str  # "phantom", or where the people are from
    images: np.ndarray
    cords: np.ndarray
    slices: tuple[int, ...]
    spacing_mm: float
    region: Region
    patient: bool
    segments: dict[str, bool]
    found: bool = False
    lesions: np.ndarray | None = None
    original: np.ndarray | None = None
    kinds: tuple[str, ...] = ()  # of lesion 1, 2, …
    record: dict = field(default_factory=dict)  # JSON-able: how the case was made, seeds included


@dataclass(frozen=True, eq=False)
class CaseScores:
    """What a method says of a case.

    patient: the highest score (Eq. 2; of a box detector the highest confidence). segments: by name, of the segments of
    the region that show cord in an analysed slice (Eq. 1; of a box detector the highest confidence of the boxes that
    overlap the segment's rectangle with IoU > 0.5, else 0). top: the segment with the highest score, None without one.
    lesions: highest score in each planted lesion, −inf where it is not found at all; peaks: of the marks elsewhere, for
    FROC: score, slice in the stack, row and column, highest first. seconds: of computing.
    pixel_ap, pixel_dice: of the pixels in the cord against the lesions' outlines, each at its best threshold; None
    without lesions, and of boxes.
    """

    id: str
    patient: float
    segments: dict[str, float]
    top: str | None
    seconds: float = 0.0
    lesions: tuple[float, ...] = ()
    peaks: tuple[tuple[float, int, int, int], ...] = ()
    pixel_ap: float | None = None
    pixel_dice: float | None = None
