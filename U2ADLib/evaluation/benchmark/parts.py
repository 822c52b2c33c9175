"""What is kept of a method on one set of cases: figures of every case and every score, not the maps.

A part is one person in one condition and repetition, seen by the fit of one fold: the person left out, or one of
those it learnt from, on whom settings and thresholds are chosen.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from ...scoring.expected import ExpectedError
from . import metrics, study
from .cases import CONDITIONS, NONE, PHANTOM, Case
from .methods import Method, final_scores, scores_of

BATCH = 64  # cases that a method sees at a time
RESAMPLES = 500
FALSE_MARKS = (0.5, 1.0)  # per lesion-free image
FOUND = tuple(f"lesions found at {rate:g} false marks" for rate in FALSE_MARKS)
METRICS = (
    "pixel AUROC",
    "pixel AP",
    "slice AUROC",
    "slice AUROC as counted",  # by an analysis, `cases.counted_rows`
    "segment AUROC",
    "segment AP",
    "patient AUROC",
    *FOUND,
    "highest pixel in lesion",
    "oracle best Dice",
    "oracle sensitivity at specificity 0.9",
    "oracle specificity at sensitivity 0.9",
)


@dataclass(frozen=True, eq=False)
class Part:
    """V scores, N cases of which F without a lesion, K kinds of lesion, S slices, 1 + R weightings.

    variants (V,): names of the scores; kinds, volumes (N,): names; slices, repeats (N,); segment_truth (N, 6).
    auroc, peak, counted_peak, lesion, hit (V, N), segments (V, N, 6), marks (V, F, 10): see `metrics.case_figures`.
    ap (V, K, 1 + R), dice and prevalence (V or 1, K): of the pixels of each kind in `lesion_kinds` (K,).
    weights (1 + R, S); left_out (K,): cases whose given mask shows too little of the lesion, of `planted` (K,).
    """

    variants: np.ndarray
    kinds: np.ndarray
    volumes: np.ndarray
    slices: np.ndarray
    repeats: np.ndarray
    segment_truth: np.ndarray
    auroc: np.ndarray
    peak: np.ndarray
    counted_peak: np.ndarray
    segments: np.ndarray
    lesion: np.ndarray
    hit: np.ndarray
    marks: np.ndarray
    lesion_kinds: np.ndarray
    ap: np.ndarray
    dice: np.ndarray
    prevalence: np.ndarray
    weights: np.ndarray
    planted: np.ndarray
    left_out: np.ndarray

    def save(self, path: Path) -> None:
        """Write beside its place and move it there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, **{field.name: getattr(self, field.name) for field in fields(self)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Part":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{field.name: stored[field.name] for field in fields(cls)})

    def figures(self, variant: int, kind: str) -> np.ndarray:
        """`METRICS` of one score and kind, (len(METRICS), 1 + R); NaN where there is no such lesion."""
        lesioned, healthy = self.kinds == kind, self.kinds == NONE
        undefined = np.full(len(self.weights), np.nan)
        if not lesioned.any():
            return np.tile(undefined, (len(METRICS), 1))
        with_lesion, without = self.weights[:, self.slices[lesioned]], self.weights[:, self.slices[healthy]]

        def mean(values):
            with np.errstate(invalid="ignore", divide="ignore"):
                return with_lesion @ values / with_lesion.sum(1)

        peaks, segments = self.peak[variant], self.segments[variant]
        at = int(np.flatnonzero(self.lesion_kinds == kind)[0])
        result = dict.fromkeys(METRICS, undefined)
        result["pixel AUROC"] = mean(self.auroc[variant][lesioned])
        result["pixel AP"] = self.ap[variant, at]
        for name, values in (("slice AUROC", peaks), ("slice AUROC as counted", self.counted_peak[variant])):
            both = [(values[chosen], self.slices[chosen]) for chosen in (lesioned, healthy)]
            result[name] = metrics.weighted_auroc(*both[0], *both[1], self.weights)
        counted = (lesioned | healthy)[:, None]
        where = [np.nonzero(counted & (self.segment_truth == truth)) for truth in (1, 0)]
        if all(len(rows) for rows, _ in where):
            both = [(segments[one], self.slices[one[0]]) for one in where]
            values, slices = (np.concatenate(pair) for pair in zip(*both, strict=True))
            result["segment AUROC"] = metrics.weighted_auroc(*both[0], *both[1], self.weights)
            ranking = metrics.Ranking(values, np.arange(len(values)) < len(where[0][0]), slices, self.weights.shape[1])
            result["segment AP"] = ranking.average_precision(self.weights)
        patients, healthy_patients = self.patients(variant, kind)
        if len(healthy_patients):
            result["patient AUROC"] = mean(np.array([_wins(one, healthy_patients) for one in patients]))
        found = metrics.froc(self.lesion[variant][lesioned], self.marks[variant], FALSE_MARKS, with_lesion, without)
        result |= dict(zip(FOUND, found, strict=True))
        result["highest pixel in lesion"] = mean(self.hit[variant][lesioned])
        oracle = (
            self.dice[variant, at],
            metrics.sensitivity_at(peaks[lesioned], peaks[healthy], 0.1),
            1 - metrics.false_rate_at(peaks[lesioned], peaks[healthy], 0.9),
        )
        for name, value in zip(METRICS[-3:], oracle, strict=True):  # thresholds of the test itself: no resamples
            result[name] = np.where(np.arange(len(undefined)) == 0, value, np.nan)
        return np.stack([result[metric] for metric in METRICS])

    def patients(self, variant: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores of patients with one lesion, one for each lesioned case, and of patients without.

        A patient's score is the highest peak of all slices. Without lesion: the first half of a person's lesion-free
        repeats. With: a lesioned slice, and the person's other slices from the second half.
        """
        peak, none = self.peak[variant], self.kinds == NONE
        half = (self.repeats[none].max(initial=0) + 1) // 2
        rest, without = defaultdict(dict), defaultdict(list)
        for k in np.flatnonzero(none):
            if self.repeats[k] < half:
                without[self.volumes[k], self.repeats[k]].append(peak[k])
            else:
                rest[self.volumes[k], self.repeats[k] - half][self.slices[k]] = peak[k]
        lesioned = []
        for k in np.flatnonzero(self.kinds == kind):
            others = rest[self.volumes[k], self.repeats[k] % max(half, 1)]
            lesioned.append(max([peak[k], *(value for number, value in others.items() if number != self.slices[k])]))
        return np.array(lesioned), np.array([max(peaks) for peaks in without.values()])


def _wins(value, others):
    return np.mean((value > others) + 0.5 * (value == others))


def _prefix(method, name):
    """The rules' maps are known by their names, others by their method's, too."""
    return "" if method in ("rules", name) else f"{method}: "


def score_cases(
    method: Method,
    expected: Mapping[str, ExpectedError],
    cases: Sequence[Case],
    person: int,
    slices: int,
    resamples: int = RESAMPLES,
) -> Part:
    """All figures of a method's scores on the cases of one person and condition.

    :param person: its number, for the draws. :param slices: how many the person has.
    """
    planted = [case.kind for case in cases]
    lesion_kinds = np.array([kind for kind in study.LESION_KINDS if kind in planted], dtype=str)
    counted = [case for case in cases if case.counts]
    condition = (*CONDITIONS, PHANTOM).index(cases[0].condition)
    weights = metrics.slice_draws(person, condition, slices, resamples)
    variants, scores = [], []  # scores[case][variant]
    for start in range(0, len(counted), BATCH):
        batch = counted[start : start + BATCH]
        maps = method.maps(np.array([c.image for c in batch]), np.array([c.mask for c in batch]))
        variants = variants or scores_of(method, maps)
        for k, case in enumerate(batch):
            one = {name: values[k] for name, values in maps.items()}
            made = final_scores(one, case.mask, expected, variants)
            scores.append([made[variant] for variant in variants])
    rows = [
        [metrics.case_figures(*score, case, variant.across) for score, variant in zip(made, variants, strict=True)]
        for made, case in zip(scores, counted, strict=True)
    ]
    table = {key: np.array([[row[v][key] for row in rows] for v in range(len(variants))]) for key in rows[0][0]}
    kinds = np.array([case.kind for case in counted])
    ap = np.full((len(variants), len(lesion_kinds), len(weights)), np.nan, np.float32)
    dice, prevalence = np.full(ap.shape[:2], np.nan), np.full(len(lesion_kinds), np.nan)
    for k, kind in enumerate(lesion_kinds):
        for v, variant in enumerate(variants):
            twin = replace(variant, across="mean")  # pixels do not ask how the curve is made
            if variant != twin and twin in variants[:v]:
                ap[v, k], dice[v, k] = (values[variants.index(twin), k] for values in (ap, dice))
                continue
            ranking = metrics.pooled_pixels([made[v] for made in scores], counted, kind, slices)
            ap[v, k], dice[v, k] = ranking.average_precision(weights), ranking.best_dice()
        prevalence[k] = ranking.prevalence
    return Part(
        variants=np.array([_prefix(method.name, variant.map) + variant.name for variant in variants]),
        kinds=kinds,
        volumes=np.array([case.volume for case in counted]),
        slices=np.array([case.slice_index for case in counted]),
        repeats=np.array([case.repeat for case in counted]),
        segment_truth=np.array([metrics.segment_truth(case) for case in counted]),
        **{key: table[key] for key in ("auroc", "peak", "counted_peak", "segments", "lesion", "hit")},
        marks=table["marks"][:, kinds == NONE].astype(np.float32),
        lesion_kinds=lesion_kinds,
        ap=ap,
        dice=dice,
        prevalence=prevalence,
        weights=weights,
        planted=np.array([planted.count(kind) for kind in lesion_kinds]),
        left_out=np.array([planted.count(kind) - np.count_nonzero(kinds == kind) for kind in lesion_kinds]),
    )
