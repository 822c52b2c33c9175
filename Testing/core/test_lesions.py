"""Lesions of known size, in mm, in cords of known geometry."""

from dataclasses import replace

import numpy as np
import pytest

from U2ADLib.config import ScoreConfig
from U2ADLib.curve import segment_scores, volume_curve
from U2ADLib.lesions import COLUMNS, find_lesions, lesion_table
from U2ADLib.roi.centreline import Centreline
from U2ADLib.roi.region import Region
from U2ADLib.roi.segments import Segment
from U2ADLib.scoring.evidence import Evidence

SPACING = 3.0
SLICES = (2, 3, 4)
# s = row − 39.5: C2-3 spans rows 50 … 69, C3-4 70 … 89, …, C7-T1 150 … 169
SEGMENTS = tuple(
    Segment(number, name, 10.5 + 20 * k, 30.5 + 20 * k)
    for k, (number, name) in enumerate({3: "C2-3", 4: "C3-4", 5: "C4-5", 6: "C5-6", 7: "C6-7", 8: "C7-T1"}.items())
)


def region(segments=SEGMENTS):
    """Rows 40 … 189, 8 px wide, in slices 1 … 5 of 7."""
    cord = np.zeros((7, 256, 256), bool)
    cord[1:6, 40:190, 100:108] = True
    return Region(cord, Centreline.from_cord(cord), segments)


def table(anomaly, where=None, signal=None, segment=0.2, patient=0.3, position="arc"):
    """Lesion table of a filtered map given on the slices 2, 3 and 4."""
    where = where or region()
    curve = volume_curve(anomaly, where.cord[list(SLICES)], where.centreline, SLICES, ScoreConfig(position=position))
    lesions = find_lesions(anomaly, curve, where, segment, patient)
    signal = np.ones(where.cord.shape) if signal is None else signal
    # As if a mask one pixel smaller halved everything, and every pixel were 10 % brighter than the cord around it.
    evidence = Evidence(anomaly, anomaly / 2, np.full(anomaly.shape, 0.1, np.float32))
    uncertainty = np.full(anomaly.shape, 0.04, np.float32)
    smaller = replace(curve, values=curve.values / 2)
    rows = lesion_table(
        lesions, curve, where, signal, SPACING, uncertainty=uncertainty, evidence=evidence, smaller_curve=smaller
    )
    return rows, lesions, curve


def empty():
    return np.zeros((3, 256, 256), np.float32)


def test_a_block_in_one_slice():
    """4 × 12 mm at C4-5 (rows 90 … 109)."""
    anomaly = empty()
    anomaly[1, 95:107, 102:106] = 0.8
    rows, lesions, _ = table(anomaly)
    (row,) = rows
    assert tuple(row) == COLUMNS
    assert row["label"] == 1
    assert row["volume [mm3]"] == 4 * 12 * SPACING
    assert row["length [mm]"] == pytest.approx(12, abs=0.01)
    assert row["width [mm]"] == pytest.approx(4, abs=0.01)
    assert row["max_equivalent_diameter [mm]"] == pytest.approx(2 * np.sqrt(4 * SPACING / np.pi), rel=0.01)
    assert row["max_axial_damage_ratio []"] == pytest.approx(4 / 40, rel=0.01)  # of five slices of 8 px
    assert (row["segment"], row["slices"]) == ("C4-5", "3")
    assert row["peak_score []"] == pytest.approx(0.4)  # half the width
    assert row["peak_score_smaller_mask []"] == pytest.approx(0.2)  # half of that
    assert row["uncertainty []"] == pytest.approx(0.2)
    assert row["local_gain []"] == pytest.approx(0.1)
    np.testing.assert_array_equal(lesions.labels > 0, anomaly > 0)
    assert lesions.segments == (("C4-5",),)


