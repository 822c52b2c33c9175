"""From scores to figures with intervals: the paper's protocol, and one that a reviewer believes.

"Patient level" means an image: several images of one person are judged each, but stay in one fold and are drawn
together in the bootstrap. What is *above* a threshold is called. Figures that are not defined are NaN, and their note
says why.

`scores` are `CaseScores` by the case's id; `truths` are `scores.Truth` or `ExperimentCase`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...thresholds import FOLDS, SENSITIVITY, best_f1_threshold, sensitivity_threshold
from ..benchmark import metrics
from .contracts import CaseScores
from .folds import folds_of_people, repeated_folds
from .scores import Truth

RESAMPLES = 1000
FALSE_SEGMENTS = (0.5, 1.0)  # per image
FALSE_MARKS = 1.0  # per image, where lesions are looked for
Scores = Mapping[str, CaseScores]


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval (in the paper's protocol: mean less and plus the standard deviation over folds).

    n: of what it is made: images, segments, lesions, folds. note: in words, for a table's foot.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    note: str = ""


def all_figures(
    scores: Scores,
    truths: Sequence[Truth],
    *,
    fold_of: Mapping[str, int] | None = None,
    folds: int = FOLDS,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Everything: `paper_figures`, `pooled_figures` and `our_figures` in one dict, in the order of a table.

    :param fold_of: person → fold, by default `folds.folds_of_people`; fewer folds where there are fewer people, and
        none of the figures that need them with a single person. :param threshold: see `our_figures`.
    :raises InputError: a case has no scores.
    """
    people = people_with(truths)
    if fold_of is None and len(people) > 1:
        fold_of = folds_of_people(people, min(folds, len(people)), seed)
    made = {}
    if fold_of is not None:
        made |= paper_figures(scores, truths, fold_of)
        made |= pooled_figures(scores, truths, fold_of, resamples=resamples, seed=seed)
    return made | our_figures(scores, truths, threshold=threshold, resamples=resamples, seed=seed)


def people_with(truths: Sequence[Truth]) -> dict[str, bool]:
    """Everybody, and whether any image of them has a hyperintensity."""
    people: dict[str, bool] = {}
    for truth in truths:
        people[truth.person] = people.get(truth.person, False) or truth.patient
    return people


# ------------------------------------------------------------------------------------------------- what is judged


@dataclass(frozen=True, eq=False)
class _Items:
    """values (N,), −∞ for what no threshold can find; labels (N,) bool; people (N,) numbers of their persons."""

    values: np.ndarray
    labels: np.ndarray
    people: np.ndarray

    @classmethod
    def of(cls, rows) -> "_Items":
        values, labels, people = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(np.array(values, float), np.array(labels, bool), np.array(people, int))

    @property
    def prevalence(self) -> str:
        return f"prevalence {self.labels.mean():.2f}" if len(self.labels) else "nothing to judge"

    def arguments(self, label: bool):
        """Values and people of one kind."""
        kind = self.labels == label
        return self.values[kind], self.people[kind]


def _paired(scores, truths):
    """Scores and truth of each image, and the number of its person."""
    if missing := [truth.id for truth in truths if truth.id not in scores]:
        raise InputError(f"{len(missing)} images have no scores, {missing[0]} among them: score them first.")
    if wrong := [truth.id for truth in truths if len(scores[truth.id].lesions) != len(truth.kinds)]:
        raise InputError(f"The scores of {wrong[0]} are those of other lesions: score it again.")
    numbers = {name: k for k, name in enumerate(people_with(truths))}
    return [(scores[truth.id], truth, numbers[truth.person]) for truth in truths]


def _patients(pairs):
    return _Items.of([(score.patient, truth.patient, person) for score, truth, person in pairs])


def _segments(pairs):
    """All labelled segments. Of those that were not found, positive ones have −∞, negative ones are left out."""
    return _Items.of([
        (score.segments.get(name, -np.inf), positive, person)
        for score, truth, person in pairs
        for name, positive in truth.segments.items()
        if positive or name in score.segments
    ])  # fmt: skip


def _tops(pairs):
    """The top segment of each image, right where it has a hyperintensity. Left out: no segment, or one that nobody
    labelled."""
    return _Items.of([
        (score.segments[score.top], truth.segments[score.top], person)
        for score, truth, person in pairs
        if score.top is not None and score.top in truth.segments
    ])  # fmt: skip


def _located(pairs):
    """As `_tops`, and a miss at −∞ for each image with a hyperintensity whose top segment is another one."""
    tops = _tops(pairs)
    missed = [
        (-np.inf, True, person)
        for score, truth, person in pairs
        if any(truth.segments.values()) and not truth.segments.get(score.top, False)
    ]
    more = _Items.of(missed)
    return _Items(
        *(np.concatenate([getattr(tops, name), getattr(more, name)]) for name in ("values", "labels", "people"))
    )


