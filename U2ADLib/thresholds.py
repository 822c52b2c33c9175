"""Rules that turn scores into a threshold, and how well a rule does on people it was not set on.

Numbers in, numbers out. What is *above* a threshold is flagged, so a threshold lies below the scores it must catch:
halfway to the next lower one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .errors import InputError, UsageError

SENSITIVITY = 0.9  # the paper's, at the patient level (4.2)
FALSE_POSITIVE_RATE = 0.05
FOLDS = 5
FEWEST_POSITIVES = 10  # with fewer, a sensitivity of 0.9 cannot be told from one of 1
FEWEST_NEGATIVES = 10

Rule = Callable[[np.ndarray, np.ndarray], float]  # (scores, labels) → threshold


# --------------------------------------------------------------------------------------- people without lesions


def upper_limit(values, rate: float = FALSE_POSITIVE_RATE) -> float:
    """The lowest of the values that a further one of the same kind exceeds with a probability of at most `rate`.

    Of n values it is the k-th smallest with k = ⌈(1 − rate)(n + 1)⌉ (the quantile of split-conformal prediction): the
    plain quantile promises too much for small n.

    :raises InputError: there are too few values for the rate. :raises UsageError: the rate is not between 0 and 1.
    """
    ordered = np.sort(np.asarray(values, float))
    check_count(len(ordered), rate, "scores")
    return float(ordered[_rank(len(ordered), rate) - 1])


def fewest(rate: float) -> int:
    """How many values a false-positive rate needs at least. :raises UsageError: it is not between 0 and 1."""
    if not 0 < rate < 1:
        raise UsageError(f"The false-positive rate must lie between 0 and 1, not at {rate:g}.")
    return int(np.ceil(1 / rate - 1 - 1e-9))


def attained_rate(count: int, rate: float) -> float:
    """The rate that `upper_limit` of so many values has in truth: the largest multiple of 1 / (n + 1) up to `rate`."""
    return 1 - _rank(count, rate) / (count + 1)


def check_count(count: int, rate: float, what: str) -> None:
    """:raises InputError: so many are too few for the rate. :raises UsageError: as `fewest`."""
    if count < (least := fewest(rate)):
        raise InputError(
            f"A false-positive rate of {100 * rate:g} % needs at least {least} lesion-free {what}, there are {count}: "
            f"bring more, or allow a higher rate (with {count} at least {100 / (count + 1):.1f} %)."
        )


def _rank(count, rate):
    return int(np.ceil((1 - rate) * (count + 1) - 1e-9))


# ------------------------------------------------------------------------------------------------ labelled scores


def sensitivity_threshold(scores, labels, sensitivity: float = SENSITIVITY) -> float:
    """The highest threshold above which at least this share of the positives lies (paper 4.2, patient level).

    :param scores: (N,). :param labels: (N,) bool, with at least one positive.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    positive = np.sort(scores[labels])[::-1]
    return _below(positive[int(np.ceil(sensitivity * len(positive) - 1e-9)) - 1], scores)


def best_f1_threshold(scores, labels) -> float:
    """The threshold with the highest F1, of several the highest (paper 4.2, segment level).

    :param scores: (N,); −∞ for what no threshold can find. :param labels: (N,) bool.
    :raises InputError: all scores are −∞.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    values = np.unique(scores[np.isfinite(scores)])[::-1]
    if not values.size:
        raise InputError("None of the labelled segments was found in the images: no threshold can be set.")
    ordered, positive = np.sort(scores), np.sort(scores[labels])
    called = len(ordered) - np.searchsorted(ordered, values)  # with the value and all above it called
    true = len(positive) - np.searchsorted(positive, values)
    best = int(np.argmax([0.0, *(2 * true / (called + len(positive)))]))
    return float(values[0]) if best == 0 else _below(values[best - 1], values)


def _below(value, scores):
    """A number below `value` and above all lower scores that are finite: in the middle, where there are any."""
    lower = scores[np.isfinite(scores) & (scores < value)]
    if not lower.size:
        return float(np.nextafter(value, -np.inf))
    middle = (value + lower.max()) / 2
    return float(middle if middle < value else lower.max())


def _counts(called, labels):
    """Sensitivity, specificity and F1; None where there is nothing to divide by."""
    true, false = int((called & labels).sum()), int((called & ~labels).sum())
    positives, negatives = int(labels.sum()), int((~labels).sum())
    return (
        true / positives if positives else None,
        1 - false / negatives if negatives else None,
        2 * true / (true + false + positives) if true + false + positives else None,
    )


def deal_folds(ranks: Mapping[str, tuple], folds: int = FOLDS) -> dict[str, int]:
    """The fold of each person, 0 … folds − 1, always the same for the same people.

    :param ranks: what must be spread evenly: people of one rank are dealt to the folds in turn, in an order that their
        names do not decide; higher ranks first.
    """
    names = sorted(ranks)
    shuffled = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    ordered = sorted(shuffled, key=lambda name: ranks[name], reverse=True)
    return {name: i % folds for i, name in enumerate(ordered)}


@dataclass(frozen=True)
class Figures:
    """What a rule finds in people it was not set on. None where there is nothing of the kind.

    f1_of_all: the F1 of flagging everything, which a useful threshold exceeds. positives, negatives: in each fold.
    thresholds: what the rule set without each fold.
    """

    sensitivity: float | None
    specificity: float | None
    f1: float | None
    f1_of_all: float | None
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    thresholds: tuple[float, ...]


def cross_validated(scores, labels, folds, rule: Rule) -> Figures:
    """Every fold is judged with the threshold that the rule sets on the others; the counts of all folds are pooled.

    :param scores: (N,). :param labels: (N,) bool. :param folds: (N,) number of the fold, all of one person in one.
    :raises InputError: without one of the folds there is no positive left to set a threshold on.
    """
    scores, labels, folds = np.asarray(scores, float), np.asarray(labels, bool), np.asarray(folds)
    called, limits = np.zeros(labels.shape, bool), []
    numbers = np.unique(folds)
    for number in numbers:
        out = folds == number
        if not labels[~out].any():
            raise InputError("All positives are in one fold of the cross-validation: more people with them are needed.")
        limits.append(rule(scores[~out], labels[~out]))
        called[out] = scores[out] > limits[-1]
    sensitivity, specificity, f1 = _counts(called, labels)
    return Figures(
        sensitivity,
        specificity,
        f1,
        _counts(np.ones(labels.shape, bool), labels)[2],
        tuple(int((labels & (folds == number)).sum()) for number in numbers),
        tuple(int((~labels & (folds == number)).sum()) for number in numbers),
        tuple(limits),
    )
