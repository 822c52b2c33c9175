"""The benchmark's cases: the study's pixel for pixel, and the conditions beyond it."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from U2ADLib.curve import volume_curve
from U2ADLib.errors import InputError
from U2ADLib.evaluation.benchmark import cases, methods, rules, study
from U2ADLib.evaluation.benchmark.cases import HealthySlice, Person
from U2ADLib.evaluation.benchmark.parts import score_cases
from U2ADLib.roi.centreline import Centreline
from U2ADLib.scoring.gain import local_gain_difference
from U2ADLib.simulation.degrade import NEGATIVES
from U2ADLib.training.discriminator_recipe import DEFAULT_SCORE


@pytest.fixture(scope="module")
def person():
    """One slice: a cord that bends, in bright fluid, in tissue."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:144, :96]
    away = np.abs(columns - 48 - 6 * np.sin(rows / 40))
    cord = away < 4.5
    image = np.where(cord, 100, np.where(away < 8, 300, 60)) + rng.normal(0, 3, cord.shape)
    image = np.pad(image, ((0, 0), (20, 30)), mode="edge").astype(np.float32)
    segments = np.repeat(np.array([0, 3, 4, 5, 6, 7, 8, 0], np.uint8), 18)
    crop = np.ascontiguousarray(image[:, 20:116])
    return Person("sub-07", (HealthySlice("sub-07", crop, crop, cord, segments, np.ones(144, bool), (image, 20)),))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_rows_count_as_in_an_analysis():
    """An image of 160 rows, of which rows 2 to 145 are looked at: 15 mm from an edge, or in a named segment."""
    segments = np.zeros(144, np.uint8)
    assert np.flatnonzero(~cases.counted_rows(2 + np.arange(144), (-0.5, 159.5), segments)).tolist() == [
        *range(13),  # row 15 of the image, the 13th here, lies 15.5 mm from its upper edge
        143,
    ]
    segments[10:20] = 3
    assert np.flatnonzero(~cases.counted_rows(2 + np.arange(144), (-0.5, 300), segments)).tolist() == list(range(10))
    cord = np.zeros((1, 160, 89), bool)
    cord[..., 40:49] = True
    line = Centreline.from_cord(cord)
    curve = volume_curve(cord.astype(float), cord, line, (0,), DEFAULT_SCORE, (), (-0.5, 159.5))
    rows = line.at(curve.s_mm)[0][:, 0]
    expected = cases.counted_rows(rows, (-0.5, 159.5), np.zeros(len(rows), np.uint8))
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(curve.counted, expected)


def test_cases_depend_on_seed_and_person_alone(person):
    assert person.number == 7
    assert Person("sub-a", ()).number == Person("sub-a", ()).number != Person("sub-b", ()).number
    first, again = (cases.benchmark_cases(person, "clinical") for _ in range(2))
    other = cases.benchmark_cases(person, "clinical", 1)
    assert len(first) == 4 + 2 * len(study.LESION_KINDS)
    assert [c.kind for c in first].count(cases.NONE) == 4
    assert all((a.image == b.image).all() and (a.lesion == b.lesion).all() for a, b in zip(first, again, strict=True))
    assert (first[0].image != other[0].image).any()
    assert first[0].seed == 207
    assert other[0].seed == 1207
    assert all(c.counts and c.image.dtype == np.float32 for c in first)
    assert all((c.truth == (c.lesion & c.mask)).all() for c in first)


def test_reference_cases_have_no_lesion(person):
    made = cases.reference_cases([person])
    assert [c.condition for c in made] == ["clean"] * 2 + ["clinical"] * 4
    assert not any(c.lesion.any() for c in made)


