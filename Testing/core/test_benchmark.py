"""The benchmark's figures and steps, against values known in advance and against slow obvious versions."""

import numpy as np
import pytest

from U2ADLib.evaluation.benchmark import metrics, rules, study
from U2ADLib.evaluation.benchmark.cases import NONE, Case, HealthySlice, Person
from U2ADLib.evaluation.benchmark.methods import (
    Fold,
    Variant,
    curve_along_cord,
    eroded_domain,
    final_scores,
    fit_expected_errors,
    variants_of,
)
from U2ADLib.evaluation.benchmark.parts import METRICS, Part, score_cases
from U2ADLib.scoring.expected import ExpectedError
from U2ADLib.scoring.gain import smooth_inside

# ------------------------------------------------------------------------------------------------------ figures


def slow_average_precision(values, labels, weights):
    """Over every threshold, from its definition."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        called = values >= threshold
        found = weights[called & labels].sum()
        area += (found - before) / weights[labels].sum() * found / weights[called].sum()
        before = found
    return area


def slow_auroc(values, labels, weights):
    pairs = [(p, n) for p in np.flatnonzero(labels) for n in np.flatnonzero(~labels)]
    wins = sum(weights[p] * weights[n] * ((values[p] > values[n]) + 0.5 * (values[p] == values[n])) for p, n in pairs)
    return wins / (weights[labels].sum() * weights[~labels].sum())


@pytest.fixture
def items():
    """Values with ties and infinities, labels, slices, and weights of the slices."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 8, 60).astype(float)
    values[:3] = -np.inf
    return values, rng.random(60) < 0.3, rng.integers(0, 5, 60), rng.integers(0, 4, (7, 5)).astype(float)


def test_ranking_figures_equal_their_definition(items):
    values, labels, slices, weights = items
    ranking = metrics.Ranking(values, labels, slices, 5)
    precision = ranking.average_precision(weights)
    areas = metrics.weighted_auroc(values[labels], slices[labels], values[~labels], slices[~labels], weights)
    for k, drawn in enumerate(weights):
        assert precision[k] == pytest.approx(slow_average_precision(values, labels, drawn[slices]))
        assert areas[k] == pytest.approx(slow_auroc(values, labels, drawn[slices]))
    assert metrics.auroc(values, labels) == pytest.approx(slow_auroc(values, labels, np.ones(60)))
    dice = [2 * (labels & (values >= t)).sum() / (labels.sum() + (values >= t).sum()) for t in values]
    assert ranking.best_dice() == pytest.approx(max(dice))


def test_figures_by_hand():
    values, labels = np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])
    assert metrics.average_precision(values, labels) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # a tie is one threshold
    assert metrics.average_precision(np.zeros(4), labels) == 0.5  # all-positive: the prevalence
    assert metrics.threshold_at(np.array([1.0, 2, 3, 4, 5]), 0.8) == 2
    assert metrics.false_rate_at(np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 1, 2, 9]), 0.8) == 0.5
    assert metrics.sensitivity_at(np.array([1.0, 5, 9]), np.array([0.0, 1, 2, 5]), 0.25) == pytest.approx(2 / 3)
    assert metrics.sensitivity_at(np.array([1.0, 5, 9]), np.array([0.0]), 1.0) == 1
    # scipy.stats.binomtest(2, 10).proportion_ci()
    assert metrics.clopper_pearson(2, 10) == pytest.approx((0.02521073, 0.55609546))
    assert metrics.clopper_pearson(0, 10)[0] == 0
    assert metrics.clopper_pearson(10, 10)[1] == 1


