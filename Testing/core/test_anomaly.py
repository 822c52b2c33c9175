"""The filtered anomaly map against hand-computed values and skimage's labelling."""

import numpy as np
import pytest
from skimage.measure import label, regionprops

from U2ADLib.anomaly import anomaly_map, components, erode, filter_bottom, filtered_map
from U2ADLib.config import ScoreConfig


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_anomaly_map_is_the_absolute_error_in_the_cord():
    image = np.array([[[0.2, 0.9, 0.5]]], np.float32)
    mean = np.array([[[0.5, 0.5, 0.1]]], np.float32)
    mask = np.array([[[True, True, False]]])
    found = anomaly_map(image, mean, mask)
    np.testing.assert_allclose(found, [[[0.3, 0.4, 0]]], rtol=1e-6)
    assert found.dtype == np.float32


def test_bottom_by_percentile_removes_a_fifth_of_the_pixels(rng):
    mask = np.zeros((20, 20), bool)
    mask[3:13, 4:14] = True
    error = np.full((20, 20), 9.0)
    error[mask] = rng.permutation(np.arange(1, 101))
    kept = filter_bottom(error, mask)
    assert sorted(kept[mask & (kept > 0)]) == list(range(21, 101))
    assert not kept[~mask].any()


def test_bottom_of_max_removes_what_is_below_a_fifth_of_the_maximum():
    error = np.array([[1.0, 1.9, 2.0, 10.0, 50.0]])
    mask = np.array([[True, True, True, True, False]])
    np.testing.assert_array_equal(filter_bottom(error, mask, "of_max"), [[0, 0, 2, 10, 0]])
    np.testing.assert_array_equal(filter_bottom(error, mask, "of_max", 0.5), [[0, 0, 0, 10, 0]])


def test_an_empty_mask_gives_an_empty_map():
    error, mask = np.ones((4, 5)), np.zeros((4, 5), bool)
    assert not filter_bottom(error, mask).any()
    assert not filtered_map(error[None], mask[None]).any()


def test_components_agree_with_skimage(rng):
    error = rng.random((60, 60)) * (rng.random((60, 60)) < 0.35)
    mask = rng.random((60, 60)) < 0.9
    labels, scores = components(error, mask)
    reference = label((error > 0) & mask, connectivity=2)
    assert len(scores) == reference.max() > 5
    for region in regionprops(reference, error):
        number = labels[tuple(region.coords[0])]
        np.testing.assert_array_equal(labels == number, reference == region.label)
        assert scores[number - 1] == pytest.approx(region.image_intensity[region.image].sum())


def test_diagonal_neighbours_are_one_component():
    error = np.diag([1.0, 2.0, 3.0])
    labels, scores = components(error, np.ones((3, 3), bool))
    assert labels.max() == 1
    np.testing.assert_allclose(scores, [6])


def blocks():
    """Two slices with five components each; sums 8, 9, 10, 5, 6 and the reverse."""
    error, mask = np.zeros((2, 40, 20), np.float32), np.zeros((2, 40, 20), bool)
    mask[:, :, 5:15] = True
    for k, sums in enumerate([(8, 9, 10, 5, 6), (6, 5, 10, 9, 8)]):
        for n, total in enumerate(sums):
            error[k, 4 + 7 * n : 6 + 7 * n, 6:8] = total / 4
    return error, mask


def test_the_three_strongest_components_of_each_slice_stay():
    error, mask = blocks()
    found = filtered_map(error, mask, ScoreConfig(bottom="of_max"))
    expected = error.copy()
    expected[0, 25:], expected[1, :18] = 0, 0  # 5 and 6 are dropped
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    only = filtered_map(error, mask, ScoreConfig(bottom="of_max", components=1))
    np.testing.assert_array_equal(only, np.where(error == 2.5, error, 0))


def test_the_sum_decides_not_the_peak():
    error, mask = blocks()
    error[0, 32:34, 6:8], error[0, 30, 12] = 0, 5.9  # the highest value, the second lowest sum
    found = filtered_map(error, mask, ScoreConfig(bottom="of_max"))
    assert found[0, 30, 12] == 0
    assert found[0, 4, 6] == 2


def test_filtering_is_per_slice_and_in_the_cord_only():
    error, mask = blocks()
    error[1] *= 100
    error[:, :, 0] = 1000
    scaled = filtered_map(error, mask)
    error[1] /= 100
    plain = filtered_map(error, mask)
    np.testing.assert_allclose(scaled[1], 100 * plain[1], rtol=1e-6)
    np.testing.assert_array_equal(scaled[0], plain[0])
    assert not scaled[~mask].any()


def test_erosion_keeps_a_thin_cord():
    mask = np.zeros((30, 20), bool)
    mask[:, 5:12] = True  # 7 wide …
    mask[10:20] = False
    mask[10:20, 7:9] = True  # … and 2 wide, compressed
    eroded = erode(mask, 1)
    np.testing.assert_array_equal(eroded[0:9].sum(axis=1), 5)  # also at the image's edge, where the cord goes on
    np.testing.assert_array_equal(eroded[9:10, 5:12], [[0, 0, 1, 1, 0, 0, 0]])  # its lower neighbour is 2 wide
    np.testing.assert_array_equal(eroded[12:18], mask[12:18])
    twice = erode(mask, 3)
    assert twice.any(axis=1).all()
    assert (twice <= mask).all()
    np.testing.assert_array_equal(np.flatnonzero(twice[0]), [8])
    np.testing.assert_array_equal(erode(mask, 0), mask)
    np.testing.assert_array_equal(erode(np.stack([mask, mask]), 1), np.stack([eroded, eroded]))


def test_erosion_leaves_the_border_out_of_the_map():
    error, mask = np.ones((1, 40, 20), np.float32), np.zeros((1, 40, 20), bool)
    mask[:, :, 5:15] = True
    error[:, :, 5] = 9
    found = filtered_map(error, mask, ScoreConfig(erosion_px=2))
    np.testing.assert_array_equal(found[0].any(axis=0), np.isin(np.arange(20), range(7, 13)))
    assert found.max() == 1
