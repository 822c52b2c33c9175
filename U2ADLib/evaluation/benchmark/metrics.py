"""The figures, each for any weighting of the slices, so that one set of draws serves every score (paired bootstrap).

Weights are (R, S): how often each of a person's S slices is drawn in each of R resamples; row 0 is 1 for all, the
estimate itself. Where a figure is not defined (no positive, no negative) it is NaN.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter
from scipy.stats import beta

from ...config import SEGMENT_NAMES
from ..settings import auroc as rank_auroc
from .cases import NONE, Case
from .methods import curve_along_cord

NEVER = -1e6  # the score of eroded pixels: never called
MARK_PX = 2  # false marks are the highest pixels within so many px
MOST_MARKS = 10  # kept of a case
SEGMENT_PX = 3  # of a lesion make a segment positive; fewer leave it out


# ------------------------------------------------------------------------------------------------------ draws


def slice_draws(person: int, condition: int, slices: int, resamples: int) -> np.ndarray:
    """Weights (1 + resamples, slices), the same for every score and every repetition."""
    rng = np.random.default_rng([person, condition])
    draws = rng.multinomial(slices, np.full(slices, 1 / slices), size=resamples)
    return np.vstack([np.ones((1, slices)), draws])


def people_draws(people: int, resamples: int, seed: int = 0) -> np.ndarray:
    """(resamples, people, 2): whom each resample draws, and which of that person's resamples."""
    rng = np.random.default_rng(seed)
    size = (resamples, people)
    return np.stack([rng.integers(people, size=size), 1 + rng.integers(max(resamples, 1), size=size)], -1)


