"""Figures against scikit-learn, by hand, and where they are not defined; folds that split nobody."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binomtest

from U2ADLib.errors import InputError, UsageError
from U2ADLib.evaluation.benchmark.metrics import false_rate_at
from U2ADLib.evaluation.experiments import figures
from U2ADLib.evaluation.experiments.contracts import CaseScores
from U2ADLib.evaluation.experiments.figures import (
    all_figures,
    differences,
    our_figures,
    paper_figures,
    pooled_figures,
    reliability,
)
from U2ADLib.evaluation.experiments.folds import folds_of_people, repeated_folds, split
from U2ADLib.evaluation.experiments.scores import Truth
from U2ADLib.thresholds import best_f1_threshold, sensitivity_threshold

NAMES = ("C2-3", "C3-4", "C4-5", "C5-6")
SPECIFICITY = "patient specificity at sensitivity 0.9 (oracle)"


def image(name, patient, segments, positive=(), *, person=None, lesions=(), kinds=(), peaks=(), pixels=None):
    """Scores and truth of an image. segments: scores in the order of `NAMES`, None where one was not found."""
    found = {n: float(v) for n, v in zip(NAMES, segments, strict=False) if v is not None}
    top = max(found, key=found.get, default=None)
    marks = tuple((float(value), 0, 0, 0) for value in peaks)
    scores = CaseScores(name, float(patient), found, top, 0.0, lesions, marks, pixels, pixels)
    truth = Truth(name, person or name, "x", bool(positive), {n: n in positive for n in NAMES[: len(segments)]}, kinds)
    return scores, truth


def both(images):
    scores, truths = zip(*images, strict=True)
    return {one.id: one for one in scores}, list(truths)


def random_images(seed=0, count=60, people=20, levels=8):
    """Scores with ties, of images of fewer people, in a third of which one segment or two are positive."""
    rng = np.random.default_rng(seed)
    images = []
    for k in range(count):
        positive = tuple(rng.choice(NAMES, rng.integers(1, 3), replace=False)) if rng.random() < 0.35 else ()
        values = rng.integers(0, levels, len(NAMES)) + np.array([2.0 * (name in positive) for name in NAMES])
        kinds = ("A1", "h25")[: len(positive)]
        lesions = tuple(float(v) for v in rng.integers(0, levels, len(kinds)))
        images.append(
            image(
                f"i{k}",
                values.max(),
                values,
                positive,
                person=f"p{rng.integers(people)}",
                lesions=lesions,
                kinds=kinds,
                peaks=rng.integers(0, levels, 3),
                pixels=float(rng.random()) if positive else None,
            )
        )
    return both(images)


def patient_arrays(scores, truths):
    return np.array([scores[t.id].patient for t in truths]), np.array([t.patient for t in truths])


def segment_arrays(scores, truths):
    pairs = [(scores[t.id].segments[name], value) for t in truths for name, value in t.segments.items()]
    return tuple(map(np.array, zip(*pairs, strict=True)))


# --------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_scikit_learn(seed):
    reference = pytest.importorskip("sklearn.metrics")
    scores, truths = random_images(seed)
    found = our_figures(scores, truths, resamples=20)
    for level, arrays in (("patient", patient_arrays), ("segment", segment_arrays)):
        values, labels = arrays(scores, truths)
        assert found[f"{level} AUROC"].value == pytest.approx(reference.roc_auc_score(labels, values))
        area = found["patient AUPRC" if level == "patient" else "segment AP"]
        assert area.value == pytest.approx(reference.average_precision_score(labels, values))
        assert area.n == len(values)
        assert f"prevalence {labels.mean():.2f}" in area.note


def test_draws_of_people_equal_scikit_learn_with_weights():
    reference = pytest.importorskip("sklearn.metrics")
    scores, truths = random_images(1)
    people = list(figures.people_with(truths))
    draws = figures._draws(len(people), 12, seed=3)
    assert (draws[0] == 1).all()
    assert (draws.sum(1) == len(people)).all()
    made = figures._resampled(scores, truths, 6.0, draws)
    values, labels = patient_arrays(scores, truths)
    of_image = np.array([people.index(t.person) for t in truths])
    for row, weights in enumerate(draws[:, of_image]):
        assert made["patient AUROC"][0][row] == pytest.approx(
            reference.roc_auc_score(labels, values, sample_weight=weights)
        )
        assert made["patient AUPRC"][0][row] == pytest.approx(
            reference.average_precision_score(labels, values, sample_weight=weights)
        )
        assert made["patient sensitivity (fixed threshold)"][0][row] == pytest.approx(
            reference.recall_score(labels, values > 6, sample_weight=weights)
        )
        many = np.repeat(np.arange(len(values)), weights.astype(int))
        rate = false_rate_at(values[many][labels[many]], values[many][~labels[many]], 0.9)
        assert made[SPECIFICITY][0][row] == pytest.approx(1 - rate)


def test_drawing_a_person_twice_is_having_them_twice():
    """Every figure of a draw is that of a set in which people come as often as they were drawn."""
    scores, truths = random_images(7, count=40, people=8)
    people = list(figures.people_with(truths))
    draws = figures._draws(len(people), 6, seed=1)
    made = figures._resampled(scores, truths, 6.0, draws)
    for row, times in enumerate(draws.astype(int)):
        copies = [(t, k) for t in truths for k in range(times[people.index(t.person)])]
        again = {f"{t.id}-{k}": replace(scores[t.id], id=f"{t.id}-{k}") for t, k in copies}
        drawn = our_figures(again, [replace(t, id=f"{t.id}-{k}") for t, k in copies], threshold=6.0, resamples=1)
        for name, (values, _, _) in made.items():
            assert values[row] == pytest.approx(drawn[name].value, nan_ok=True), name


@pytest.mark.parametrize("seed", range(4))
def test_pooled_calls_equal_scikit_learn(seed):
    reference = pytest.importorskip("sklearn.metrics")
    scores, truths = random_images(seed)
    fold_of = folds_of_people(figures.people_with(truths), 5, seed)
    values, labels = patient_arrays(scores, truths)
    folds = np.array([fold_of[t.person] for t in truths])
    called = np.zeros(len(values), bool)
    rows = []
    for k in range(5):
        limit = sensitivity_threshold(values[folds != k], labels[folds != k])
        called[folds == k] = values[folds == k] > limit
        mine, true = called[folds == k], labels[folds == k]
        rows.append([reference.accuracy_score(true, mine), reference.f1_score(true, mine)])
    found = pooled_figures(scores, truths, fold_of, resamples=10)
    assert found["patient accuracy, pooled"].value == pytest.approx(reference.accuracy_score(labels, called))
    assert found["patient F1, pooled"].value == pytest.approx(reference.f1_score(labels, called))
    assert found["patient sensitivity, pooled"].value == pytest.approx(reference.recall_score(labels, called))
    specificity = reference.recall_score(~labels, ~called)
    assert found["patient specificity, pooled"].value == pytest.approx(specificity)
    healthy = found["healthy false-positive rate, pooled"]
    interval = binomtest(int((called & ~labels).sum()), int((~labels).sum())).proportion_ci()
    assert healthy.value == pytest.approx(1 - specificity)
    assert (healthy.low, healthy.high) == pytest.approx((interval.low, interval.high))
    in_folds = paper_figures(scores, truths, fold_of)
    mean, spread = np.mean(rows, 0), np.std(rows, 0, ddof=1)
    for name, middle, around in zip(("accuracy", "F1"), mean, spread, strict=True):
        one = in_folds[f"patient {name}"]
        assert (one.value, one.low, one.high) == pytest.approx((middle, middle - around, middle + around))
        assert one.n == 5


# ------------------------------------------------------------------------------------------------------------ by hand


def two_folds():
    """In each fold an image whose top segment is right, one that looks at the wrong place, and a healthy one."""
    images = [
        image("a", 9, (1, 9, 2), ("C3-4",)), image("b", 7, (7, 1, 1), ("C3-4",)), image("c", 3, (1, 2, 3)),
        image("d", 8, (8, 1, 1), ("C2-3",)), image("e", 5, (1, 1, 5), ("C2-3",)), image("f", 6, (1, 6, 1)),
    ]  # fmt: skip
    return (*both(images), {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "f": 1})


def test_the_papers_protocol_by_hand():
    """Thresholds of patients: all positives of the other fold are above 4.5 (fold 0: of d and e, just below e) …"""
    found = paper_figures(*two_folds())
    # Fold 0 is judged with just below 5: a and b called, c not. Fold 1 with (7 + 3) / 2 = 5: d and f called, e not.
    assert found["patient sensitivity"].value == pytest.approx((1 + 0.5) / 2)
    assert found["patient specificity"].value == pytest.approx((1 + 0) / 2)
    assert found["patient accuracy"].value == pytest.approx((1 + 1 / 3) / 2)
    assert found["patient F1"].value == pytest.approx((1 + 2 / 4) / 2)
    assert found["patient F1"].high - found["patient F1"].value == pytest.approx(np.std([1, 0.5], ddof=1))
    # Top segments: fold 0 has 9 right, 7 and 3 wrong: threshold 8. Fold 1 has 8 right, 5 and 6 wrong: threshold 7.
    assert found["segment recall"].value == pytest.approx((1 + 0) / 2)
    assert found["segment specificity"].value == pytest.approx((1 + 1) / 2)
    assert found["segment F1"].value == pytest.approx((1 + 0) / 2)
    assert found["segment recall (oracle)"].value == found["segment F1 (oracle)"].value == 1
    # Each fold has one that was missed.
    assert found["located recall (oracle)"].value == pytest.approx(0.5)
    assert found["located F1 (oracle)"].value == pytest.approx(2 / 3)
    assert found["located F1"].value == pytest.approx((2 / 3 + 0) / 2)
    assert "positives per fold: 2 2" in found["located F1"].note
    assert "positives per fold: 1 1" in found["segment F1"].note


def test_pooled_by_hand():
    found = pooled_figures(*two_folds(), resamples=5)
    assert found["patient sensitivity, pooled"].value == pytest.approx(3 / 4)
    assert found["located recall, pooled"].value == pytest.approx(1 / 4)
    assert found["located F1, pooled"].value == pytest.approx(2 / 5)
    assert found["patient F1, pooled"].n == 6


def test_segments_that_were_not_found_count_as_missed():
    """Of four positive segments one has no score; negatives without a score are nobody's fault."""
    scores, truths = both([
        image("a", 9, (9, 1, None), ("C2-3", "C4-5")), image("b", 8, (8, 2, 2), ("C2-3",)),
        image("c", 5, (5, 4, 3)), image("d", 3, (2, 3, 0), ("C3-4",)),
    ])  # fmt: skip
    found = our_figures(scores, truths, resamples=5)
    negative = [1, 2, 2, 5, 4, 3, 2, 0]
    wins = sum((p > n) + 0.5 * (p == n) for p in (9, 8, 3, -1) for n in negative)
    assert found["segment AUROC"].value == pytest.approx(wins / (4 * len(negative)))
    assert found["segment AUROC"].n == 12
    assert "1 positive ones not found" in found["segment AUROC"].note
    # Precision at 9, at 8, and at 3 (with 5, 4 and the other 3); the fourth is never found.
    assert found["segment AP"].value == pytest.approx((1 + 1 + 3 / 6) / 4)
    # 2 false segments in 4 images: 5 and 4 may be called, 3 may not.
    assert found["segments found at 0.5 false per image"].value == 2 / 4
    assert found["segments found at 1 false per image"].value == 3 / 4
    nothing = our_figures(*both([image("a", 9, (None, 1), ("C2-3",)), image("b", 9, (1, 1))]), resamples=5)
    assert nothing["segment AP"].value == 0
    assert nothing["segment AUROC"].value == 0