def test_froc_by_hand():
    marks = np.array([[5.0, 1.0], [3.0, -np.inf]])  # of two lesion-free images
    lesions = np.array([6.0, 4.0, 2.0, metrics.NEVER])
    # No mark: above 5; one mark in two images: above 3; all three marks: everything above −inf.
    assert metrics.froc(lesions, marks, (0.0, 0.5, 1.5))[:, 0].tolist() == [0.25, 0.5, 1.0]
    twice = metrics.froc(lesions, marks, (0.5,), np.array([[1.0, 0, 0, 1]]), np.array([[0.0, 2]]))
    assert twice[0, 0] == 0.5  # the second image alone, drawn twice: one mark is allowed, but 3 is made twice


def test_degenerate_folds_are_not_a_number():
    empty, some = np.empty(0), np.array([1.0, 2.0])
    assert np.isnan(metrics.auroc(some, np.array([True, True])))
    assert np.isnan(metrics.Ranking(some, np.zeros(2, bool), np.zeros(2, int)).average_precision(np.ones((1, 1))))
    assert np.isnan(metrics.Ranking(some, np.zeros(2, bool), np.zeros(2, int)).best_dice())
    assert np.isnan(metrics.sensitivity_at(empty, some, 0.1))
    assert np.isnan(metrics.false_rate_at(empty, some, 0.9))
    assert np.isnan(metrics.froc(empty, np.ones((2, 3)), (1.0,))).all()
    assert np.isnan(metrics.clopper_pearson(0, 0)).all()
    assert np.isnan(metrics.interval(np.array([np.nan]))).all()
    nobody = np.zeros((1, 1))
    assert np.isnan(metrics.weighted_auroc(some, [0, 0], some, [0, 0], nobody))[0]


def test_draws_are_the_same_for_every_score():
    first = metrics.slice_draws(21, 1, 9, 20)
    assert (first == metrics.slice_draws(21, 1, 9, 20)).all()
    assert (first[0] == 1).all()
    assert (first.sum(1) == 9).all()
    draws = metrics.people_draws(3, 50)
    values = np.arange(3)[:, None] * np.ones(51)
    resampled = metrics.over_people(values, draws)
    assert resampled.tolist() == draws[..., 0].mean(1).tolist()
    assert metrics.interval(resampled)[0] < 1 < metrics.interval(resampled)[1]


# ------------------------------------------------------------------------------------------------ maps to scores


def straight_cord(width=10, height=144):
    cord = np.zeros((height, 96), bool)
    cord[5:-5, 40 : 40 + width] = True
    return cord


def made_case(kind="h50", image=None, repeat=0, slice_index=0, rows=slice(60, 70)):
    cord, lesion = straight_cord(), np.zeros((144, 96), bool)
    if kind in study.LESION_KINDS:
        lesion[rows, 43:47] = True
    segments = np.repeat(np.array([0, 3, 4, 5, 6, 7, 8, 0], np.uint8), 18)
    image = np.where(lesion, 2.0, 0) + cord if image is None else image
    what = ("p1", "p1", "clean", 0, slice_index, kind, repeat)
    return Case(*what, image.astype(np.float32), cord, lesion, segments, np.ones(144, bool))


def test_final_scores_follow_the_order_of_steps():
    rng = np.random.default_rng(1)
    cord, values = straight_cord(), rng.normal(size=(144, 96)).astype(np.float32)
    expected = {"a": ExpectedError().fit([values], [cord])}
    variants = variants_of(["a"], absolute=["a"])
    made = final_scores({"a": values}, cord, expected, variants)
    names = [v.name for v in made]
    assert names[::2] == ["a, 1 px", "a, 2 px", "a + expected error, 1 px", "a + expected error, 2 px"]
    assert names[1::2] == [f"{name}, max" for name in names[::2]]
    score, domain = made[Variant("a", True, 2)]
    assert (domain == eroded_domain(cord, 2)).all()
    assert domain.sum() == (10 - 4) * (134 - 4)
    wanted = smooth_inside(np.abs(expected["a"].standardise(values, cord)), domain)
    np.testing.assert_array_equal(score, wanted)
    thin = straight_cord(2)
    assert (eroded_domain(thin, 1) == thin).all()


