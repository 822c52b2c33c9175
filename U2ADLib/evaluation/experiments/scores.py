"""From a method's maps or boxes to scores of segments and patients: the same steps for all (paper 3.5, B.2)."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, center_of_mass
from skimage.feature import peak_local_max

from ...anomaly import filtered_map
from ...config import ScoreConfig
from ...curve import patient_score, segment_scores, volume_curve
from ...errors import InputError
from ...rivals.boxes import box_scores, segment_rectangles
from ...rivals.detector import Box
from ..benchmark.metrics import MARK_PX, MOST_MARKS, Ranking
from .contracts import CaseScores, ExperimentCase


@dataclass(frozen=True)
class Truth:
    """What the figures need of an `ExperimentCase`, without its images: the same names mean the same."""

    id: str
    person: str
    group: str
    patient: bool
    segments: dict[str, bool]
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, case: ExperimentCase) -> "Truth":
        return cls(case.id, case.person, case.group, case.patient, dict(case.segments), tuple(case.kinds))


def score_maps(
    case: ExperimentCase, anomaly: np.ndarray, config: ScoreConfig | None = None, seconds: float = 0.0
) -> CaseScores:
    """Scores of a method's maps (S, 256, 256) of the case's slices, exactly as `analysis.analyse` makes the paper's.

    Every method's slices stay alone and its cord counts to the image's edge: `ScoreConfig.neighbours_mm` and `edge_mm`,
    which analyses with the default score have, would be an advantage that the others have not.

    The map is filtered; the AnoCurve of the filtered map gives the scores of segments and patient (Eq. 1 and 2), the
    filtered map itself those of lesions and marks. A mark is its highest pixel within 2 px, outside lesions.

    :param seconds: that the method took.
    :raises InputError: the maps are not those of the case.
    """
    if anomaly.shape != case.cords.shape or not np.isfinite(anomaly).all():
        raise InputError(f"{case.id}: the maps must be finite numbers of the shape {case.cords.shape}.")
    filtered = filtered_map(anomaly, case.cords, config)
    curve = volume_curve(filtered, case.cords, case.region.centreline, case.slices, config)
    segments = segment_scores(curve, case.region.segments)
    lesions = np.zeros(filtered.shape, np.uint8) if case.lesions is None else case.lesions
    return CaseScores(
        case.id,
        patient_score(curve),
        segments,
        max(segments, key=segments.get, default=None),
        seconds,
        tuple(_positive(filtered[lesions == number].max(initial=0)) for number in _numbers(lesions)),
        _marks(filtered, lesions > 0, case.slices),
        **_pixel_figures(anomaly, lesions > 0, case.cords),
    )


def _numbers(lesions):
    return range(1, int(lesions.max(initial=0)) + 1)


def _positive(value):
    """What the filter removed is not found at any threshold."""
    return float(value) if value > 0 else -np.inf


def _marks(filtered, lesion, slices):
    marks = []
    for k, (plane, inside) in enumerate(zip(filtered, lesion, strict=True)):
        outside = np.where(binary_dilation(inside, iterations=MARK_PX), 0, plane) if inside.any() else plane
        # A plateau has one mark within every few pixels, not one for each of its pixels.
        places = peak_local_max(outside, MARK_PX, threshold_abs=0, exclude_border=False, num_peaks=MOST_MARKS)
        marks += [(float(plane[r, c]), int(slices[k]), int(r), int(c)) for r, c in places]
    return tuple(sorted(marks, reverse=True)[:MOST_MARKS])


def _pixel_figures(anomaly, lesion, cords):
    truth = lesion[cords]
    if not truth.any():
        return {}
    ranking = Ranking(anomaly[cords], truth, np.zeros(len(truth), int))
    return {"pixel_ap": float(ranking.average_precision(np.ones((1, 1)))[0]), "pixel_dice": ranking.best_dice()}


def score_boxes(case: ExperimentCase, boxes: Sequence[Sequence[Box]], seconds: float = 0.0) -> CaseScores:
    """Scores of the boxes in each of the case's slices (paper B.2).

    patient: the highest confidence, 0 without boxes. A segment: of the boxes whose IoU with the smallest rectangle
    around its cord is above 0.5, the highest confidence, else 0. top: the segment that the most confident box of all
    overlaps so much, None where it overlaps none. A lesion is found by the boxes that its middle lies in; the others
    are marks.
    """
    names = {segment.number: segment.name for segment in case.region.segments}
    rectangles = [segment_rectangles(plane) for plane in case.region.segment_labels()[list(case.slices)]]
    patient, segments, top = box_scores(boxes, rectangles)
    lesions = np.zeros(case.cords.shape, np.uint8) if case.lesions is None else case.lesions
    found = dict.fromkeys(_numbers(lesions), -np.inf)
    marks = []
    for k, plane in enumerate(lesions):
        middles = {n: center_of_mass(plane == n) for n in found if (plane == n).any()}
        for box in boxes[k]:
            hit = [n for n, (r, c) in middles.items() if box.top <= r < box.bottom and box.left <= c < box.right]
            found |= {n: max(found[n], float(box.confidence)) for n in hit}
            if not hit:
                place = int(box.top + box.bottom) // 2, int(box.left + box.right) // 2
                marks.append((float(box.confidence), int(case.slices[k]), *place))
    return CaseScores(
        case.id,
        float(patient),
        {names[number]: float(segments[number]) for number in sorted(segments)},
        names.get(top),
        seconds,
        tuple(found.values()),
        tuple(sorted(marks, reverse=True)[:MOST_MARKS]),
    )


# ------------------------------------------------------------------------------------------------------------- files


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. A last line that a kill cut off is taken away first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(f"{line}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


def append_scores(path: Path, scores: CaseScores) -> None:
    """Add a case to a file. Infinite and undefined numbers, which JSON does not have, are null."""
    values = asdict(scores)
    values["lesions"] = [value if np.isfinite(value) else None for value in scores.lesions]
    values["patient"] = scores.patient if np.isfinite(scores.patient) else None
    append_line(Path(path), json.dumps(values, ensure_ascii=False, allow_nan=False))


def read_scores(path: Path) -> dict[str, CaseScores]:
    """Scores by case, in the order of the file; a last line that is not complete is left out, no file is no scores.

    :raises InputError: the file holds something else.
    """
    path = Path(path)
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        made = [_scores(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError, AttributeError):
        place = "/".join(path.parts[-3:])
        raise InputError(f"{place} does not hold the scores of cases: delete it to score them again.") from None
    return {one.id: one for one in made}


def _scores(values):
    if set(values) != {field.name for field in fields(CaseScores)}:
        raise KeyError
    values["lesions"] = tuple(-np.inf if value is None else value for value in values["lesions"])
    values["patient"] = np.nan if values["patient"] is None else values["patient"]
    values["peaks"] = tuple(tuple(peak) for peak in values["peaks"])
    return CaseScores(**values)