def test_lesions_by_kind():
    scores, truths = both([
        image("a", 1, (1,), ("C2-3",), lesions=(0.9, 0.2), kinds=("A1", "h25"), peaks=(0.5, 0.3), pixels=0.4),
        image("b", 1, (1,), ("C2-3",), lesions=(-np.inf,), kinds=("h25",), peaks=(0.1,), pixels=0.8),
        image("c", 1, (1,), peaks=(0.6, 0.25, 0.15)),
    ])  # fmt: skip
    found = our_figures(scores, truths, resamples=5)
    # Three false marks in three images: 0.6, 0.5 and 0.3 are called, so 0.25 is the limit.
    name = "lesions found at 1 false mark per image"
    assert found[name].value == pytest.approx(1 / 3)
    assert found[name].n == 3
    assert found[f"{name}: A1"].value == 1
    assert found[f"{name}: h25"].value == 0
    assert found["pixel AP (oracle)"].value == found["pixel Dice (oracle)"].value == pytest.approx(0.6)
    assert found["pixel AP (oracle)"].n == 2
    without = our_figures(*both([image("a", 1, (1,), ("C2-3",)), image("b", 0, (0,))]), resamples=5)
    assert not any(name.startswith(("lesions", "pixel")) for name in without)


def test_a_threshold_fixed_before():
    scores, truths = both([image(f"i{v}", v, (v,), ("C2-3",) if v in (3, 6, 7) else ()) for v in range(8)])
    found = our_figures(scores, truths, threshold=4.5, resamples=5)
    assert found["patient sensitivity (fixed threshold)"].value == pytest.approx(2 / 3)
    assert found["patient specificity (fixed threshold)"].value == pytest.approx(4 / 5)
    healthy = found["healthy false-positive rate"]
    interval = binomtest(1, 5).proportion_ci()
    assert (healthy.value, healthy.n) == (0.2, 5)
    assert (healthy.low, healthy.high) == pytest.approx((interval.low, interval.high))
    assert "1 of 5" in healthy.note
    assert "healthy false-positive rate" not in our_figures(scores, truths, resamples=5)
    at = our_figures(scores, truths, resamples=5)[SPECIFICITY]
    assert at.value == pytest.approx(3 / 5)  # all three must be found: 4 and 5 are above 3