def test_curve_is_the_mean_of_each_row():
    domain = np.zeros((4, 5), bool)
    domain[1, 1:3], domain[2, 1] = True, True
    curve = curve_along_cord(np.arange(20.0).reshape(4, 5), domain)
    assert curve.tolist() == [-np.inf, 6.5, -np.inf, -np.inf]
    assert curve_along_cord(np.arange(20.0).reshape(4, 5), domain, "max").tolist() == [-np.inf, 7, -np.inf, -np.inf]


def test_figures_of_a_case():
    case = made_case()
    domain = eroded_domain(case.mask, 1)
    score = np.where(case.lesion, 4.0, 0.0)
    figures = metrics.case_figures(score, domain, case)
    assert figures["auroc"] == 1
    assert figures["peak"] == pytest.approx(4 * 4 / 8)
    assert figures["lesion"] == 4
    assert figures["hit"] == 1
    assert np.isneginf(figures["marks"]).all()  # counted on lesion-free images only
    assert metrics.segment_truth(case).tolist() == [0, 0, 1, 0, 0, 0]
    assert figures["segments"].argmax() == 2
    healthy = made_case(NONE)
    score = np.zeros((144, 96))
    score[30, 44], score[32, 44], score[90, 45] = 3, 2, 1
    figures = metrics.case_figures(score, domain, healthy)
    assert figures["marks"][:2].tolist() == [3, 1]  # 2 is too near to 3
    assert np.isnan(figures["auroc"])
    assert figures["hit"] == 0


def test_what_does_not_count_in_an_analysis_makes_no_counted_peak():
    case, everywhere = made_case(NONE), np.ones(144, bool)
    score = np.zeros((144, 96))
    score[8, 44], score[90, 45] = 3, 1

    def peaks(counted):
        one = Case(**{**case.__dict__, "counted": counted})
        figures = metrics.case_figures(score, one.mask, one, across="max")
        return figures["peak"], figures["counted_peak"]

    assert peaks(everywhere) == (3, 3)
    assert peaks(np.arange(144) >= 15) == (3, 1)
    assert peaks(~everywhere) == (3, 3)  # as in an analysis: where nothing would be left, all of it


def test_a_few_pixels_in_a_segment_leave_it_out():
    case = made_case(rows=slice(53, 70))
    cut = Case(**{**case.__dict__, "lesion": case.lesion & (np.arange(96) < 44)})
    assert metrics.segment_truth(cut).tolist() == [0, -1, 1, 0, 0, 0]


class Brightness:
    """The image as it is, and its inverse."""

    name = "brightness"

    def __init__(self):
        self.calls = []

    def fit(self, fold):
        self.fold = fold

    def maps(self, images, cords):
        assert images.dtype == np.float32
        assert cords.dtype == bool
        self.calls.append(len(images))
        return {"bright": images, "dark": -images}


def some_cases():
    rng = np.random.default_rng(0)
    made = []
    for slice_index in range(3):
        for kind, repeats in ((NONE, 4), ("h50", 2), ("small25", 2)):
            for repeat in range(repeats):
                case = made_case(kind, repeat=repeat, slice_index=slice_index)
                noisy = case.image + 0.01 * rng.normal(size=case.image.shape)
                made.append(Case(**{**case.__dict__, "image": noisy.astype(np.float32)}))
    return made


@pytest.fixture(scope="module")
def part():
    method, cases = Brightness(), some_cases()
    lost = made_case("h25")  # of which the mask leaves nothing
    cases.append(Case(**{**lost.__dict__, "mask": lost.mask & (np.arange(144) > 100)[:, None]}))
    return score_cases(method, fit_expected_errors(method, cases[:4]), cases, 1, 3, resamples=5)