def over_people(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Mean over people that are themselves drawn: values (people, 1 + R) → (R,)."""
    return np.nanmean(values[draws[..., 0], draws[..., 1]], axis=1)


def interval(resampled: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of resamples; NaN where there is none."""
    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size:
        return np.nan, np.nan
    low, high = np.percentile(resampled, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


# ----------------------------------------------------------------------------------------------------- figures


def auroc(values: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a positive value (labels True) exceeds a negative one, ties half."""
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return np.nan
    return rank_auroc(values[labels], values[~labels])


def weighted_auroc(positive, positive_slices, negative, negative_slices, weights: np.ndarray) -> np.ndarray:
    """As `auroc` for values (P,) and (N,), each of a slice, and weights (R, S) of the slices, (R,)."""
    positive, negative = np.asarray(positive)[:, None], np.asarray(negative)[None]
    wins = (positive > negative) + 0.5 * (positive == negative)
    of_slice = np.eye(weights.shape[1])
    rows, columns = of_slice[positive_slices], of_slice[negative_slices]
    total = (weights @ rows.sum(0)) * (weights @ columns.sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((weights @ (rows.T @ wins @ columns)) * weights).sum(1) / total


class Ranking:
    """Values of many items, highest first; equal ones share a threshold. Each item belongs to a slice.

    Only thresholds at which a positive is called are kept: precision elsewhere does not enter the average precision.
    """

    def __init__(self, values: np.ndarray, labels: np.ndarray, slices: np.ndarray, count: int | None = None):
        order = np.argsort(-values, kind="stable")
        values, labels, slices = values[order], np.asarray(labels, bool)[order], np.asarray(slices)[order]
        last_of_tie = np.flatnonzero(np.append(values[1:] != values[:-1], [True] * bool(len(values))))
        member = slices[:, None] == np.arange(slices.max(initial=0) + 1 if count is None else count)
        self.found, self.called = (np.cumsum(m, axis=0)[last_of_tie] for m in (member & labels[:, None], member))
        kept = np.diff(self.found.sum(1), prepend=0) > 0
        self.found, self.called = self.found[kept].astype(float), self.called[kept].astype(float)
        self.prevalence = float(labels.mean()) if len(labels) else np.nan

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Area under precision against recall, summed by steps; weights (R, S) → (R,)."""
        if not len(self.found):
            return np.full(len(weights), np.nan)
        found, called = self.found @ weights.T, self.called @ weights.T
        precision = found / np.maximum(called, 1e-12)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (np.diff(found, axis=0, prepend=0) * precision).sum(0) / found[-1]

    def best_dice(self) -> float:
        """Dice at the best threshold for these very items: an oracle's figure."""
        if not len(self.found):
            return np.nan
        found, called = self.found.sum(1), self.called.sum(1)
        return float((2 * found / (called + found[-1])).max())


def average_precision(values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Of items with weights of their own (N,), by default 1."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    return float(Ranking(values, labels, np.arange(len(values))).average_precision(weights[None])[0])


def sensitivity_at(positive: np.ndarray, negative: np.ndarray, false_rate: float) -> float:
    """Share of positives above the lowest threshold at which at most this share of negatives is. An oracle's figure, if
    both are the test's."""
    if not len(positive) or not len(negative):
        return np.nan
    ordered = np.sort(negative)[::-1]
    allowed = int(np.floor(false_rate * len(ordered) + 1e-9))
    limit = ordered[allowed] if allowed < len(ordered) else -np.inf
    return float(np.mean(np.asarray(positive) > limit))


def threshold_at(positive: np.ndarray, sensitivity: float) -> float:
    """The highest threshold that at least this share of the values reaches (≥)."""
    if not len(positive):
        return np.nan
    needed = int(np.ceil(sensitivity * len(positive) - 1e-9))
    return float(np.sort(positive)[::-1][max(needed, 1) - 1])


def false_rate_at(positive: np.ndarray, negative: np.ndarray, sensitivity: float) -> float:
    """Share of negatives that reach `threshold_at`. An oracle's figure, if both are the test's."""
    limit = threshold_at(positive, sensitivity)
    return np.nan if np.isnan(limit) or not len(negative) else float(np.mean(np.asarray(negative) >= limit))


def froc(lesion_peaks, marks, rates, lesion_weights=None, image_weights=None) -> np.ndarray:
    """Share of lesions found where so many false marks per lesion-free image are made, (len(rates), R).

    :param lesion_peaks: (L,) highest score in each lesion; a lesion is found where any pixel of it is called.
    :param marks: (N, M) the marks of lesion-free images, −inf where there are fewer.
    :param lesion_weights, image_weights: (R, L) and (R, N).
    """
    lesion_peaks, marks = np.asarray(lesion_peaks, float), np.asarray(marks, float)
    if not len(lesion_peaks) or not len(marks):
        return np.full((len(rates), 1 if lesion_weights is None else len(lesion_weights)), np.nan)
    lesion_weights = np.ones((1, len(lesion_peaks))) if lesion_weights is None else lesion_weights
    image_weights = np.ones((1, len(marks))) if image_weights is None else image_weights
    order = np.argsort(-marks.ravel(), kind="stable")
    values = np.append(marks.ravel()[order], -np.inf)
    made = np.cumsum(image_weights[:, np.repeat(np.arange(len(marks)), marks.shape[1])[order]], axis=1)
    made = np.hstack([made, np.full((len(made), 1), np.inf)])
    with np.errstate(invalid="ignore", divide="ignore"):
        limits = [values[(made > rate * image_weights.sum(1, keepdims=True) + 1e-9).argmax(1)] for rate in rates]
        found = [(lesion_weights * (lesion_peaks > limit[:, None])).sum(1) for limit in limits]
        return np.array(found) / lesion_weights.sum(1)


def clopper_pearson(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share."""
    if not total:
        return np.nan, np.nan
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, total - count + 1))
    return low, 1.0 if count == total else float(beta.ppf(1 - tail, count + 1, total - count))


# ---------------------------------------------------------------------------------------------------- one case


def segment_truth(case: Case) -> np.ndarray:
    """(6,) int8 for C2-3 … C7-T1: 1 with lesion, 0 without, −1 not in view or touched by a few pixels only."""
    pixels = [case.truth[case.segments == number].sum() for number in SEGMENT_NAMES]
    seen = [(case.segments == number).any() for number in SEGMENT_NAMES]
    pixels, seen = np.array(pixels), np.array(seen)
    return np.where(seen & (pixels == 0), 0, np.where(seen & (pixels >= SEGMENT_PX), 1, -1)).astype(np.int8)


def case_figures(score: np.ndarray, domain: np.ndarray, case: Case, across: str = "mean") -> dict[str, np.ndarray]:
    """What is kept of one score (H, W) of one case.

    auroc: of its pixels in the given mask; peak: of the curve; counted_peak: of its rows that count in an analysis, of
    all where none does; segments (6,): of the curve in each; lesion: the highest score in the lesion; hit: whether the
    image's highest pixel lies within 1 px of the lesion; marks (10,): the highest local maxima, of lesion-free cases.
    """
    truth = case.truth
    curve = curve_along_cord(score, domain, across)
    called = np.where(domain, score, NEVER)
    segments = [curve[case.segments == number].max(initial=-np.inf) for number in SEGMENT_NAMES]
    result = {
        "auroc": auroc(called[case.mask], truth[case.mask]),
        "peak": curve.max(),
        "counted_peak": (curve[case.counted] if np.isfinite(curve[case.counted]).any() else curve).max(),
        "segments": np.array(segments),
        "lesion": called[truth].max(initial=NEVER),
        "hit": float(binary_dilation(truth).ravel()[called.argmax()]),
        "marks": np.full(MOST_MARKS, -np.inf),
    }
    if not truth.any():
        highest = domain & (called == maximum_filter(called, 2 * MARK_PX + 1))
        best = np.sort(called[highest])[::-1][:MOST_MARKS]
        result["marks"][: len(best)] = best
    return result


def pooled_pixels(scores: Sequence[tuple[np.ndarray, np.ndarray]], cases: Sequence[Case], kind: str, slices: int):
    """The pixels of all cases of a kind and of as many lesion-free ones, as a `Ranking`."""
    chosen = [k for k, case in enumerate(cases) if case.kind == kind]
    chosen += [k for k, case in enumerate(cases) if case.kind == NONE][::2]
    values = [np.where(scores[k][1], scores[k][0], NEVER)[cases[k].mask] for k in chosen]
    labels = [cases[k].truth[cases[k].mask] for k in chosen]
    index = [np.full(len(v), cases[k].slice_index) for k, v in zip(chosen, values, strict=True)]
    return Ranking(np.concatenate(values), np.concatenate(labels), np.concatenate(index), slices)