def test_squeezed_cord(person):
    healthy = person.slices[0]
    for seed in range(10):
        (image,), cord, near = study.squeeze([healthy.thick], healthy.cord, np.random.default_rng(seed))
        ratio = cord.sum(1) / healthy.cord.sum(1)
        assert 0.4 <= ratio.min() <= 0.8
        narrow = np.flatnonzero(ratio < 0.85)
        assert np.isin(narrow, near).all()
        assert 10 <= len(near) <= 2 * 36
        far = np.ones(144, bool)
        far[np.clip(near[:, None] + np.arange(-25, 26), 0, 143)] = False
        assert (cord[far] == healthy.cord[far]).all()
        np.testing.assert_allclose(image[far], healthy.thick[far], rtol=1e-5)
        # The cord stays dark and in fluid, whose ring is as narrow as it.
        assert np.median(image[cord]) == pytest.approx(100, abs=3)
        assert image[study.ring_around(cord, 0, 1)].mean() > 150
        np.testing.assert_allclose(image[:, :15], healthy.thick[:, :15], rtol=1e-5)


def test_lesions_lie_at_the_compression_half_of_the_time(person):
    rng = np.random.default_rng(0)
    rows = np.arange(60, 71)
    healthy = person.slices[0]
    planted = [study.plant_lesion(healthy.thick, healthy.cord, "small50", rng, rows)[1] for _ in range(5)]
    assert all(58 <= np.argwhere(lesion)[:, 0].mean() <= 72 for lesion in planted)
    made = cases.benchmark_cases(person, "compressed")
    assert len(made) == 26
    assert all(c.counts for c in made)


def test_negatives_have_names_and_no_lesion(person):
    made = cases.benchmark_cases(person, "negatives")
    assert [c.kind for c in made[::2]] == list(NEGATIVES)
    assert not any(c.lesion.any() for c in made)
    widened = [c for c in made if c.kind == "thin csf"]
    assert all((c.mask & ~person.slices[0].cord).any() for c in widened)


def test_found_masks_are_those_of_the_finder(person):
    seen = []

    def find(image, healthy):
        seen.append(image)
        return healthy.cord & (np.arange(144) > 70)[:, None]

    made = cases.benchmark_cases(person, "found", find=find)
    clinical = cases.benchmark_cases(person, "clinical")
    assert all((a.lesion == b.lesion).all() for a, b in zip(made, clinical, strict=True))  # the same lesions
    assert len(seen) == len(made)
    lost = [c for c in made if not c.counts]
    assert 0 < len(lost) < len(made)  # what lay above row 70
    nothing = cases.benchmark_cases(person, "found", find=lambda image, healthy: np.zeros_like(healthy.cord))
    assert not any(c.counts for c in nothing)


def test_the_region_model_finds_a_cord_in_a_degraded_slice():
    from U2ADLib.package import load_region_model

    find = cases.cord_finder(load_region_model("default"))
    healthy = cases.phantom_slices(3)[0]
    wide = np.pad(healthy.thick, ((0, 0), (60, 60)), mode="edge")
    healthy = HealthySlice(
        "a", healthy.thick, healthy.thick, healthy.cord, healthy.segments, healthy.counted, (wide, 60)
    )
    image, _ = study.degrade_clinical(healthy.thick, healthy.cord, np.random.default_rng(0))
    assert dice(find(image, healthy), healthy.cord) > 0.7


def test_phantom_slices_look_like_those_of_people():
    made = cases.phantom_slices(0)
    assert 1 <= len(made) <= cases.MOST_PHANTOM_SLICES
    for one in made:
        assert one.thin.shape == one.cord.shape == (cases.ROWS, cases.COLUMNS)
        assert set(np.unique(one.segments)) == {0, 3, 4, 5, 6, 7, 8}
        # Columns run from back to front: behind the cord lie fluid, fat and skin; the vertebrae in front are darker.
        rows, columns = np.nonzero(one.cord)
        assert abs(columns.mean() - cases.COLUMNS / 2) < 15
        assert one.thin[study.ring_around(one.cord, 1, 3)].mean() > 1.1 * one.thin[one.cord].mean()
        assert rows.min() <= 20
    person = Person("phantoms", tuple(made))
    assert len(cases.make_cases(person, cases.PHANTOM, kinds=(), healthy=1)) == len(made)