def test_a_part_of_perfect_and_inverted_maps(part, tmp_path):
    names = part.variants.tolist()
    assert len(names) == 16
    perfect, inverted = (
        part.figures(names.index("brightness: bright, 1 px"), "h50"),
        part.figures(names.index("brightness: dark, 1 px"), "h50"),
    )
    assert perfect.shape == (len(METRICS), 6)
    by_name = dict(zip(METRICS, perfect[:, 0], strict=True))
    caps = {"oracle best Dice": 0.5, "pixel AUROC": 0.95, "pixel AP": 0.9}
    assert all(by_name[name] >= caps.get(name, 1) for name in METRICS), by_name
    assert dict(zip(METRICS, inverted[:, 0], strict=True))["pixel AUROC"] < 0.3
    assert np.isnan(part.figures(0, "h75")).all()
    assert dict(zip(part.lesion_kinds, part.left_out, strict=True)) == {"h25": 1, "h50": 0, "small25": 0}
    part.save(tmp_path / "a" / "b.npz")
    again = Part.load(tmp_path / "a" / "b.npz")
    assert (again.peak == part.peak).all()
    assert again.variants.tolist() == names


def test_patients_take_their_other_slices_from_other_repeats(part):
    v = part.variants.tolist().index("brightness: bright, 1 px")
    with_lesion, without = part.patients(v, "h50")
    assert len(with_lesion) == 3 * 2
    assert len(without) == 2
    none = part.kinds == NONE
    assert without[0] == part.peak[v][none & (part.repeats == 0)].max()
    assert with_lesion.min() > without.max()
    dark = part.variants.tolist().index("brightness: dark, 1 px")
    lesioned, _ = part.patients(dark, "h50")
    rest = part.peak[dark][none & (part.repeats == 2) & (part.slices != 0)].max()
    assert lesioned[0] == max(rest, part.peak[dark][(part.kinds == "h50") & (part.slices == 0)][0])


# -------------------------------------------------------------------------------------------------- simple rules


def test_simple_rules_rank_a_bright_lesion_first(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "RIDGE_DRAWS", 5)
    rng = np.random.default_rng(0)
    cord = straight_cord()
    image = np.where(cord, 100, np.where(study.ring_around(cord, 0, 8), 300, 60)) + rng.normal(0, 2, cord.shape)
    image = image.astype(np.float32)
    person = Person(
        "sub-01", (HealthySlice("sub-01", image, image, cord, np.zeros(144, np.uint8), np.ones(144, bool)),)
    )
    method = rules.SimpleRules()
    method.fit(Fold("sub-02", (person,), tmp_path / "fold"))
    again = rules.SimpleRules()
    again.fit(Fold("sub-02", (), tmp_path / "fold"))  # what was fitted is found again
    assert (again.ridge.weights == method.ridge.weights).all()
    planted, lesion = study.plant_lesion(image, cord, "h50", rng)
    maps = method.maps(planted.astype(np.float32)[None], cord[None])
    assert list(maps) == [*rules.RULES, rules.RIDGE]
    for name, values in maps.items():
        assert metrics.auroc(values[0][cord], lesion[cord]) > 0.97, name


def test_rules_by_hand():
    cord = straight_cord()
    image = np.where(cord, 10.0, 0)
    # Of the 1056 eroded pixels 320 are 8 and 304 are 9; of the whole cord's 1340 more than half are 10 or 12.
    image[20:40, 41:49], image[60:100, 41:49], image[100:140, 41:49] = 12, 8, 9
    assert rules.robust_z(image, cord)[30, 44] == pytest.approx((12 - 9) / 1.4826)
    assert rules.global_difference(image, cord)[30, 44] == pytest.approx(12 / 10 - 1)
    assert rules.row_smooth(image, cord)[30, 44] == pytest.approx(12 / study.row_mean(image, cord, 15)[30] - 1)
    flat = np.where(cord, 10.0, 0)
    flat[70, 44] = 12
    assert rules.sliding_z(flat, cord)[70, 44] == pytest.approx(2 / (0.02 * 10))
