"""The AnoCurve along the cord and the scores taken from it (paper 3.5.2)."""

from dataclasses import dataclass

import numpy as np

from .anomaly import erode
from .config import ScoreConfig
from .roi.centreline import PROFILE_STEP_MM, Centreline
from .roi.segments import Segment

CURVE_STEP_MM = 0.5
NARROWEST_MM = 2.0  # where a slice shows less cord than this across, its curve has no value


def anocurve(
    anomaly: np.ndarray, cord: np.ndarray, centreline: Centreline, config: ScoreConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AnoCurve of one slice: `s` (N,) in mm along the centreline and the anomaly's value (N,) there.

    anomaly, cord: (H, W). The mean (`config.across` "max": the largest value) is taken over the width of the cord,
    less the border that `config.erosion_px` takes off. `config.position` "arc": every 0.5 mm of arc length,
    perpendicular to the centreline, from bilinear samples. "rows": in each image row that the centreline crosses, the
    paper's AnoCurve(j) = 1/W Σ_i AnoMap(i, j). NaN where the cord is less than 2 mm wide.
    """
    config = config or ScoreConfig()
    mask = erode(cord, config.erosion_px)
    images = (np.where(mask, anomaly, 0), mask, cord)
    if config.position == "rows":
        row = centreline.points[:, 0]
        rows = np.arange(int(np.ceil(row[0])), int(row[-1]) + 1)
        s = np.interp(rows, row, centreline.s)
        total, width, whole = (image[rows].sum(axis=1, dtype=float) for image in images)
        largest = images[0][rows].max(axis=1)
    else:
        s = np.arange(0, centreline.length + 1e-9, CURVE_STEP_MM)
        profiles = [centreline.profile(image, s) for image in images]
        total, width, whole = (profile.sum(axis=1) * PROFILE_STEP_MM for profile in profiles)
        largest = profiles[0].max(axis=1)
    seen = (whole >= NARROWEST_MM - 1e-6) & (width > 1e-6)
    values = largest if config.across == "max" else total / np.where(seen, width, 1)
    return s, np.where(seen, values, np.nan)


@dataclass(frozen=True)
class VolumeCurve:
    """The AnoCurves of the analysed slices on common positions.

    s_mm: (N,) along the centreline. slices: (S,) numbers of the slices in the stack. values: (S, N), NaN
    where a slice shows no cord. maximum: (N,) over the slices; slice_of_maximum: (N,) the stack's slice that
    has it, −1 where no slice has a value. counted: (N,) bool, what enters the patient's score.
    """

    s_mm: np.ndarray
    slices: tuple[int, ...]
    values: np.ndarray
    maximum: np.ndarray
    slice_of_maximum: np.ndarray
    counted: np.ndarray

    @property
    def counted_mm(self) -> tuple[float, float]:
        """Where what is counted begins and ends."""
        s = self.s_mm[self.counted]
        return float(s[0]), float(s[-1])


def volume_curve(
    anomaly: np.ndarray,
    cord: np.ndarray,
    centreline: Centreline,
    slices: tuple[int, ...],
    config: ScoreConfig | None = None,
    segments: tuple[Segment, ...] = (),
    edge_rows: tuple[float, float] = (-np.inf, np.inf),
) -> VolumeCurve:
    """AnoCurves of the analysed slices.

    :param anomaly, cord: (len(slices), H, W), see `anocurve`.
    :param segments, edge_rows: counted are these segments, and cord at least `config.edge_mm` away from the rows at
        which the image begins and ends; everything where nothing would be left. Rows are 1 mm apart.
    """
    config = config or ScoreConfig()
    curves = [anocurve(a, c, centreline, config) for a, c in zip(anomaly, cord, strict=True)]
    values = np.array([value for _, value in curves])
    ranked = np.where(np.isnan(values), -np.inf, values)
    best, seen = ranked.argmax(axis=0), np.isfinite(values).any(axis=0)
    return VolumeCurve(
        s_mm=curves[0][0],
        slices=tuple(slices),
        values=values,
        maximum=np.where(seen, ranked.max(axis=0), np.nan),
        slice_of_maximum=np.where(seen, np.asarray(slices)[best], -1),
        counted=_counted(curves[0][0], seen, centreline, segments, edge_rows, config.edge_mm),
    )


def off_the_edges(rows: np.ndarray, edge_rows: tuple[float, float], edge_mm: float) -> np.ndarray:
    """Which rows, 1 mm apart, lie at least `edge_mm` from those at which the image begins and ends; bool."""
    return np.minimum(rows - edge_rows[0], edge_rows[1] - rows) >= edge_mm


def _counted(s_mm, seen, centreline, segments, edge_rows, edge_mm):
    if not edge_mm:
        return np.ones_like(seen)
    counted = off_the_edges(centreline.at(s_mm)[0][:, 0], edge_rows, edge_mm)
    for segment in segments:
        counted |= (s_mm >= segment.start_mm) & (s_mm < segment.stop_mm)
    return counted if (counted & seen).any() else np.ones_like(seen)


def peak(curve: VolumeCurve, start_mm: float = -np.inf, stop_mm: float = np.inf) -> int | None:
    """Index of the highest value of `curve.maximum` in start ≤ s < stop; None if the curve has no value there."""
    inside = (curve.s_mm >= start_mm) & (curve.s_mm < stop_mm) & np.isfinite(curve.maximum)
    return int(np.where(inside, curve.maximum, -np.inf).argmax()) if inside.any() else None


def segment_scores(curve: VolumeCurve, segments: tuple[Segment, ...]) -> dict[str, float]:
    """AnoScore^S(S_i) = max of the AnoCurve over the segment (Eq. 1), by name.

    A segment in which no analysed slice shows cord is left out.
    """
    at = {segment.name: peak(curve, segment.start_mm, segment.stop_mm) for segment in segments}
    return {name: float(curve.maximum[k]) for name, k in at.items() if k is not None}


def patient_score(curve: VolumeCurve) -> float:
    """AnoScore^P(x) = max of the AnoCurve over the whole cord (Eq. 2), as far as it counts, and all analysed slices."""
    return float(curve.maximum[patient_peak(curve)])


def patient_peak(curve: VolumeCurve) -> int:
    """Index of the position that gives the patient's score."""
    return int(np.where(curve.counted & np.isfinite(curve.maximum), curve.maximum, -np.inf).argmax())