# --------------------------------------------------------------------------------------------------------- degenerate


def test_folds_without_positives_are_counted_not_hidden():
    """Two positives in five folds: in three there is none, and their figures are not defined."""
    images = [image(f"i{k}", k, (k,), ("C2-3",) if k in (8, 9) else ()) for k in range(10)]
    scores, truths = both(images)
    fold_of = {f"i{k}": k % 5 for k in range(10)}  # i8 and i3, i9 and i4
    found = paper_figures(scores, truths, fold_of)
    assert found["patient F1"].n == found["patient sensitivity"].n == 2
    assert "2 of 5 folds; positives per fold: 0 0 0 1 1" in found["patient F1"].note
    assert found["patient specificity"].n == found["patient accuracy"].n == 5
    assert np.isfinite(found["patient F1"].value)


def test_all_positives_in_one_fold():
    """The others have nothing to set a threshold for it, it sets theirs."""
    scores, truths = both([image(f"i{k}", k, (k,), ("C2-3",) if k in (8, 9) else ()) for k in range(10)])
    fold_of = {f"i{k}": int(k in (8, 9)) for k in range(10)}
    found = paper_figures(scores, truths, fold_of)
    assert np.isnan(found["patient F1"].value)
    assert found["patient F1"].n == 0
    assert "not defined in any fold" in found["patient F1"].note
    assert found["patient specificity"].n == 1
    assert np.isnan(found["patient specificity"].low)  # no spread of a single fold
    pooled = pooled_figures(scores, truths, fold_of, resamples=5)
    assert "2 left out" in pooled["patient F1, pooled"].note
    assert np.isnan(pooled["patient F1, pooled"].value)
    assert pooled["patient specificity, pooled"].value == 1


