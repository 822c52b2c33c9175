"""Figures and simple rules against values known in advance."""

import numpy as np
import pytest

from U2ADLib.config import ScoreConfig
from U2ADLib.evaluation.settings import auroc, figures, planted_slices
from U2ADLib.rivals.rules import BASELINES, global_difference, local_robust_z, robust_z, signed_residual
from U2ADLib.roi.centreline import Centreline


def slice_with_lesion(gain=1.0, drift=0.0, signal=160):
    """A cord of 100 with a lesion in rows 100 … 109, in CSF of 300."""
    rng = np.random.default_rng(0)
    cord = np.zeros((256, 256), bool)
    cord[40:200, 100:110] = True
    image = np.full(cord.shape, 300.0)
    image[cord] = 100 + rng.normal(0, 2, cord.sum())
    lesion = np.zeros_like(cord)
    lesion[100:110, 103:107] = True
    image[lesion] = signal
    image *= gain * (1 + drift * np.arange(256) / 256)[:, None]
    return image, cord, lesion


def test_auroc_by_hand():
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 0
    assert auroc(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert auroc(np.ones(5), np.ones(7)) == 0.5


@pytest.mark.parametrize("name", BASELINES)
def test_a_simple_rule_finds_a_bright_lesion_in_any_unit(name):
    for gain in (1.0, 0.003):
        image, cord, lesion = slice_with_lesion(gain)
        values = BASELINES[name](image, cord)
        assert not values[~cord].any()
        assert lesion[np.unravel_index(values.argmax(), values.shape)]
        assert auroc(values[lesion], values[cord & ~lesion]) > 0.95


def test_local_rules_are_not_fooled_by_drift():
    image, cord, lesion = slice_with_lesion(drift=1.5, signal=125)
    found = {}
    for rule in (robust_z, local_robust_z):
        values = rule(image, cord)
        found[rule] = auroc(values[lesion], values[cord & ~lesion])
    assert found[local_robust_z] > 0.95
    assert found[robust_z] < 0.9


def test_values_by_hand():
    image, cord, _ = slice_with_lesion()
    assert global_difference(image, cord)[104, 105] == pytest.approx(0.6, abs=0.1)
    mean = np.where(cord, 100.0, 0)
    residual = signed_residual(image, mean, cord)
    assert residual[104:106, 104:106] == pytest.approx(60, abs=8)
    assert not signed_residual(image, image + 5, cord).any()


def test_figures_of_a_perfect_and_an_inverted_map():
    _, cord, lesion = slice_with_lesion()
    cords = np.array([cord, cord])
    lesions = np.array([lesion, np.zeros_like(lesion)])
    lines = [Centreline.from_cord(c[None]) for c in cords]
    perfect = figures(lesions * 1.0, cords, lesions, lines, ScoreConfig())
    assert perfect == {"pixel": 1.0, "slice": 1.0, "found": 1.0}
    elsewhere = np.zeros(cords.shape)
    elsewhere[:, 180:190, 100:110] = 1
    wrong = figures(elsewhere, cords, lesions, lines, ScoreConfig())
    assert wrong["found"] == 0
    assert wrong["slice"] == 0.5
    assert wrong["pixel"] < 0.5


def test_planted_slices_come_without_and_with_lesions():
    made = list(planted_slices(1, ("h50", "A1")))
    assert [bool(lesion.any()) for _, _, lesion in made] == [False, True, True]
    assert all((lesion <= cord).all() for _, cord, lesion in made)
    assert (made[1][0] != made[0][0]).any()
