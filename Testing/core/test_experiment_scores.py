"""Scores of maps are those of the analysis itself; lesions, marks, boxes and files by hand."""

from dataclasses import replace

import numpy as np
import pytest
from made_analysis import made_analysis

from U2ADLib.analysis import analyse
from U2ADLib.anomaly import filtered_map
from U2ADLib.config import ScoreConfig
from U2ADLib.errors import InputError
from U2ADLib.evaluation.experiments import scores
from U2ADLib.evaluation.experiments.cases import SetConfig, experiment_cases
from U2ADLib.evaluation.experiments.contracts import CaseScores, ExperimentCase
from U2ADLib.evaluation.experiments.scores import (
    Truth,
    append_scores,
    read_scores,
    score_boxes,
    score_maps,
)
from U2ADLib.io import write_volume
from U2ADLib.package import load_model
from U2ADLib.rivals.detector import Box

KEEP_ALL = ScoreConfig(bottom_fraction=0.0, components=0)


def case_of(analysis, lesions=None) -> ExperimentCase:
    index = list(analysis.slices)
    return ExperimentCase(
        "a", "a", "made", analysis.stack.images[index], analysis.region.cord[index], analysis.slices, 3.3,
        analysis.region, True, {"C4-5": True, "C5-6": False}, lesions=lesions, kinds=("h50",),
    )  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """Cord in columns 56 to 63 of slices 1 to 5; C4-5 lies in rows 70 to 89 of the volume."""
    return made_analysis(monkeypatch)


@pytest.fixture
def place(made):
    """Volume row and column → those of the stack."""
    row, column = made.stack.grid.first
    return lambda r, c: (int(r - row), int(c - column))


# --------------------------------------------------------------------------------------------------------------- maps


def test_a_made_analysis_scores_as_it_did(made):
    found = score_maps(case_of(made), made.evidence.map, seconds=1.5)
    assert found.patient == made.patient_score
    assert found.segments == {segment.name: segment.score for segment in made.segments}
    assert found.top == "C4-5"
    assert found.seconds == 1.5
    assert (found.lesions, found.pixel_ap, found.pixel_dice) == ((), None, None)


@pytest.mark.parametrize(
    "config",
    [
        ScoreConfig(),
        ScoreConfig(erosion_px=1, bottom="of_max", components=0),
        ScoreConfig(position="rows", across="max"),
    ],
)
@pytest.mark.parametrize("rule", ["middle", "all"])
def test_the_numbers_of_u2ad_are_those_of_the_analysis(phantom, tiny_model, tmp_path_factory, config, rule):
    """From the files on: the image as a set of cases reads it, the network's map, the shared steps."""
    folder = tmp_path_factory.mktemp("neck")
    for suffix, volume in (
        ("", phantom.volume),
        ("_label-SC_seg", phantom.cord),
        ("_label-discs_dlabel", phantom.discs),
    ):
        write_volume(folder / f"neck_T2w{suffix}.nii.gz", volume)
    (case,) = experiment_cases([SetConfig(folder=str(folder), healthy=True, slices=rule)])
    model = replace(load_model(tiny_model), scores={"paper": config})
    labels = {"cord": phantom.cord, "discs": phantom.discs, "region_model": None}
    wanted = analyse(phantom.volume, **labels, model=model, device="cpu", slices=rule, k=2)
    np.testing.assert_allclose(case.images, wanted.stack.images[list(wanted.slices)], atol=1e-6)
    assert case.slices == wanted.slices
    found = score_maps(case, wanted.evidence.map, config)
    assert found.patient == wanted.patient_score
    assert found.segments == {segment.name: segment.score for segment in wanted.segments}
    assert found.top == max(wanted.segments, key=lambda segment: segment.score).name


def test_lesions_and_marks_by_hand(made, place):
    values, lesions = np.zeros((5, 256, 256), np.float32), np.zeros((5, 256, 256), np.uint8)
    (r, c), (other, _), (far, _) = place(80, 58), place(100, 58), place(150, 58)
    lesions[3, r : r + 4, c : c + 3] = 1
    lesions[3, far : far + 3, c] = 2
    values[3, r + 1, c + 1] = 0.9  # in lesion 1
    values[3, r - 2, c + 1] = 0.8  # its halo
    values[3, other, c], values[3, other + 2, c] = 0.7, 0.6  # two pixels of one mark
    values[3, other + 10, c] = 0.5
    values[0, r, c] = 0.4  # beside the lesion, in another slice
    found = score_maps(case_of(made, lesions), values, KEEP_ALL)
    assert found.lesions == (pytest.approx(0.9), -np.inf)
    stack_slice = made.slices[3]
    assert [peak[1:] for peak in found.peaks] == [
        (stack_slice, other, c), (stack_slice, other + 10, c), (made.slices[0], r, c),
    ]  # fmt: skip
    assert [peak[0] for peak in found.peaks] == pytest.approx([0.7, 0.5, 0.4])


