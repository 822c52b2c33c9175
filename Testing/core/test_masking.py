import numpy as np
import pytest
import torch

from U2ADLib.masking import (
    balanced_passes,
    masked_count,
    masks_from_scores,
    random_masks,
    random_passes,
    ring,
    roi_patches,
)


@pytest.mark.parametrize(("n", "hidden"), [(1, 1), (2, 1), (4, 3), (51, 38), (50, 38), (64, 48)])
def test_three_quarters_rounded_half_up(n, hidden):
    assert masked_count(n, 0.75) == hidden


def test_any_cord_pixel_makes_a_patch():
    cord = torch.zeros(1, 32, 32, dtype=torch.bool)
    cord[0, 7, 8] = True  # last row of patch row 0, first column of patch column 1
    assert torch.nonzero(roi_patches(cord, 8)[0]).flatten().tolist() == [1]


def test_ring_is_the_eight_neighbours():
    roi = torch.zeros(1, 25, dtype=torch.bool)
    roi[0, 12] = True
    assert torch.nonzero(ring(roi, 1)[0]).flatten().tolist() == [6, 7, 8, 11, 13, 16, 17, 18]
    assert not ring(roi, 0).any()


def test_every_image_of_a_batch_is_masked_by_exactly_its_own_share():
    roi = torch.zeros(3, 64, dtype=torch.bool)
    for row, n in enumerate((5, 20, 64)):
        roi[row, torch.randperm(64)[:n]] = True
    masks = random_masks(roi, 0.75, torch.Generator().manual_seed(1))
    for row, n in enumerate((5, 20, 64)):
        visible = masks.visible[row][masks.visible_valid[row]].tolist()
        target = masks.target[row][masks.target_valid[row]].tolist()
        assert len(target) == masked_count(n, 0.75)
        assert sorted(visible + target) == torch.nonzero(roi[row]).flatten().tolist()


def test_excluded_patches_are_never_targets_and_context_is_always_seen():
    roi = torch.ones(1, 16, dtype=torch.bool)
    roi[0, 12:] = False
    context = ~roi
    excluded = torch.zeros_like(roi)
    excluded[0, :8] = True  # two thirds of the ROI: fewer than 75 % can be masked
    masks = masks_from_scores(roi, torch.rand(1, 16), 0.75, context, excluded)
    assert sorted(masks.target[0][masks.target_valid[0]].tolist()) == [8, 9, 10, 11]
    assert set(range(12, 16)) <= set(masks.visible[0][masks.visible_valid[0]].tolist())


def test_highest_scores_are_masked():
    roi = torch.ones(1, 8, dtype=torch.bool)
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6]])
    assert sorted(masks_from_scores(roi, scores, 0.5).target[0].tolist()) == [1, 3, 5, 7]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 13, 48, 51, 200])
@pytest.mark.parametrize("k", [2, 3, 10, 20])
def test_balanced_passes_reach_k_and_differ_by_one_at_most(n, k):
    masked = balanced_passes(n, k, 0.75, np.random.default_rng(0))
    rebuilt = masked.sum(0)
    assert rebuilt.min() >= k
    assert rebuilt.max() - rebuilt.min() <= 1
    assert (masked.sum(1) == masked_count(n, 0.75)).all()


def test_fourteen_passes_at_k_ten():
    assert len(balanced_passes(51, 10, 0.75, np.random.default_rng(0))) == 14


def test_balanced_masks_are_fair_to_every_pair():
    """Two patches are hidden together as often as chance says: 38/51 · 37/50."""
    together = np.zeros((51, 51))
    passes = 0
    for seed in range(300):
        masked = balanced_passes(51, 10, 0.75, np.random.default_rng(seed)).astype(float)
        together += masked.T @ masked
        passes += len(masked)
    pairs = together[~np.eye(51, dtype=bool)] / passes
    assert abs(pairs.mean() - 38 / 51 * 37 / 50) < 1e-3
    assert pairs.std() < 0.01


def test_random_passes_use_exactly_k_of_each_patch():
    masked, used = random_passes(51, 10, 0.75, np.random.default_rng(0))
    assert (used.sum(0) == 10).all()
    assert not (used & ~masked).any()
    assert masked[:-1].sum(0).min() < 10  # it stopped as soon as every patch had enough