def test_findings_that_overlap_in_neighbouring_slices_are_one_lesion():
    anomaly = empty()
    anomaly[0, 95:101, 102:106] = 0.8
    anomaly[1, 95:107, 102:106] = 0.8
    anomaly[2, 107:110, 106:108] = 1.6  # touches by a corner only
    (row,), lesions, _ = table(anomaly)
    assert row["slices"] == "2 3 4"
    assert row["volume [mm3]"] == (24 + 48 + 6) * SPACING
    assert row["length [mm]"] == pytest.approx(15, abs=0.01)
    assert row["width [mm]"] == pytest.approx(4, abs=0.01)  # in one slice
    assert row["max_axial_damage_ratio []"] == pytest.approx(8 / 40, rel=0.01)
    assert set(np.unique(lesions.labels)) == {0, 1}


def test_findings_that_do_not_touch_are_two_lesions_strongest_first():
    anomaly = empty()
    anomaly[0, 95:107, 102:106] = 0.6
    anomaly[1, 109:119, 102:106] = 0.9  # two rows farther down
    rows, lesions, _ = table(anomaly)
    assert [row["slices"] for row in rows] == ["3", "2"]
    assert [row["peak_score []"] for row in rows] == pytest.approx([0.45, 0.3])
    assert lesions.labels[1].max() == 1
    assert lesions.labels[0].max() == 2


def test_slices_that_are_not_neighbours_do_not_join():
    where = region()
    anomaly = empty()[:2]
    anomaly[:, 95:107, 102:106] = 0.8
    curve = volume_curve(anomaly, where.cord[[1, 3]], where.centreline, (1, 3))
    lesions = find_lesions(anomaly, curve, where, 0.2, 0.3)
    assert lesions.labels.max() == 2


def test_the_extent_is_the_full_width_at_half_maximum():
    """A triangular profile along the cord, peak 1, falling by 0.1 per row: 0.5 is reached 5 rows away."""
    anomaly = empty()
    for row in range(90, 111):
        anomaly[1, row, 100:108] = max(1 - 0.1 * abs(row - 100), 0.05)
    (row,), _, _ = table(anomaly)
    assert row["length [mm]"] == pytest.approx(11, abs=0.01)
    assert row["volume [mm3]"] == 11 * 8 * SPACING


def test_two_peaks_in_one_component_are_two_lesions():
    """The bottom filter leaves nearly the whole cord in one component; each peak has its own extent."""
    anomaly = empty()
    anomaly[1, 40:190, 100:108] = 0.1
    anomaly[1, 60:66] *= 8
    anomaly[1, 134:144] *= 4
    rows, _, _ = table(anomaly)
    assert [(row["segment"], row["length [mm]"]) for row in rows] == [
        ("C2-3", pytest.approx(6, abs=0.01)),
        ("C6-7", pytest.approx(10, abs=0.01)),
    ]


def test_nothing_below_the_threshold_and_no_lesion_without_a_flagged_segment():
    anomaly = empty()
    anomaly[1, 95:107, 102:106] = 0.39  # 0.195 on the curve
    rows, lesions, _ = table(anomaly)
    assert rows == []
    assert not lesions.labels.any()


@pytest.mark.parametrize("position", ["arc", "rows"])
def test_flagged_segments_and_lesions_agree(position):
    """A lesion across the border of two segments names both, and only those over the threshold."""
    rng = np.random.default_rng(8)
    where = region()
    for _ in range(20):
        anomaly = empty()
        for k in range(3):
            row, column, length = rng.integers(50, 150), rng.integers(100, 105), rng.integers(3, 30)
            anomaly[k, row : row + length, column : column + 3] = rng.uniform(0.3, 1.2)
        rows, lesions, curve = table(anomaly, where, position=position)
        scores = segment_scores(curve, SEGMENTS)
        flagged = {name for name, score in scores.items() if score > 0.2}
        assert {name for names in lesions.segments for name in names} == flagged
        assert {name for row in rows for name in row["segment"].split("+") if name} == flagged
        assert lesions.labels.max() == len(rows)


def test_a_lesion_across_a_border_names_both_segments():
    anomaly = empty()
    anomaly[1, 85:95, 100:108] = 0.5
    (row,), _, _ = table(anomaly)
    assert row["segment"] == "C3-4+C4-5"


