"""The cord found in probability maps of drawn tubes, blobs and noise."""

import numpy as np
import pytest

from U2ADLib.errors import InputError
from U2ADLib.roi.centreline import Centreline
from U2ADLib.roi.tube import clean_tube

ROWS, COLUMNS = np.mgrid[:256, :256].astype(float)


def middle_at(row):
    """Column of the middle of a neck's cord: a wave of 150 mm, 6 mm deep, that leans backwards by 6°."""
    return 120 + 0.1 * (row - 128) + 6 * np.sin(2 * np.pi * row / 150)


def cord_map(rows=(40, 220), lateral=(-4, 0, 4), diameter=10.0, inside=0.9, outside=0.02):
    """A round cord between two rows, in slices so many mm beside its middle: (S, 256, 256) float32."""
    halves = np.array([np.sqrt(max((diameter / 2) ** 2 - x**2, 0)) for x in lateral])
    seen = np.abs(COLUMNS - middle_at(ROWS)) < halves[:, None, None]
    seen[:, : rows[0]], seen[:, rows[1] :] = False, False
    return np.where(seen, inside, outside).astype(np.float32)


def disc(row, column, radius):
    return np.hypot(ROWS - row, COLUMNS - column) <= radius


def test_a_clean_cord_is_left_alone():
    probability = cord_map()
    tube = clean_tube(probability, 3.3)
    np.testing.assert_array_equal(tube.cord, probability > 0.5)
    assert tube.doubts == ()
    assert tube.confidence == pytest.approx(0.9, abs=1e-6)


def test_a_single_slice():
    probability = cord_map(lateral=(0,))
    probability[0, 100:108] = 0.02
    tube = clean_tube(probability, 5.0)
    assert tube.cord.any(axis=2).all(axis=0)[40:220].all()
    assert len(tube.doubts) == 1


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_the_threshold(threshold):
    probability = cord_map(inside=0.5)
    if threshold > 0.5:
        with pytest.raises(InputError, match="No spinal cord"):
            clean_tube(probability, 3.3, threshold)
    else:
        np.testing.assert_array_equal(clean_tube(probability, 3.3, threshold).cord, probability > 0.3)


# --- slices ---


def test_what_lies_beside_the_cord_is_left_out():
    """Muscle beside the spine that looks like cord, 12 to 28 mm to one side, along a cord that leans over."""
    probability = cord_map(lateral=(-4, 0, 4, 8, 12, 16, 20, 24, 28))
    truth = probability > 0.5
    assert not truth[4:].any()
    probability[4:, 60:200, 112:118] = 0.95
    tube = clean_tube(probability, 4.0)
    np.testing.assert_array_equal(tube.cord[:3], truth[:3])
    assert not tube.cord[4:].any()


def test_a_cord_that_changes_its_side_is_kept():
    """A curved spine: from one side to the other by 16 mm over 180 mm."""
    probability = cord_map(lateral=(0,) * 9)
    place = np.arange(9)[:, None] * 3.0
    middle = 4 + 16 * (np.arange(256) - 40) / 180
    half = np.sqrt(np.maximum(25 - (place - middle) ** 2, 0))
    probability[np.abs(COLUMNS - middle_at(ROWS)) >= half[:, :, None]] = 0.02
    truth = probability > 0.5
    found = clean_tube(probability, 3.0).cord
    assert np.count_nonzero(found != truth) < 0.01 * truth.sum()


def test_near_slices_outvote_one():
    """0.8 mm apart: one slice misses the cord, another sees one where there is none."""
    probability = cord_map(lateral=np.arange(-10, 11) * 0.8)
    truth = probability > 0.5
    probability[10, 80:170] = 0.02
    probability[9][disc(130, 121, 25)] = 0.95
    probability[9, 40:220, 60:68] = 0.95
    tube = clean_tube(probability, 0.8)
    assert np.count_nonzero(tube.cord != truth) < 0.02 * truth.sum()  # at the cord's sides
    assert tube.doubts == ()


def test_far_slices_keep_their_opinion():
    """4 mm apart, the cord runs through one slice only: a vote would lose it."""
    probability = cord_map(lateral=(-8, 0, 8))
    tube = clean_tube(probability, 4.0)
    assert tube.cord.any(axis=(1, 2)).tolist() == [False, True, False]
    with pytest.raises(InputError):  # the same slices 1 mm apart: a sheet of 1 mm is no cord
        clean_tube(probability, 1.0)


def test_a_stray_slice_is_dropped():
    probability = cord_map()
    probability[0] = 0.02
    probability[0, 100:106, 117:120] = 0.9  # touches the cord of the next slice
    tube = clean_tube(probability, 3.3)
    assert tube.cord.any(axis=(1, 2)).tolist() == [False, True, True]
    np.testing.assert_array_equal(tube.cord[1:], probability[1:] > 0.5)