@pytest.mark.parametrize("positive", [(), ("C2-3",)])
def test_one_class_is_no_crash(positive):
    scores, truths = both([image(f"i{k}", k, (k, None), positive) for k in range(6)])
    found = all_figures(scores, truths, threshold=2.5, resamples=10)
    assert np.isnan(found["patient AUROC"].value)
    assert np.isnan(found[SPECIFICITY].value)
    known, unknown = ("sensitivity", "specificity") if positive else ("specificity", "sensitivity")
    assert found[f"patient {known} (fixed threshold)"].value == 0.5
    assert np.isnan(found[f"patient {unknown} (fixed threshold)"].value)
    assert np.isnan(found["healthy false-positive rate"].value) == bool(positive)
    assert all(isinstance(one.value, float) for one in found.values())


def test_images_without_segments():
    """Nothing was found, in one of them nothing is labelled."""
    scores, truths = both([image("a", 1, (None, None), ("C2-3",)), image("b", 0, ()), image("c", 3, (3.0,))])
    found = all_figures(scores, truths, folds=3, resamples=10)
    assert np.isnan(found["segment F1"].value)
    assert found["segment AUROC"].value == 0
    assert "2 left out: the other folds set no threshold" in found["located recall, pooled"].note


def test_one_person_alone_has_no_interval():
    scores, truths = both([image(f"i{k}", k, (k,), ("C2-3",) if k > 2 else (), person="p") for k in range(6)])
    found = all_figures(scores, truths, resamples=10)
    assert found["patient AUROC"].value == 1
    assert np.isnan(found["patient AUROC"].low)
    assert not any("fold" in one.note for one in found.values())


