"""AnoCurve and scores against hand-computed means."""

import numpy as np
import pytest

from U2ADLib.config import ScoreConfig
from U2ADLib.curve import anocurve, patient_peak, patient_score, peak, segment_scores, volume_curve
from U2ADLib.roi.centreline import Centreline
from U2ADLib.roi.segments import Segment

ROWS, COLUMNS = np.mgrid[:256, :256].astype(float)


def straight(width=8):
    """Rows 50 … 149, columns from 100: s = row − 49.5."""
    mask = np.zeros((256, 256), bool)
    mask[50:150, 100 : 100 + width] = True
    return mask


def bent(radius=90):
    return (np.abs(np.hypot(ROWS - 128, COLUMNS - 40) - radius) <= 4) & (np.abs(ROWS - 128) <= 60)


def tilted(degrees):
    angle = np.radians(degrees)
    along = (ROWS - 128) * np.cos(angle) + (COLUMNS - 128) * np.sin(angle)
    across = (COLUMNS - 128) * np.cos(angle) - (ROWS - 128) * np.sin(angle)
    return (np.abs(across) <= 4) & (np.abs(along) <= 50), along, across


@pytest.mark.parametrize("position", ["arc", "rows"])
@pytest.mark.parametrize("mask", [straight(), bent(), tilted(30)[0], tilted(-45)[0]], ids=["0", "bent", "30", "-45"])
def test_a_constant_map_gives_a_constant_curve(mask, position):
    s, value = anocurve(
        np.where(mask, 0.37, 99.0), mask, Centreline.from_cord(mask[None]), ScoreConfig(position=position)
    )
    assert np.all(np.diff(s) > 0)
    assert np.isfinite(value).mean() > 0.97
    np.testing.assert_allclose(value[np.isfinite(value)], 0.37, rtol=1e-9)


@pytest.mark.parametrize("position", ["arc", "rows"])
def test_a_block_gives_its_share_of_the_width(position):
    """4 of 8 columns with the value 0.6 in rows 80 … 91."""
    mask = straight()
    anomaly = np.zeros((256, 256))
    anomaly[80:92, 102:106] = 0.6
    s, value = anocurve(anomaly, mask, Centreline.from_cord(mask[None]), ScoreConfig(position=position))
    inside = (s > 30.4) & (s < 41.6)  # the centres of its first and last row
    np.testing.assert_allclose(value[inside], 0.3, atol=1e-6)
    np.testing.assert_allclose(value[(s < 29.6) | (s > 42.4)], 0, atol=1e-6)
    assert np.interp(80, s + 49.5, value) == pytest.approx(0.3, abs=0.01)  # at row 80 in mm from the cord's top


def test_rows_is_the_papers_formula():
    rng = np.random.default_rng(1)
    mask, *_ = tilted(20)
    anomaly = rng.random((256, 256))
    line = Centreline.from_cord(mask[None])
    s, value = anocurve(anomaly, mask, line, ScoreConfig(position="rows"))
    points, _ = line.at(s)
    np.testing.assert_allclose(points[:, 0], np.round(points[:, 0]), atol=1e-3)  # positions are image rows
    for row, found in zip(np.round(points[:, 0]).astype(int), value, strict=True):
        assert found == pytest.approx(anomaly[row][mask[row]].mean())


@pytest.mark.parametrize("degrees", [0, 30, -45])
def test_arc_averages_across_the_cord_whatever_its_tilt(degrees):
    """A band across the cord, 12 mm long: in a tilted cord its image rows mix band and no band."""
    mask, along, _ = tilted(degrees)
    anomaly = np.where(np.abs(along) <= 6, 0.8, 0.0)
    line = Centreline.from_cord(mask[None])
    middle = line.project(np.array([[128.0, 128.0]]))[0][0]
    s, value = anocurve(anomaly, mask, line)
    np.testing.assert_allclose(value[np.abs(s - middle) < 4.5], 0.8, atol=0.02)
    np.testing.assert_allclose(value[np.abs(s - middle) > 7.5], 0, atol=0.02)
    above_half = s[value > 0.4]
    assert np.ptp(above_half) == pytest.approx(12, abs=1)


def test_positions_are_half_millimetres():
    s, _ = anocurve(straight() * 1.0, straight(), Centreline.from_cord(straight()[None]))
    assert s[0] == 0
    np.testing.assert_allclose(np.diff(s), 0.5)
    assert s[-1] == pytest.approx(100, abs=1)


@pytest.mark.parametrize("position", ["arc", "rows"])
def test_no_value_where_the_cord_is_narrower_than_2_mm(position):
    whole, mask = straight(), straight()
    mask[70:90] = False  # a gap in this slice
    mask[110:120, 101:] = False  # 1 px
    mask[130:140, 102:] = False  # 2 px
    s, value = anocurve(np.ones((256, 256)), mask, Centreline.from_cord(whole[None]), ScoreConfig(position=position))
    row = s + 49.5
    assert np.isnan(value[(row > 71) & (row < 88)]).all()
    assert np.isnan(value[(row > 111) & (row < 118)]).all()
    assert np.isfinite(value[(row > 131) & (row < 138)]).all()