@pytest.mark.parametrize("k", [0, 1])
def test_a_gap_of_one_slice_is_filled(k):
    probability = cord_map(lateral=(-2, 0, 2))
    truth = probability > 0.5
    probability[k, 120:130] = 0.02
    tube = clean_tube(probability, 2.0)
    assert np.count_nonzero(tube.cord[k, 120:130] != truth[k, 120:130]) <= 10  # a pixel per row
    np.testing.assert_array_equal(np.delete(tube.cord, k, 0), np.delete(truth, k, 0))
    assert [doubt for doubt in tube.doubts if "1 slice(s)" in doubt] == list(tube.doubts) != []


def test_a_gap_at_the_side_of_the_cord_stays():
    """A slice that shows 2 mm of the cord may well not show it everywhere."""
    probability = cord_map(lateral=(-4.9, 0, 4))
    probability[0, 120:130] = 0.02
    np.testing.assert_array_equal(clean_tube(probability, 2.0).cord, probability > 0.5)


@pytest.mark.parametrize(
    ("lateral", "cut"), [((-8, -4, 0, 3, 6), 0), ((0, 1, 4, 7, 10), 1), ((-4, -2, 0, 2, 4), 0), ((-1, 0, 1), 0)]
)
def test_a_cord_cut_off_at_the_side(lateral, cut):
    doubts = clean_tube(cord_map(lateral=lateral), 3.3).doubts
    assert len([doubt for doubt in doubts if "outermost slice on the right" in doubt]) == len(doubts) == cut


# --- pieces ---


@pytest.mark.parametrize("gap", [3, 8, 14])
def test_a_gap_is_bridged(gap):
    probability = cord_map()
    truth = probability > 0.5
    probability[:, 120 : 120 + gap] = 0.02
    tube = clean_tube(probability, 3.3)
    wrong = tube.cord != truth
    assert not wrong[:, :120].any()
    assert not wrong[:, 120 + gap :].any()
    assert wrong.sum(axis=2).max() <= 2  # at most a pixel on each side
    assert len(tube.doubts) == 1
    assert f"over {gap} mm, 80 mm below its upper end (row 120)" in tube.doubts[0]
    assert tube.confidence < 0.9 - 0.8 * (gap - 1) / 180
    assert Centreline.from_cord(tube.cord).covered.all()


@pytest.mark.parametrize("tilt", [-40, 40])
def test_a_gap_across_a_tilted_cord(tilt):
    """The gap is cut across the cord: its rims overlap in the rows."""
    angle = np.radians(tilt)
    s = (ROWS - 128) * np.cos(angle) + (COLUMNS - 128) * np.sin(angle)
    d = (COLUMNS - 128) * np.cos(angle) - (ROWS - 128) * np.sin(angle)
    truth = (np.abs(s) <= 70) & (np.abs(d) <= 4)
    tube = clean_tube(np.where(truth & (np.abs(s) > 3), 0.9, 0.0)[None], 3.3)
    assert Centreline.from_cord(tube.cord).covered.all()
    assert Centreline.from_cord(tube.cord).length == pytest.approx(140, abs=1.5)
    assert np.count_nonzero(tube.cord[0] & ~truth) <= 6
    assert len(tube.doubts) == 1


def test_a_longer_gap_is_not_bridged():
    probability = cord_map()
    probability[:, 100:116] = 0.02
    tube = clean_tube(probability, 3.3)
    np.testing.assert_array_equal(np.flatnonzero(tube.cord.any(axis=(0, 2))), np.arange(116, 220))


def test_what_is_not_in_line_is_not_chained():
    """Below a gap of 6 mm goes on the cord, and 11 mm in front of it something longer and wider."""
    probability = cord_map(rows=(40, 130))
    probability[:, 90:96] = 0.02
    beside = np.abs(COLUMNS - middle_at(ROWS) + 12) <= 4.5
    probability[:, 94:150][:, beside[94:150]] = 0.99
    tube = clean_tube(probability, 3.3)
    rows, columns = np.nonzero(tube.cord.any(axis=0))
    assert np.abs(columns - middle_at(rows)).max() <= 6
    np.testing.assert_array_equal(np.unique(rows), np.arange(40, 130))


def test_pieces_in_distant_slices_are_not_chained():
    probability = cord_map(lateral=[0] * 6)
    probability[0, 110:], probability[1:5], probability[5, :118] = 0.02, 0.02, 0.02
    tube = clean_tube(probability, 4.0)
    assert tube.cord.any(axis=(1, 2)).tolist() == [False] * 5 + [True]


def test_what_is_not_as_wide_is_not_chained():
    probability = cord_map(rows=(40, 150), lateral=(0,))
    line = np.abs(COLUMNS - middle_at(ROWS)) <= 1.5
    probability[0, 156:200][line[156:200]] = 0.9
    assert not clean_tube(probability, 3.3).cord[:, 150:].any()