def test_scores_of_other_lesions():
    scores, truths = both([image("a", 1, (1,), ("C2-3",), lesions=(1.0,), kinds=("A1", "A1"))])
    with pytest.raises(InputError, match="of a are those of other lesions"):
        our_figures(scores, truths)


def test_scores_that_are_missing():
    scores, truths = both([image("a", 1, (1,)), image("b", 1, (1,))])
    with pytest.raises(InputError, match="1 images have no scores, b among them"):
        our_figures({"a": scores["a"]}, truths)


# ---------------------------------------------------------------------------------------------------------- intervals


def test_what_never_changes_has_an_interval_of_no_width():
    """Perfect scores: whoever is drawn."""
    scores, truths = both([image(f"i{k}", k % 2, (k % 2,), ("C2-3",) if k % 2 else ()) for k in range(40)])
    found = our_figures(scores, truths, resamples=200)
    for name in ("patient AUROC", "patient AUPRC", SPECIFICITY, "segment AUROC", "segment AP"):
        one = found[name]
        assert (one.value, one.low, one.high) == (1, 1, 1), name


def test_people_are_drawn_not_images():
    """Ten images each of people who are alike: the interval is that of people, and covers the estimate."""
    rng = np.random.default_rng(0)
    of_person = rng.normal(size=16)
    rows = [(f"p{k}", of_person[k] + (k % 2), k % 2) for k in range(16) for _ in range(10)]
    clustered = both([image(f"i{j}", v, (v,), ("C2-3",) if y else (), person=p) for j, (p, v, y) in enumerate(rows)])
    apart = both([image(f"i{j}", v, (v,), ("C2-3",) if y else ()) for j, (_, v, y) in enumerate(rows)])
    wide, narrow = (our_figures(*one, resamples=300)["patient AUROC"] for one in (clustered, apart))
    assert wide.value == narrow.value
    assert wide.low < wide.value < wide.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_method_does_not_differ_from_itself():
    scores, truths = random_images(2)
    found = differences(scores, scores, truths, thresholds=(5.0, 5.0), resamples=100)
    assert set(found) == set(our_figures(scores, truths, threshold=5.0, resamples=2)) - {"healthy false-positive rate"}
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in found.values())


def test_differences_are_paired():
    """A method that is better for everybody by the same: the difference is sure although the figures are not."""
    scores, truths = random_images(3)
    shifted = {t.id: replace(scores[t.id], patient=scores[t.id].patient + 0.9 * t.patient) for t in truths}
    first, second = (our_figures(one, truths, resamples=300)["patient AUROC"] for one in (shifted, scores))
    found = differences(shifted, scores, truths, resamples=300)["patient AUROC"]
    assert found.value == pytest.approx(first.value - second.value)
    assert 0 <= found.low <= found.value <= found.high
    assert found.high - found.low < 0.7 * (second.high - second.low)
    back = differences(scores, shifted, truths, resamples=300)["patient AUROC"]
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_the_seed_decides():
    scores, truths = random_images(4)
    one, same, other = (our_figures(scores, truths, resamples=50, seed=s)["patient AUROC"] for s in (0, 0, 1))
    assert one == same
    assert one.value == other.value
    assert (one.low, one.high) != (other.low, other.high)