# ---------------------------------------------------------------------------------------------- the paper's protocol

Rule = Callable[[np.ndarray, np.ndarray], float]
_ACCURACY, _F1, _SPECIFICITY, _SENSITIVITY = "accuracy", "F1", "specificity", "sensitivity"
_RECALL = "recall"
# level → its items, its rule and its figures
_LEVELS = {
    "patient": (_patients, sensitivity_threshold, (_ACCURACY, _F1, _SPECIFICITY, _SENSITIVITY)),
    "segment": (_tops, best_f1_threshold, (_F1, _RECALL, _SPECIFICITY)),
    "located": (_located, best_f1_threshold, (_F1, _RECALL, _SPECIFICITY)),
}
ORACLE = " (oracle)"


def paper_figures(scores: Scores, truths: Sequence[Truth], fold_of: Mapping[str, int]) -> dict[str, Figure]:
    """The paper's protocol (4.2): mean ± SD over folds, each judged with the threshold of the others.

    patient accuracy, F1, specificity, sensitivity: at the threshold with sensitivity 0.9.
    segment F1, recall, specificity: the image's top segment, right or wrong, at the threshold with the best F1 of the
    other folds; "… (oracle)": of the fold itself, as the paper chose it.
    located F1, recall, specificity: stricter. An image with a hyperintensity counts as found only where its top segment
    has one and is called; a method that looks at the wrong place has missed it.
    Folds in which a figure is not defined do not count, and the note says how many.
    """
    return {
        name: _over_folds(values, positives)
        for name, (values, positives) in _fold_values(scores, truths, fold_of).items()
    }


def _fold_values(scores, truths, fold_of):
    """Name → values in each fold, and the positives in it."""
    pairs = _paired(scores, truths)
    fold_of_number = np.array([fold_of[name] for name in people_with(truths)])
    numbers = sorted(set(fold_of.values()))
    found = {}
    for level, (select, rule, names) in _LEVELS.items():
        items = select(pairs)
        folds = fold_of_number[items.people]
        rows = [_judged(items, folds != k, folds == k, rule) for k in numbers]
        positives = [int(items.labels[folds == k].sum()) for k in numbers]
        found |= {f"{level} {name}": ([row[name] for row in rows], positives) for name in names}
        if rule is best_f1_threshold:
            rows = [_judged(items, folds == k, folds == k, rule) for k in numbers]
            found |= {f"{level} {name}{ORACLE}": ([row[name] for row in rows], positives) for name in names}
    return found


def _threshold(items: _Items, chosen: np.ndarray, rule: Rule) -> float:
    """NaN where there is no positive to set it on, or nothing that was found."""
    values, labels = items.values[chosen], items.labels[chosen]
    if not labels.any() or not np.isfinite(values).any():
        return np.nan
    return rule(values, labels)


def _judged(items, trained, tested, rule):
    limit = _threshold(items, trained, rule)
    if np.isnan(limit):
        return dict.fromkeys((_ACCURACY, _F1, _SPECIFICITY, _SENSITIVITY, _RECALL), np.nan)
    called, labels = items.values[tested] > limit, items.labels[tested]
    return {name: float(value[0]) for name, value in _rates(called, labels, np.ones((1, len(labels)))).items()}


def _rates(called, labels, weights) -> dict[str, np.ndarray]:
    """Figures of calls (N,) under weights (R, N), (R,) each. Without positives there is no F1."""
    true, false = weights @ (called & labels), weights @ (called & ~labels)
    positives, negatives = weights @ labels, weights @ ~labels
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / positives
        return {
            _ACCURACY: (true + negatives - false) / (positives + negatives),
            _F1: np.where(positives > 0, 2 * true / (true + false + positives), np.nan),
            _SPECIFICITY: 1 - false / negatives,
            _SENSITIVITY: recall,
            _RECALL: recall,
        }


def _over_folds(values, positives) -> Figure:
    values = np.array(values)
    good = values[np.isfinite(values)]
    note = f"mean ± SD over {len(good)} of {len(values)} folds; positives per fold: {' '.join(map(str, positives))}"
    if not len(good):
        return Figure(np.nan, n=0, note=f"not defined in any fold; positives per fold: {' '.join(map(str, positives))}")
    spread = good.std(ddof=1) if len(good) > 1 else np.nan
    return Figure(float(good.mean()), float(good.mean() - spread), float(good.mean() + spread), len(good), note)