def three_slices():
    """Blocks of different height in three slices of one cord; the last slice shows the upper half only."""
    mask = np.stack([straight()] * 3)
    mask[2, 100:] = False
    anomaly = np.zeros((3, 256, 256))
    anomaly[0, 60:70, 100:108] = 0.2
    anomaly[1, 62:70, 100:104] = 0.8  # half the width
    anomaly[1, 120:130, 100:108] = 0.1
    anomaly[2, 80:90, 100:108] = 0.3
    line = Centreline.from_cord(mask)
    return volume_curve(anomaly, mask, line, (4, 6, 9)), line


def test_maximum_over_the_slices_and_where_it_is():
    curve, _ = three_slices()
    assert curve.values.shape == (3, len(curve.s_mm))
    at = {row: np.abs(curve.s_mm - (row - 49.5)).argmin() for row in (60, 65, 85, 125)}
    found = {row: (round(float(curve.maximum[k]), 3), int(curve.slice_of_maximum[k])) for row, k in at.items()}
    assert found == {60: (0.2, 4), 65: (0.4, 6), 85: (0.3, 9), 125: (0.1, 6)}
    assert np.isnan(curve.values[2, at[125]])


def test_segment_and_patient_scores():
    """Eq. 1 and Eq. 2."""
    curve, _ = three_slices()
    segments = (Segment(3, "C2-3", 0, 25), Segment(4, "C3-4", 25, 60), Segment(5, "C4-5", 60, 90))
    scores = segment_scores(curve, segments)
    assert scores == pytest.approx({"C2-3": 0.4, "C3-4": 0.3, "C4-5": 0.1}, abs=1e-6)
    assert patient_score(curve) == pytest.approx(0.4)
    assert curve.s_mm[peak(curve, 60, 90)] == pytest.approx(70.5, abs=0.6)


def test_what_lies_near_the_image_s_edge_does_not_count_for_the_patient():
    """The image begins at row 40 and ends at row 160: of rows 50 … 149 those from 70 to 130 count, and a segment."""
    mask = straight()[None]
    anomaly = np.zeros((1, 256, 256))
    for rows, value in ((slice(52, 58), 0.9), (slice(80, 90), 0.3), (slice(140, 148), 0.7)):
        anomaly[0, rows, 100:108] = value
    line, near = Centreline.from_cord(mask), ScoreConfig(edge_mm=30)

    def judged(config=near, edge_rows=(40.0, 160.0), **more):
        return volume_curve(anomaly, mask, line, (3,), config, edge_rows=edge_rows, **more)

    curve = judged()
    at = curve.s_mm[curve.counted] + 49.5
    assert (at.min(), at.max()) == (pytest.approx(70, abs=0.5), pytest.approx(130, abs=0.5))
    assert patient_score(curve) == pytest.approx(0.3)
    assert curve.s_mm[patient_peak(curve)] + 49.5 == pytest.approx(85, abs=6)
    assert np.nanmax(curve.maximum) == pytest.approx(0.9)  # the curve itself shows everything
    # A segment counts wherever it lies.
    lowest = Segment(8, "C7-T1", 85, 100)
    assert patient_score(judged(segments=(lowest,))) == pytest.approx(0.7)
    # The paper's score takes all of the cord, and so does any where nothing else would be left.
    assert patient_score(judged(ScoreConfig())) == pytest.approx(0.9)
    assert patient_score(judged(edge_rows=(45.0, 95.0))) == pytest.approx(0.9)


def test_a_segment_belongs_to_its_start_and_not_to_its_stop():
    curve, _ = three_slices()
    at = curve.s_mm[np.nanargmax(curve.maximum)]
    scores = segment_scores(curve, (Segment(3, "C2-3", at - 0.5, at), Segment(4, "C3-4", at, at + 0.5)))
    assert scores["C3-4"] == pytest.approx(0.4)
    assert scores["C2-3"] < 0.4


def test_places_that_no_slice_shows_have_no_score():
    mask = straight()
    line = Centreline.from_cord(mask[None])
    seen = mask.copy()
    seen[100:] = False
    curve = volume_curve(np.ones((1, 256, 256)), seen[None], line, (3,))
    assert segment_scores(curve, (Segment(3, "C2-3", 0, 40), Segment(8, "C7-T1", 60, 80))) == {"C2-3": 1.0}
    assert (curve.slice_of_maximum[curve.s_mm > 60] == -1).all()
    assert np.isnan(curve.maximum[curve.s_mm > 60]).all()
    assert patient_score(curve) == 1


def test_a_compressed_cord_does_not_drop_out_of_the_curve_when_its_border_is_eroded():
    """3 mm wide: one pixel is left of it, and the curve is the mean over that pixel."""
    cord = np.zeros((1, 256, 256), bool)
    cord[0, 60:160, 120:123] = True
    line = Centreline.from_cord(cord)
    anomaly = np.where(cord, 0.2, 0)
    anomaly[0, 100:110, 121] = 0.9
    curve = volume_curve(anomaly, cord, line, (0,), ScoreConfig(erosion_px=1))
    inside = (curve.s_mm > 42) & (curve.s_mm < 48)
    np.testing.assert_allclose(curve.maximum[inside], 0.9, atol=1e-6)
    assert np.isfinite(curve.maximum[1:-1]).all()  # at its ends the cross-section is half outside
