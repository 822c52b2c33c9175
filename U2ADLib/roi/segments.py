"""Segments C2-3 … C7-T1 in mm along the cord's centreline (paper 3.5.2 and Fig. 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..config import SEGMENT_NAMES
from ..errors import InputError
from .centreline import Centreline

SMALLEST_COVERAGE = 0.5  # a segment of which less is covered by the cord counts as missing


@dataclass(frozen=True)
class Segment:
    """The stretch of cord around one disc: `start_mm` ≤ s < `stop_mm` on the centreline.

    number: the disc's Spinal Cord Toolbox number, 3 = "C2-3" … 8 = "C7-T1". The ends may lie beyond those of
    the cord.
    """

    number: int
    name: str
    start_mm: float
    stop_mm: float


def segments_from_discs(
    centreline: Centreline, discs: Mapping[int, np.ndarray]
) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """Segments from disc points in stack coordinates, and the names of those that are missing.

    discs: number → (slice, row, column) or (row, column). Each disc is projected on the centreline (the
    planes between segments are perpendicular to it). Segments meet midway between neighbouring discs, in the
    middle of a vertebra; on a side without neighbour (above C2/3, below C7/T1, next to an unlabelled disc) a
    segment ends half the distance of the neighbour on its other side away. Missing are segments whose own
    disc or both neighbours are not labelled, and those of which the cord covers less than half. Raises
    InputError if the discs do not follow each other along the cord.
    """
    numbers = [number for number in SEGMENT_NAMES if number in discs]
    points = np.array([np.asarray(discs[number], float)[-2:] for number in numbers]).reshape(-1, 2)
    at = dict(zip(numbers, centreline.project(points)[0].tolist(), strict=True))
    for upper, lower in pairwise(numbers):
        if at[upper] >= at[lower]:
            raise InputError(
                f"The discs of {SEGMENT_NAMES[upper]} and {SEGMENT_NAMES[lower]} are out of order along the cord. "
                "Correct the labels."
            )
    segments, missing = [], []
    for number, name in SEGMENT_NAMES.items():
        above, below = at.get(number - 1), at.get(number + 1)
        if number in at and (above is not None or below is not None):
            s = at[number]
            above_by = (s - above) / 2 if above is not None else (below - s) / 2
            below_by = (below - s) / 2 if below is not None else above_by
            segment = Segment(number, name, s - above_by, s + below_by)
            if _coverage(centreline, segment) >= SMALLEST_COVERAGE:
                segments.append(segment)
                continue
        missing.append(name)
    return tuple(segments), tuple(missing)


def _coverage(centreline, segment):
    """Share of the segment's length where there is cord."""
    s = np.arange(segment.start_mm, segment.stop_mm, 0.1)
    return float(np.interp(s, centreline.s, centreline.covered, left=0, right=0).mean())


def label_segments(cord: np.ndarray, centreline: Centreline, segments: tuple[Segment, ...]) -> np.ndarray:
    """Segment numbers 3 … 8 on the pixels of a cord mask (S, H, W), 0 elsewhere; uint8."""
    labels = np.zeros(cord.shape, np.uint8)
    rows, columns = np.nonzero(cord.any(axis=0))
    plane = np.zeros(cord.shape[1:], np.uint8)
    s, _ = centreline.project(np.stack([rows, columns], axis=1))
    for segment in segments:
        inside = (s >= segment.start_mm) & (s < segment.stop_mm)
        plane[rows[inside], columns[inside]] = segment.number
    labels[:] = plane
    return np.where(cord, labels, 0).astype(np.uint8)