def pooled_figures(
    scores: Scores,
    truths: Sequence[Truth],
    fold_of: Mapping[str, int],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """As `paper_figures`, but the calls of all folds are counted together ("…, pooled"): with few positives a fold
    alone says nothing. Intervals are of people. Folds for which the others set no threshold are left out.

    healthy false-positive rate: of images without a hyperintensity, with its Clopper-Pearson interval.
    """
    pairs = _paired(scores, truths)
    people = people_with(truths)
    weights = _draws(len(people), resamples, seed)
    fold_of_number = np.array([fold_of[name] for name in people])
    found = {}
    for level, (select, rule, names) in _LEVELS.items():
        items = select(pairs)
        folds = fold_of_number[items.people]
        limits = {k: _threshold(items, folds != k, rule) for k in sorted(set(fold_of.values()))}
        limit = np.array([limits[k] for k in folds])
        judged = np.isfinite(limit)
        called, labels = items.values[judged] > limit[judged], items.labels[judged]
        rates = _rates(called, labels, weights[:, items.people[judged]])
        note = f"{labels.sum()} positives among {len(labels)}, each judged with the threshold of the other folds"
        if lost := np.count_nonzero(~judged):
            note += f"; {lost} left out: the other folds set no threshold"
        found |= {f"{level} {name}, pooled": _figure(rates[name], len(labels), note, len(people)) for name in names}
        if level == "patient":
            found[f"{HEALTHY}, pooled"] = _healthy_rate(called[~labels], "thresholds of the other folds")
    return found


def reliability(
    scores: Scores | Sequence[Scores], truths: Sequence[Truth], *, folds: int = FOLDS, repeats: int = 20, seed: int = 0
) -> dict[str, np.ndarray]:
    """Means of `paper_figures` over folds that are dealt anew so many times (paper, App. F): name → (repeats,).

    :param scores: of one run, or of `repeats` runs with other Monte Carlo seeds, one for each repetition.
    """
    runs = [scores] * repeats if isinstance(scores, Mapping) else list(scores)
    people = people_with(truths)
    dealt = repeated_folds(people, min(folds, len(people)), len(runs), seed)
    made = [paper_figures(one, truths, fold_of) for one, fold_of in zip(runs, dealt, strict=True)]
    return {name: np.array([one[name].value for one in made]) for name in made[0]}


# -------------------------------------------------------------------------------------------------------------- ours

HEALTHY = "healthy false-positive rate"


def our_figures(
    scores: Scores,
    truths: Sequence[Truth],
    *,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Figures without a threshold of the test's own, and oracles that are named so; intervals are of people.

    patient AUROC, AUPRC; patient specificity at sensitivity 0.9 (oracle); segment AUROC, AP (all segments; positive
    ones that were not found count as missed); segments found at 0.5 and 1 false ones per image; lesions found at 1
    false mark per image, all and by kind; pixel AP and Dice (oracle), means over images with lesions.

    :param threshold: of patients, fixed before, as on validation images: adds patient sensitivity, specificity (fixed
        threshold) and the healthy false-positive rate with its Clopper-Pearson interval.
    """
    people = len(people_with(truths))
    made = _resampled(scores, truths, threshold, _draws(people, resamples, seed))
    found = {name: _figure(values, n, note, people) for name, (values, n, note) in made.items()}
    if threshold is not None:
        patients = _patients(_paired(scores, truths))
        found[HEALTHY] = _healthy_rate(patients.values[~patients.labels] > threshold, "threshold fixed before")
    return found


def differences(
    first: Scores,
    second: Scores,
    truths: Sequence[Truth],
    *,
    thresholds: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """First method less second, for each of `our_figures`, on the same draws of people (paired bootstrap).

    :param thresholds: of each method, see `our_figures`.
    """
    people = len(people_with(truths))
    draws = _draws(people, resamples, seed)
    one, other = (
        _resampled(scores, truths, limit, draws)
        for scores, limit in zip((first, second), thresholds or (None, None), strict=True)
    )
    return {
        name: _figure(one[name][0] - other[name][0], one[name][1], "difference on the same draws of people", people)
        for name in one
        if name in other
    }


def _draws(people, resamples, seed):
    """(1 + resamples, people): how often each person is drawn; the first row is the estimate itself."""
    return metrics.slice_draws(seed, 0, people, resamples)


def _figure(values, n, note, people) -> Figure:
    """The estimate is the first of the values. One person alone has no interval."""
    low, high = metrics.interval(values[1:]) if people > 1 and np.isfinite(values[0]) else (np.nan, np.nan)
    undefined = np.count_nonzero(~np.isfinite(values[1:]))
    if np.isfinite(values[0]) and undefined:
        note += f"; not defined in {undefined} of {len(values) - 1} draws"
    return Figure(float(values[0]), low, high, int(n), note)


def _healthy_rate(called, how) -> Figure:
    count, total = int(called.sum()), len(called)
    low, high = metrics.clopper_pearson(count, total)
    note = (
        f"{count} of {total} images without a hyperintensity; {how}; Clopper-Pearson, as if every image were a person's"
    )
    return Figure(count / total if total else np.nan, low, high, total, note)


def _resampled(scores, truths, threshold, draws) -> dict[str, tuple[np.ndarray, int, str]]:
    """Name → values under each row of draws (R, people), n and note."""
    pairs = _paired(scores, truths)
    patients, segments = _patients(pairs), _segments(pairs)
    n, note = len(patients.values), patients.prevalence
    found = {
        "patient AUROC": (_auroc(patients, draws), n, note),
        "patient AUPRC": (_average_precision(patients, draws), n, note),
    }
    name = f"patient specificity at sensitivity {SENSITIVITY:g}{ORACLE}"
    found[name] = _specificity(patients, draws), n, "threshold of the test itself"
    if threshold is not None:
        rates = _rates(patients.values > threshold, patients.labels, draws[:, patients.people])
        for rate in (_SENSITIVITY, _SPECIFICITY):
            found[f"patient {rate} (fixed threshold)"] = rates[rate], n, f"threshold {threshold:.4g}"
    n = len(segments.values)
    note = f"{segments.prevalence}; {np.isneginf(segments.values).sum()} positive ones not found"
    found["segment AUROC"] = _auroc(segments, draws), n, note
    found["segment AP"] = _average_precision(segments, draws), n, note
    false = [[value for name, value in s.segments.items() if t.segments.get(name) is False] for s, t, _ in pairs]
    person_of_image = np.array([person for _, _, person in pairs], int)
    positive, person = segments.arguments(True)
    recalls = metrics.froc(positive, _padded(false), FALSE_SEGMENTS, draws[:, person], draws[:, person_of_image])
    for rate, recall in zip(FALSE_SEGMENTS, recalls, strict=True):
        found[f"segments found at {rate:g} false per image"] = recall, len(positive), "FROC over all segments"
    return found | _lesion_figures(pairs, person_of_image, draws)


def _lesion_figures(pairs, person_of_image, draws):
    rows = [
        (value, kind, person)
        for score, truth, person in pairs
        for value, kind in zip(score.lesions, truth.kinds, strict=True)
    ]
    if not rows:
        return {}
    values, kinds, people = (np.array(column) for column in zip(*rows, strict=True))
    marks = _padded([[peak[0] for peak in score.peaks] for score, _, _ in pairs])
    found = {}
    for kind in ("", *dict.fromkeys(kinds.tolist())):
        chosen = kinds == kind if kind else np.ones(len(kinds), bool)
        recall = metrics.froc(
            values[chosen], marks, (FALSE_MARKS,), draws[:, people[chosen]], draws[:, person_of_image]
        )[0]
        name = f"lesions found at {FALSE_MARKS:g} false mark per image" + (f": {kind}" if kind else "")
        found[name] = recall, chosen.sum(), "FROC; marks are the highest pixels elsewhere"
    for name, attribute in (("pixel AP", "pixel_ap"), ("pixel Dice", "pixel_dice")):
        rows = [
            (getattr(score, attribute), person) for score, _, person in pairs if getattr(score, attribute) is not None
        ]
        if rows:
            values, people = (np.array(column) for column in zip(*rows, strict=True))
            note = "mean over images with lesions; " + (
                "best threshold of each" if "dice" in attribute else "in the cord"
            )
            found[f"{name}{ORACLE}"] = _mean(values, draws[:, people]), len(rows), note
    return found


def _mean(values, weights):
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ values / weights.sum(1)


def _auroc(items, draws):
    return metrics.weighted_auroc(*items.arguments(True), *items.arguments(False), draws)


def _average_precision(items, draws):
    """What was not found is not found at any threshold: the area ends at the recall of what was."""
    found = np.isfinite(items.values)
    ranking = metrics.Ranking(items.values[found], items.labels[found], items.people[found], draws.shape[1])
    weights = draws[:, items.people]
    with np.errstate(invalid="ignore", divide="ignore"):
        reached = weights @ (items.labels & found) / (weights @ items.labels)
    area = ranking.average_precision(draws)
    return np.where(reached == 0, 0.0, area * reached)


def _specificity(items, draws):
    (positive, person), (negative, other) = (items.arguments(label) for label in (True, False))
    times = draws.astype(int)
    return np.array([
        1 - metrics.false_rate_at(np.repeat(positive, row[person]), np.repeat(negative, row[other]), SENSITIVITY)
        for row in times
    ])  # fmt: skip


def _padded(rows):
    """Lists of numbers as one array (N, M), −∞ where there are fewer."""
    result = np.full((len(rows), max([1, *map(len, rows)])), -np.inf)
    for k, row in enumerate(rows):
        result[k, : len(row)] = row
    return result