def test_outside_the_segments_the_patient_threshold_holds():
    anomaly = empty()
    anomaly[0, 175:185, 100:108] = 0.25
    assert table(anomaly)[0] == []
    anomaly *= 2
    (row,), _, _ = table(anomaly)
    assert row["segment"] == ""
    (row,), _, _ = table(anomaly, region(segments=()))
    assert row["length [mm]"] == pytest.approx(10, abs=0.01)


def test_near_the_image_s_edge_only_a_segment_is_flagged():
    anomaly = empty()
    anomaly[0, 95:105, 100:108] = 0.5
    anomaly[1, 175:185, 100:108] = 0.5
    _, _, curve = table(anomaly)
    away = replace(curve, counted=curve.s_mm < 130)
    found = find_lesions(anomaly, away, region(), 0.2, 0.3)
    assert [*found.segments] == [("C4-5",)]
    nothing = replace(curve, counted=np.zeros(len(curve.s_mm), bool))
    assert [*find_lesions(anomaly, nothing, region(), 0.2, 0.3).segments] == [("C4-5",)]
    assert find_lesions(anomaly, nothing, region(segments=()), 0.2, 0.3).segments == ()


def test_signal_change_ratio():
    where = region()
    signal = np.full(where.cord.shape, 50.0)
    signal[:, 150:170] = 200  # C7-T1, with brighter CSF in the outermost pixel of its cord
    signal[:, 150:170, [100, 107]] = 900
    signal[3, 95:107, 102:106] = 320
    anomaly = empty()
    anomaly[1, 95:107, 102:106] = 0.8
    (row,), _, _ = table(anomaly, where, signal)
    assert row["signal_change_ratio []"] == pytest.approx(1.6)
    assert "C7-T1" in row["scr_reference"]


def test_a_lesion_at_the_reference_is_left_out_of_it():
    where = region()
    signal = np.full(where.cord.shape, 200.0)
    signal[:, 152:163] = 400
    anomaly = empty()
    anomaly[:, 152:163, 100:108] = 0.8
    (row,), _, _ = table(anomaly, where, signal)
    assert row["segment"] == "C7-T1"
    assert row["signal_change_ratio []"] == pytest.approx(2)
    anomaly[:, 150:170, 100:108] = 0.8  # nothing unflagged is left
    (row,), _, _ = table(anomaly, where, signal)
    assert row["signal_change_ratio []"] is None
    assert "no unflagged cord" in row["scr_reference"]


def test_no_signal_change_ratio_where_c7_t1_is_not_visible():
    anomaly = empty()
    anomaly[1, 95:107, 102:106] = 0.8
    (row,), _, _ = table(anomaly, region(SEGMENTS[:5]))
    assert row["signal_change_ratio []"] is None
    assert row["scr_reference"] == "none: C7-T1 is not visible"


def test_length_and_width_follow_a_bent_cord():
    """A stripe 3 mm thick over 20° of a cord bent with a radius of 90 mm."""
    rows, columns = np.mgrid[:256, :256].astype(float)
    radius, angle = np.hypot(rows - 128, columns - 40), np.degrees(np.arctan2(rows - 128, columns - 40))
    cord = np.zeros((7, 256, 256), bool)
    cord[1:6] = (np.abs(radius - 90) <= 4) & (np.abs(angle) <= 40)
    where = Region(cord, Centreline.from_cord(cord))
    anomaly = empty()
    anomaly[1, (np.abs(radius - 91) <= 1.5) & (np.abs(angle - 20) <= 10)] = 1
    (row,), _, _ = table(anomaly, where, patient=0.2)
    assert row["length [mm]"] == pytest.approx(np.radians(20) * 91.5, abs=1.5)
    assert row["width [mm]"] == pytest.approx(3, abs=0.7)


def test_values_can_be_written_as_json_and_csv():
    anomaly = empty()
    anomaly[1, 95:107, 102:106] = 0.8
    (row,), _, _ = table(anomaly)
    assert all(type(value) in (int, float, str) for value in row.values())