def test_what_the_filter_removes_is_not_found(made, place):
    """Four components, of which three stay."""
    values, lesions = np.zeros((5, 256, 256), np.float32), np.zeros((5, 256, 256), np.uint8)
    for row, value in ((30, 0.9), (60, 0.8), (100, 0.7), (130, 0.6)):
        values[2, place(row, 58)[0], place(row, 58)[1]] = value
    lesions[2, place(130, 58)[0], place(130, 58)[1]] = 1
    assert score_maps(case_of(made, lesions), values).lesions == (-np.inf,)
    assert score_maps(case_of(made, lesions), values, KEEP_ALL).lesions == (pytest.approx(0.6),)
    assert len(score_maps(case_of(made, lesions), values).peaks) == 3


def test_a_constant_map_has_few_marks(made):
    found = score_maps(case_of(made), made.region.cord[list(made.slices)].astype(np.float32), KEEP_ALL)
    assert found.patient == pytest.approx(1)
    assert all(value == pytest.approx(1) for value in found.segments.values())
    assert len(found.peaks) == scores.MOST_MARKS


def test_pixel_figures_equal_scikit_learn(made):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    cords = made.region.cord[list(made.slices)]
    lesions = ((rng.random(cords.shape) < 0.1) & cords).astype(np.uint8)
    values = np.where(cords, np.round(rng.random(cords.shape) + 0.3 * lesions, 2), 0)
    found = score_maps(case_of(made, lesions), values)
    truth, given = lesions[cords] > 0, values[cords]
    assert found.pixel_ap == pytest.approx(sklearn_metrics.average_precision_score(truth, given))
    dice = [sklearn_metrics.f1_score(truth, given >= limit) for limit in np.unique(given)]
    assert found.pixel_dice == pytest.approx(max(dice))


def test_maps_of_something_else_are_refused(made):
    with pytest.raises(InputError, match=r"\(5, 256, 256\)"):
        score_maps(case_of(made), np.zeros((1, 256, 256)))
    with pytest.raises(InputError, match="finite"):
        score_maps(case_of(made), np.full((5, 256, 256), np.nan))


def test_a_truth_has_no_images(made):
    case = case_of(made)
    truth = Truth.of(case)
    assert all(getattr(truth, name) == getattr(case, name) for name in Truth.__dataclass_fields__)


def test_filtering_does_not_change_the_given_map(made):
    before = made.evidence.map.copy()
    score_maps(case_of(made), made.evidence.map)
    np.testing.assert_array_equal(before, made.evidence.map)
    assert filtered_map(before, made.region.cord[list(made.slices)]).max() == before.max()


# -------------------------------------------------------------------------------------------------------------- boxes


def test_boxes_by_hand(made, place):
    """C4-5 is the rectangle of rows 70 to 89 and columns 56 to 63."""
    (top, left), (lower, _) = place(70, 56), place(90, 56)
    lesions = np.zeros((5, 256, 256), np.uint8)
    lesions[1, top + 8 : top + 11, left + 2 : left + 5] = 1
    boxes = [
        [Box(lower, left, lower + 20, left + 3, 0.95)],  # of C5-6, but too narrow
        [Box(top + 5, left, lower, left + 8, 0.7), Box(top, left, lower, left + 8, 0.6)],
        [Box(lower + 2, left, lower + 20, left + 8, 0.3)],
        [],
        [],
    ]
    found = score_boxes(case_of(made, lesions), boxes, seconds=0.2)
    assert found.patient == 0.95
    assert found.top is None  # of the most confident box
    assert found.segments["C4-5"] == 0.7
    assert found.segments["C5-6"] == 0.3
    assert {v for name, v in found.segments.items() if name not in ("C4-5", "C5-6")} == {0.0}
    assert list(found.segments) == ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1"]
    assert found.lesions == (0.7,)
    assert [(peak[0], peak[1]) for peak in found.peaks] == [(0.95, made.slices[0]), (0.3, made.slices[2])]
    assert score_boxes(case_of(made), [boxes[1], [], [], [], []]).top == "C4-5"


def test_no_boxes(made):
    lesions = np.zeros((5, 256, 256), np.uint8)
    lesions[0, 100, 120] = 1
    found = score_boxes(case_of(made, lesions), [[]] * 5)
    assert (found.patient, found.top, found.lesions, found.peaks) == (0.0, None, (-np.inf,), ())
    assert set(found.segments.values()) == {0.0}


# -------------------------------------------------------------------------------------------------------------- files

ONE = CaseScores("é_1", 0.5, {"C4-5": 0.25}, "C4-5", 1.25, (0.5, -np.inf), ((0.1, 3, 20, 30),), 0.5, 0.25)
OTHER = CaseScores("b", 0.0, {}, None)


def test_scores_come_back(tmp_path):
    path = tmp_path / "new" / "scores.jsonl"
    assert read_scores(path) == {}
    for one in (ONE, OTHER, replace(ONE, id="c", patient=np.nan)):
        append_scores(path, one)
    found = read_scores(path)
    assert [vars(found[name]) for name in ("é_1", "b")] == [vars(ONE), vars(OTHER)]
    assert list(found) == ["é_1", "b", "c"]
    assert np.isnan(found["c"].patient)
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.jsonl"]


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "scores.jsonl"
    for one in (ONE, OTHER):
        append_scores(path, one)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert list(read_scores(path)) == ["é_1"]
    append_scores(path, OTHER)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", "no\n", '{"id": "a"}\n'])
def test_a_file_of_something_else(tmp_path, text):
    path = tmp_path / "scores.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="delete it"):
        read_scores(path)