def test_pieces_in_neighbouring_slices_are_chained():
    """A cord that passes from one thick slice to the next, where neither shows it well."""
    probability = cord_map(lateral=(0, 0))
    probability[0, 116:] = 0.02
    probability[1, :124] = 0.02
    tube = clean_tube(probability, 4.0)
    assert tube.cord.any(axis=(0, 2))[40:220].all()
    assert np.count_nonzero(tube.cord.sum(axis=(0, 2))[116:124] >= 4) == 8
    assert len(tube.doubts) == 1
    probability[0, :120], probability[1, 120:] = 0.9 * (cord_map()[1, :120] > 0.5), cord_map()[1, 120:]
    probability[0, 120:], probability[1, :120] = 0.02, 0.02  # they meet, at an edge of voxels
    assert clean_tube(probability, 4.0).doubts == ()


# --- what is not cord ---


def test_the_longer_of_two_is_the_cord():
    """The other one is larger."""
    probability = cord_map(lateral=(0,), diameter=6, inside=0.6)
    probability[0, 60:115, 60:74] = 0.99
    np.testing.assert_array_equal(
        clean_tube(probability, 3.3).cord, cord_map(lateral=(0,), diameter=6, inside=0.6) > 0.5
    )


def test_brain_and_bladder_are_not_cord():
    """Larger and surer than the cord, the brain also runs into it."""
    probability = cord_map(rows=(60, 220), inside=0.7)
    probability[:, disc(25, 115, 40)] = 0.99
    probability[1, disc(230, 40, 20)] = 0.99
    probability[1, disc(200, 200, 7.5)] = 0.99
    tube = clean_tube(probability, 3.3)
    rows = np.flatnonzero(tube.cord.any(axis=(0, 2)))
    assert 60 <= rows[0] <= 66
    assert rows[-1] == 219
    assert np.abs(np.nonzero(tube.cord)[2] - middle_at(np.nonzero(tube.cord)[1])).max() <= 6


def test_an_outline_is_not_two_tubes():
    probability = cord_map(rows=(60, 140), lateral=(0,))
    ellipse = np.hypot((ROWS - 120) / 110, (COLUMNS - 200) / 25)
    probability[0][(ellipse <= 1) & (ellipse > 0.8)] = 0.99
    np.testing.assert_array_equal(clean_tube(probability, 3.3).cord, cord_map(rows=(60, 140), lateral=(0,)) > 0.5)


def test_a_thin_line_is_not_cord():
    """Longer and surer than the cord: the ligament behind it."""
    probability = cord_map(rows=(100, 150), lateral=(0,))
    probability[0, 10:250, 150:152] = 1.0
    assert np.flatnonzero(clean_tube(probability, 3.3).cord.any(axis=(0, 2))).tolist() == list(range(100, 150))


def test_noise_does_not_matter():
    probability = cord_map()
    truth = probability > 0.5
    noise = np.random.default_rng(5).random(probability.shape)
    probability[(noise < 0.01) & ~truth] = 0.9
    probability[(noise > 0.99) & truth] = 0.1
    wrong = clean_tube(probability, 3.3).cord != truth
    columns = np.nonzero(wrong)[2] - middle_at(np.nonzero(wrong)[1])
    assert np.abs(columns).max() < 9  # only what touches the cord
    assert wrong.sum() < 0.03 * truth.sum()


def test_holes_are_filled():
    probability = cord_map()
    truth = probability > 0.5
    probability[1, 104:108, 113:115] = 0.1
    assert truth[1, 103:109, 112:116].all()
    np.testing.assert_array_equal(clean_tube(probability, 3.3).cord, truth)


# --- too little ---


def test_a_short_cord_is_doubted():
    assert clean_tube(cord_map(rows=(100, 165)), 3.3).doubts == ()
    (doubt,) = clean_tube(cord_map(rows=(100, 150)), 3.3).doubts
    assert int(doubt.split()[1]) == pytest.approx(50, abs=2)


@pytest.mark.parametrize("shape", [(1, 256, 256), (5, 256, 256)])
def test_no_cord_is_refused(shape):
    probability = np.full(shape, 0.02, np.float32)
    with pytest.raises(InputError, match=r"No spinal cord was found in the image\. .*sagittal T2.*--cord"):
        clean_tube(probability, 3.3)
    probability[:, 100:125, 100:108] = 0.9
    with pytest.raises(InputError, match=r"25 mm long\)\. .*--cord"):
        clean_tube(probability, 3.3)
    probability[:] = 0.9
    with pytest.raises(InputError, match="No spinal cord"):
        clean_tube(probability, 3.3)


def test_slices_beside_the_middle_and_at_the_edge_are_doubted():
    def doubts(first, depth):
        probability = np.zeros((3, 120, 60))
        probability[1, 10:110, first : first + depth] = 0.9
        return " ".join(clean_tube(probability, 3.3).doubts)

    assert "beside its middle" not in doubts(20, 7)
    assert "only 4 mm deep" in doubts(20, 4)
    assert "front edge" in doubts(0, 7)
    assert "back edge" in doubts(53, 7)
    assert "edge" not in doubts(20, 7)
