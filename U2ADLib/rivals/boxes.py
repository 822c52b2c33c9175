"""Boxes around anomalous segments, and what a detector's boxes say of segments and patients (paper, B.2).

Boxes are `detector.Box`: rows top ≤ r < bottom and columns left ≤ c < right of a slice, in pixels (1 mm).
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..config import SEGMENT_NAMES
from ..errors import InputError
from .detector import Box, TrainingSlices

OVERLAP = 0.5  # IoU that must be exceeded for a box to mean a segment

Key = TypeVar("Key", bound=Hashable)


def segment_rectangles(segments: np.ndarray) -> dict[int, Box]:
    """Smallest rectangle of the cord in each segment of a slice, by segment number.

    :param segments: (H, W), 3 = C2-3 … 8 = C7-T1 on the cord, anything else elsewhere. Segments that a slice does not
        show have none.
    """
    found = {}
    for number in SEGMENT_NAMES:
        rows, columns = np.nonzero(segments == number)
        if rows.size:
            top, left, last_row, last_column = map(int, (rows.min(), columns.min(), rows.max(), columns.max()))
            found[number] = Box(top, left, last_row + 1, last_column + 1)
    return found


def anomalous_rectangles(segments: np.ndarray, anomalous: np.ndarray) -> list[Box]:
    """The rectangles of one slice that a detector learns. segments (H, W) as above; anomalous (9,) bool by number."""
    return [box for number, box in segment_rectangles(segments).items() if anomalous[number]]


def check_annotated(slices: TrainingSlices, name: str) -> None:
    """:raises InputError: there is nothing that a supervised method could learn from."""
    if slices.segments is None or slices.anomalous is None:
        raise InputError(f"{name} learns from annotated segments, and these slices have none: add an annotation table.")
    if not any(anomalous_rectangles(*one) for one in zip(slices.segments, slices.anomalous, strict=True)):
        raise InputError(f"{name} has nothing to learn: no annotated slice shows an anomalous segment.")


def area(box: Box) -> float:
    """px²; 0 of an empty box."""
    return float(max(box.bottom - box.top, 0) * max(box.right - box.left, 0))


def iou(one: Box, other: Box) -> float:
    """Intersection over union, 0–1; 0 where both are empty."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    common = area(Box(top, left, min(one.bottom, other.bottom), min(one.right, other.right)))
    union = area(one) + area(other) - common
    return common / union if union > 0 else 0.0


def meant(box: Box, rectangles: Mapping[Key, Box]) -> Key | None:
    """The segment that a box means: the one it overlaps most, if by more than `OVERLAP`."""
    overlaps = {key: iou(box, rectangle) for key, rectangle in rectangles.items()}
    best = max(overlaps, key=overlaps.get, default=None)
    return best if best is not None and overlaps[best] > OVERLAP else None


def box_scores(
    found: Sequence[Sequence[Box]], rectangles: Sequence[Mapping[Key, Box]]
) -> tuple[float, dict[Key, float], Key | None]:
    """Scores of the patient and of the segments, and the top segment, from the slices of one patient.

    Patient: the highest confidence, 0 without any box. Segment: the highest confidence of a box that overlaps its
    rectangle in the same slice by more than `OVERLAP`, else 0. Top: the segment that the most confident box of all
    means; None where it means none.

    :param found: boxes of each slice. :param rectangles: by segment, of each slice.
    """
    segments: dict[Key, float] = {key: 0.0 for one in rectangles for key in one}
    most, top = 0.0, None
    for boxes, places in zip(found, rectangles, strict=True):
        for box in boxes:
            for key, place in places.items():
                if iou(box, place) > OVERLAP:
                    segments[key] = max(segments[key], float(box.confidence))
            if box.confidence > most:
                most, top = float(box.confidence), meant(box, places)
    return most, segments, top