def test_reliability():
    scores, truths = random_images(5)
    found = reliability(scores, truths, repeats=6, seed=2)
    assert all(values.shape == (6,) for values in found.values())
    assert np.ptp(found["patient F1"]) > 0
    fold_of = folds_of_people(figures.people_with(truths), 5, seed=4)
    assert found["patient F1"][2] == paper_figures(scores, truths, fold_of)["patient F1"].value
    runs = reliability([scores, random_images(5)[0]], truths, seed=2)
    assert runs["segment F1"].tolist() == found["segment F1"][:2].tolist()


# -------------------------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_even_and_split_nobody(seed):
    people = {f"p{k}": k < 13 for k in range(40)}
    folds = folds_of_people(people, 5, seed)
    assert set(folds) == set(people)
    for kind in (True, False):
        counts = np.bincount([folds[name] for name, value in people.items() if value == kind], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert folds == folds_of_people(dict(reversed(people.items())), 5, seed)


def test_other_seeds_other_folds():
    people = {f"p{k}": k < 13 for k in range(40)}
    made = repeated_folds(people, 5, 20)
    assert len({tuple(sorted(folds.items())) for folds in made}) == 20
    assert made[3] == folds_of_people(people, 5, 3)
    # Neighbours in the list are together no more often than others.
    together = np.mean([folds[a] == folds[b] for folds in made for a, b in pairwise(people)])
    assert together == pytest.approx(0.2, abs=0.06)


def test_all_images_of_a_person_are_in_one_fold():
    """Five images of each person that differ: each image is judged by others only."""
    scores, truths = random_images(6, count=100, people=10)
    fold_of = folds_of_people(figures.people_with(truths))
    assert set(fold_of) == {t.person for t in truths}
    values, labels = patient_arrays(scores, truths)
    person = np.array([t.person for t in truths])
    for k in range(5):
        inside = np.array([fold_of[p] == k for p in person])
        assert not set(person[inside]) & set(person[~inside])
        assert labels[~inside].any()
        assert np.isfinite(sensitivity_threshold(values[~inside], labels[~inside]))


def test_three_one_one():
    people = {f"p{k}": k % 3 == 0 for k in range(25)}
    folds = folds_of_people(people)
    seen = []
    for k in range(5):
        one = split(folds, k)
        assert [len(names) for names in (one.train, one.validation, one.test)] == [15, 5, 5]
        assert sorted(one.train + one.validation + one.test) == sorted(people)
        seen += one.test
    assert sorted(seen) == sorted(people)


def test_of_two_folds_one_trains_and_nobody_validates():
    one = split({"a": 0, "b": 0, "c": 1}, 0)
    assert (one.train, one.validation, one.test) == (("c",), (), ("a", "b"))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_nobody_is_in_two_groups_of_a_split(count):
    people = {f"p{k}": k % 2 == 0 for k in range(10)}
    folds = folds_of_people(people, count)
    for fold in range(count):
        one = split(folds, fold)
        assert sorted(one.train + one.validation + one.test) == sorted(people)
        assert one.train


def test_folds_that_cannot_be_dealt():
    with pytest.raises(UsageError, match="2 people cannot be dealt to 5 folds"):
        folds_of_people({"a": True, "b": False})
    with pytest.raises(UsageError, match="1 folds"):
        folds_of_people({"a": True, "b": False}, 1)


def test_the_rules_are_those_of_the_thresholds():
    assert figures._LEVELS["patient"][1] is sensitivity_threshold
    assert figures._LEVELS["segment"][1] is figures._LEVELS["located"][1] is best_f1_threshold
