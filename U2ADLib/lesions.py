"""Findings as a table: what exceeded the threshold, where, how long and how bright.

A finding begins where the AnoCurve of an analysed slice exceeds its threshold: that of the segments inside a segment,
that of the patient above C2-3 and below C7-T1 as far as the curve counts there. Its extent in the slice is the full
width at half maximum: the pixels of the filtered map that are connected (8 neighbours) to the brightest pixel there and
at least half as high. Findings that touch within a slice or across slices (26 neighbours) are one lesion. So every
flagged segment has a lesion, and a lesion names only flagged segments.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anomaly import EIGHT_CONNECTED, erode
from .curve import CURVE_STEP_MM, VolumeCurve
from .roi.centreline import PROFILE_STEP_MM
from .roi.region import Region
from .scoring.evidence import Evidence

HALF = 0.5  # of the peak: what belongs to a finding
REFERENCE_SEGMENT = 8  # C7-T1, the reference of the signal change ratio
SMALLEST_REFERENCE_PX = 20

# The first six are those of the Spinal Cord Toolbox (sct_analyze_lesion).
COLUMNS = (
    "label", "volume [mm3]", "length [mm]", "width [mm]", "max_equivalent_diameter [mm]",
    "max_axial_damage_ratio []", "segment", "slices", "peak_score []", "peak_score_smaller_mask []", "uncertainty []",
    "local_gain []", "signal_change_ratio []", "scr_reference",
)  # fmt: skip


@dataclass(frozen=True)
class Lesions:
    """labels: (len(slices), H, W) int32, 1 … n by falling peak score, 0 elsewhere, for the curve's analysed slices.

    peak_scores: (n,) highest AnoCurve value of each. segments: (n,) names of the segments whose threshold
    each exceeds, from head to feet.
    """

    labels: np.ndarray
    peak_scores: tuple[float, ...]
    segments: tuple[tuple[str, ...], ...]


def find_lesions(
    anomaly: np.ndarray,
    curve: VolumeCurve,
    region: Region,
    segment_threshold: float,
    patient_threshold: float,
) -> Lesions:
    """Lesions in the filtered map (len(curve.slices), H, W) from which `curve` was taken, where it counts."""
    segment_at = np.zeros(len(curve.s_mm), int)
    for segment in region.segments:
        segment_at[(curve.s_mm >= segment.start_mm) & (curve.s_mm < segment.stop_mm)] = segment.number
    limit = np.where(segment_at > 0, segment_threshold, np.where(curve.counted, patient_threshold, np.inf))

    found = np.zeros(anomaly.shape, bool)
    seeds = []  # (pixel of the peak, score, numbers of the segments) of every stretch of curve over its threshold
    for k, values in enumerate(curve.values):
        rows, columns = np.nonzero(anomaly[k] > 0)
        s, _ = region.centreline.project(np.stack([rows, columns], axis=1))
        runs, count = ndimage.label(np.nan_to_num(values, nan=-np.inf) > limit)
        for run in range(1, count + 1):
            at = np.flatnonzero(runs == run)
            away = np.maximum(curve.s_mm[at[0]] - s, s - curve.s_mm[at[-1]])
            # A bilinear sample sees 1 px far; by image rows, a tilted cord's pixels can be farther away.
            near = away <= max(1, away.min())
            best = np.flatnonzero(near)[anomaly[k, rows[near], columns[near]].argmax()]
            pixel = (rows[best], columns[best])
            parts, _ = ndimage.label(anomaly[k] >= HALF * anomaly[k][pixel], EIGHT_CONNECTED)
            found[k] |= parts == parts[pixel]
            seeds.append(((k, *pixel), values[at].max(), set(segment_at[at].tolist()) - {0}))
    return _joined(found, seeds, curve.slices, {segment.number: segment.name for segment in region.segments})


def _joined(found, seeds, slices, names):
    """Join findings across slices that are neighbours in the stack, and number them by score."""
    in_stack = np.zeros((max(slices) + 1, *found.shape[1:]), bool)  # analysed slices need not be neighbours
    in_stack[list(slices)] = found
    joined, count = ndimage.label(in_stack, np.ones((3, 3, 3)))
    joined = joined[list(slices)]
    scores, numbers = np.full(count + 1, -np.inf), [set() for _ in range(count + 1)]
    for pixel, score, touched in seeds:
        label = joined[pixel]
        scores[label] = max(scores[label], score)
        numbers[label] |= touched
    order = 1 + np.argsort(-scores[1:], kind="stable")
    renumbered = np.zeros(count + 1, np.int32)
    renumbered[order] = np.arange(1, count + 1)
    return Lesions(
        labels=renumbered[joined],
        peak_scores=tuple(float(scores[k]) for k in order),
        segments=tuple(tuple(names[n] for n in sorted(numbers[k])) for k in order),
    )


def lesion_table(
    lesions: Lesions,
    curve: VolumeCurve,
    region: Region,
    signal: np.ndarray,
    slice_spacing_mm: float,
    *,
    uncertainty: np.ndarray,
    evidence: Evidence,
    smaller_curve: VolumeCurve,
) -> list[dict]:
    """One dictionary with the keys COLUMNS per lesion, strongest first.

    signal: (S, H, W), the stack's slices in the input's intensities. uncertainty: EU of the analysed slices, (S', H,
    W), as the evidence's maps. The columns:

    - volume: pixels × 1 mm² × slice spacing. length: along the centreline. width: the largest thickness in a
      sagittal slice, perpendicular to the centreline.
    - max_equivalent_diameter: of the circle with the area of the largest cross-section perpendicular to the
      centreline. max_axial_damage_ratio: largest share of such a cross-section of the cord (all slices).
    - segment: names joined by "+", empty outside the segments. slices: numbers in the stack (0 = most right),
      joined by a space. peak_score: the highest value of the AnoCurve.
    - peak_score_smaller_mask: the AnoCurve's highest value along the lesion had the mask been one pixel smaller
      (`smaller_curve`): a finding that vanishes then is probably CSF at the border. uncertainty: √EU, mean over the
      lesion. local_gain: how much brighter than the cord thereabouts it is at most (0.2: a fifth), the simple rule.
    - signal_change_ratio: mean signal of the lesion / median signal of the unflagged cord at C7-T1 (paper
      5.5); None where that is not visible; scr_reference says what it was divided by, or why there is none.
    """
    reference, reference_name = _reference(lesions, curve, region, signal)
    slices = list(curve.slices)
    cord_area = _cross_sections(region.cord, region, curve.s_mm).sum(axis=0)
    rows = []
    for label, (score, segments) in enumerate(zip(lesions.peak_scores, lesions.segments, strict=True), start=1):
        mask = lesions.labels == label
        k, row, column = np.nonzero(mask)
        s, _ = region.centreline.project(np.stack([row, column], axis=1))
        thickness = _cross_sections(mask, region, curve.s_mm)
        area = thickness.sum(axis=0)
        ratio = np.divide(area, cord_area, out=np.zeros_like(area), where=cord_area > 0)
        values = (
            label,
            mask.sum() * slice_spacing_mm,
            np.ptp(s) + 1,
            thickness.max(),
            2 * np.sqrt(area.max() * slice_spacing_mm / np.pi),
            ratio.max(),
            "+".join(segments),
            " ".join(str(slices[i]) for i in np.unique(k)),
            score,
            _highest(smaller_curve, s, k),
            np.sqrt(uncertainty[mask]).mean(),
            evidence.gain[mask].max(),
            None if reference is None else signal[slices][mask].mean() / reference,
            reference_name,
        )
        rows.append({
            name: float(value) if isinstance(value, np.generic) else value
            for name, value in zip(COLUMNS, values, strict=True)
        })  # fmt: skip
    return rows


def _highest(curve, s, slices):
    """The highest value of the curves of some slices between the lowest and the highest `s`; 0 where they have none."""
    along = (curve.s_mm >= s.min() - CURVE_STEP_MM) & (curve.s_mm <= s.max() + CURVE_STEP_MM)
    return np.nan_to_num(curve.values[np.ix_(np.unique(slices), along)], nan=0).max(initial=0)


def _cross_sections(mask, region, s):
    """(S, len(s)) mm: thickness of a mask (S, H, W) across the centreline, per slice."""
    return np.array([region.centreline.profile(plane, s).sum(axis=1) for plane in mask]) * PROFILE_STEP_MM


def _reference(lesions, curve, region, signal):
    """Median signal of the unflagged cord at C7-T1 in the analysed slices, and its name; None if there is too little.

    One pixel of the border is left out, where cord and CSF share a pixel.
    """
    slices = list(curve.slices)
    if REFERENCE_SEGMENT not in {segment.number for segment in region.segments}:
        return None, "none: C7-T1 is not visible"
    cord = (region.segment_labels()[slices] == REFERENCE_SEGMENT) & erode(region.cord[slices], 1)
    values = signal[slices][cord & (lesions.labels == 0)]
    if values.size < SMALLEST_REFERENCE_PX:
        return None, "none: no unflagged cord at C7-T1"
    reference = float(np.median(values))
    if reference <= 0:
        return None, "none: the cord at C7-T1 has no signal"
    return reference, "median of unflagged cord at C7-T1"