def test_people_without_mask_or_of_another_grid_are_refused(shared_data):
    folder = shared_data / "errsm"
    manual, automatic = cases.people_names(folder)
    assert manual == ["sub-errsm11", "sub-errsm21", "sub-errsm24"]
    assert automatic == ["sub-errsm20", "sub-sctexample"]
    with pytest.raises(InputError, match="no cord mask"):
        cases.load_person(folder, "sub-errsm20")
    with pytest.raises(InputError, match="no sub-x"):
        cases.load_person(folder, "sub-x")


# ----------------------------------------------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def the_study(shared_data) -> Path:
    folder = shared_data.parent / "detection_study"
    if not folder.is_dir():
        pytest.skip(f"REAL IMAGES NOT FOUND: the study is not at {folder}: the cases were not compared with its own")
    return folder


@pytest.fixture(scope="module")
def simulate(the_study):
    """The study's own simulator."""
    spec = importlib.util.spec_from_file_location("study_simulate", the_study / "simulate.py")
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[spec.name] = module  # its dataclasses look for it
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = before
        del sys.modules[spec.name]


@pytest.fixture(scope="module")
def people(shared_data):
    return {n: cases.load_person(shared_data / "errsm", f"sub-errsm{n}") for n in (11, 21, 24)}


@pytest.mark.parametrize("number", [11, 21, 24])
def test_slices_are_the_studys(simulate, people, number):
    theirs = simulate.load_slices(number)
    assert len(theirs) == len(people[number].slices)
    for a, b in zip(theirs, people[number].slices, strict=True):
        for name in ("thin", "thick", "cord"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert set(b.segments[b.segments > 0]) == {3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("condition", cases.STUDY)
@pytest.mark.parametrize("number", [11, 24])
def test_cases_are_the_studys_pixel_for_pixel(simulate, people, number, condition):
    theirs, ours = simulate.benchmark_cases(number, condition), cases.benchmark_cases(people[number], condition)
    assert [c.kind for c in theirs] == [c.kind for c in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert a.slice_index == b.slice_index
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.lesion, b.truth)
        np.testing.assert_allclose(a.image, b.image, rtol=1e-5, atol=1e-6)


def test_rules_reproduce_the_studys_figures(the_study, people, tmp_path):
    """Person 11, clinical, all scores of its table that both have."""
    training = tuple(person for number, person in people.items() if number != 11)
    method = rules.SimpleRules()
    method.fit(methods.Fold("sub-errsm11", training, tmp_path))
    expected = methods.fit_expected_errors(method, cases.reference_cases(training))
    part = score_cases(method, expected, cases.benchmark_cases(people[11], "clinical"), 11, 6, resamples=0)
    with open(the_study / "results.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["condition"], row["person"]) == ("clinical", "11")]
    names = part.variants.tolist()
    assert len(rows) == 9 * len(study.GROUPS)
    for row in rows:
        v = names.index(row["score"].replace("global abs(x - median)", "global"))
        figures = np.nanmean([part.figures(v, kind)[:3, 0] for kind in study.GROUPS[row["group"]]], axis=0)
        theirs = [float(row[key]) for key in ("pixel_AUROC", "pixel_AP", "slice_AUROC")]
        np.testing.assert_allclose(figures, theirs, atol=1e-3, err_msg=str(row))


def test_training_slices_differ_and_keep_their_cord(person):
    fold = methods.Fold("x", (person,), Path("unused"))
    made = list(rules.training_slices(fold, 6, 0))
    assert len({image.sum() for image, _ in made}) == 6
    for image, cord in made:
        assert cord.sum() >= 400
        assert np.isfinite(local_gain_difference(image, cord)).all()
