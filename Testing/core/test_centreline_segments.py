"""Centreline, segments and region against tubes whose geometry is known in mm."""

from types import SimpleNamespace

import numpy as np
import pytest

from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.errors import InputError, UsageError
from U2ADLib.io import read_volume
from U2ADLib.roi.centreline import Centreline
from U2ADLib.roi.labels import Discs, read_cord, read_discs
from U2ADLib.roi.region import Region, analysed_slices, middle_slice, region_from_labels, without_sides
from U2ADLib.roi.segments import Segment, label_segments, segments_from_discs
from U2ADLib.sagittal import standardise
from U2ADLib.volume import Volume

ROWS, COLUMNS = np.mgrid[:256, :256].astype(float)
CENTRE = np.array([127.3, 126.4])


def straight_tube(tilt, half_length=60.0, width=7.0):
    """A tube tilted by `tilt` degrees through CENTRE, its direction and its normal (pointing backwards)."""
    angle = np.radians(tilt)
    along, behind = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    offset = np.stack([ROWS, COLUMNS], axis=-1) - CENTRE
    return (np.abs(offset @ along) <= half_length) & (np.abs(offset @ behind) <= width / 2), along, behind


def bent_tube(radius, half_sweep, width=7.0):
    """A circular arc that bulges backwards (to larger columns)."""
    rows, columns = ROWS - CENTRE[0], COLUMNS - (CENTRE[1] - radius)
    return (np.abs(np.hypot(rows, columns) - radius) <= width / 2) & (
        np.abs(np.arctan2(rows, columns)) <= np.radians(half_sweep)
    )


@pytest.mark.parametrize("tilt", [-60, -20, 0, 10, 45, 60])
def test_straight_tube(tilt):
    mask, along, behind = straight_tube(tilt)
    line = Centreline.from_cord(mask[None])
    assert line.length == pytest.approx(120, abs=1.5)
    assert np.linalg.norm(np.diff(line.points, axis=0), axis=1) == pytest.approx(1, abs=1e-3)
    assert np.abs((line.points - CENTRE) @ behind).max() < 0.5  # half a pixel
    angles = np.degrees(np.arccos(np.clip(line.tangents @ along, -1, 1)))
    assert angles.max() < 1.5
    assert angles[10:-10].max() < 0.7
    assert line.covered.all()


@pytest.mark.parametrize(("radius", "half_sweep"), [(60, 60), (100, 40), (150, 40)])
@pytest.mark.parametrize("gap_rows", [0, 12])
def test_circular_arc_also_across_a_gap(radius, half_sweep, gap_rows):
    mask = bent_tube(radius, half_sweep)
    mask[140 : 140 + gap_rows] = False
    line = Centreline.from_cord(mask[None])
    assert line.length == pytest.approx(2 * np.radians(half_sweep) * radius, abs=1.5)
    from_centre = line.points - (CENTRE - [0, radius])
    assert np.hypot(*from_centre.T) == pytest.approx(radius, abs=0.5)  # half a pixel
    true = np.stack([from_centre[:, 1], -from_centre[:, 0]], axis=1) / np.hypot(*from_centre.T)[:, None]
    angles = np.degrees(np.arccos(np.clip((true * line.tangents).sum(axis=1), -1, 1)))
    assert angles.max() < 2.5
    assert np.count_nonzero(~line.covered) == pytest.approx(gap_rows, abs=2)


def test_an_obliquely_cut_end_does_not_bend_the_centreline():
    """The window cuts a cord along image rows, not across the cord."""
    mask, along, behind = straight_tube(30, half_length=200)
    mask[:70], mask[180:] = False, False
    line = Centreline.from_cord(mask[None])
    assert np.abs((line.points - CENTRE) @ behind).max() < 0.6
    assert np.degrees(np.arccos(np.clip(line.tangents @ along, -1, 1))).max() < 4.5


def test_all_slices_make_one_centreline():
    mask, _, _ = straight_tube(0, width=9)
    upper, lower = mask.copy(), mask.copy()
    upper[130:], lower[:130] = False, False
    both = Centreline.from_cord(np.stack([upper, lower]))
    np.testing.assert_allclose(both.points, Centreline.from_cord(mask[None]).points, atol=0.05)


def test_projection_of_known_points():
    mask = np.zeros((1, 256, 256), bool)
    mask[0, 50:150, 100:107] = True  # rows 49.5 … 149.5, middle column 103
    line = Centreline.from_cord(mask)
    s, behind = line.project(np.array([[49.5, 103], [100, 103], [100.25, 110], [80, 95], [39.5, 103], [159.5, 100]]))
    np.testing.assert_allclose(s, [0, 50.5, 50.75, 30.5, -10, 110], atol=0.1)
    np.testing.assert_allclose(behind, [0, 0, 7, -8, 0, -3], atol=0.05)


def test_projection_is_perpendicular_on_a_curve():
    line = Centreline.from_cord(bent_tube(100, 40)[None])
    angle = np.radians(np.array([-30, 0, 12.3, 35]))
    for distance in (-12, 0, 12):
        radius = 100 + distance
        points = CENTRE - [0, 100] + radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
        s, behind = line.project(points)
        np.testing.assert_allclose(np.diff(s), 100 * np.diff(angle), atol=0.5)
        np.testing.assert_allclose(behind, distance, atol=0.5)


def test_positions_and_points_are_inverse():
    line = Centreline.from_cord(bent_tube(100, 40)[None])
    s = np.array([-8, 0, 13.4, 77.7, line.length, line.length + 5])
    points, tangents = line.at(s)
    np.testing.assert_allclose(line.project(points)[0], s, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(tangents, axis=1), 1)


@pytest.mark.parametrize("rows", [0, 1, 6])
def test_too_little_cord_is_refused(rows):
    mask = np.zeros((2, 256, 256), bool)
    mask[:, 100 : 100 + rows, 100:107] = True
    with pytest.raises(InputError, match="too short"):
        Centreline.from_cord(mask)


# --- segments ---


def straight_cord(first=50, last=200):
    mask = np.zeros((3, 256, 256), bool)
    mask[:, first:last, 100:107] = True
    return mask


def discs_at(rows, column=92):
    return {number: np.array([1.0, row, column]) for number, row in zip(range(3, 9), rows, strict=True)}


def test_boundaries_lie_midway_between_discs():
    line = Centreline.from_cord(straight_cord(50, 200))
    segments, missing = segments_from_discs(line, discs_at([69.5, 87.5, 103.5, 119.5, 133.5, 149.5]))
    assert missing == ()
    assert [segment.name for segment in segments] == list(SEGMENT_NAMES.values())
    expected = [(11, 29), (29, 46), (46, 62), (62, 77), (77, 92), (92, 108)]  # the top is at row 49.5
    np.testing.assert_allclose([(s.start_mm, s.stop_mm) for s in segments], expected, atol=0.1)


def test_segments_are_cut_across_a_tilted_cord():
    """Disc tips 10 mm in front of a cord tilted by 45°: their position is that of the perpendicular."""
    mask, along, behind = straight_tube(45)
    line = Centreline.from_cord(mask[None])
    points = {n: CENTRE + s * along - 10 * behind for n, s in zip(range(3, 9), range(-40, 60, 18), strict=False)}
    segments, _ = segments_from_discs(line, points)
    start = line.project(CENTRE[None])[0][0]
    np.testing.assert_allclose([s.start_mm - start for s in segments], np.arange(-49, 59, 18), atol=0.3)


def test_a_segment_half_outside_the_cord_is_missing():
    rows = [69.5, 87.5, 105.5, 123.5, 141.5, 159.5]  # C2-3 spans rows 60.5 … 78.5, C7-T1 150.5 … 168.5
    line = Centreline.from_cord(straight_cord(71, 158))
    segments, missing = segments_from_discs(line, discs_at(rows))
    assert missing == ("C2-3", "C7-T1")
    assert [segment.number for segment in segments] == [4, 5, 6, 7]
    line = Centreline.from_cord(straight_cord(68, 161))
    assert segments_from_discs(line, discs_at(rows))[1] == ()


def test_a_segment_in_a_gap_is_missing():
    cord = straight_cord()
    cord[:, 98:112] = False  # 14 of the 18 rows of C4-5
    line = Centreline.from_cord(cord)
    _, missing = segments_from_discs(line, discs_at([69.5, 87.5, 105.5, 123.5, 141.5, 159.5]))
    assert missing == ("C4-5",)


def test_an_unlabelled_disc_costs_its_own_segment_only():
    line = Centreline.from_cord(straight_cord())
    discs = discs_at([69.5, 87.5, 103.5, 119.5, 133.5, 149.5])
    del discs[5]
    segments, missing = segments_from_discs(line, discs)
    assert missing == ("C4-5",)
    spans = {segment.name: (segment.start_mm, segment.stop_mm) for segment in segments}
    assert spans["C3-4"] == pytest.approx((29, 47), abs=0.1)  # 9 mm below its disc, as above it
    assert spans["C5-6"] == pytest.approx((63, 77), abs=0.1)


def test_a_lone_disc_makes_no_segment():
    line = Centreline.from_cord(straight_cord())
    segments, missing = segments_from_discs(line, {4: np.array([87.5, 92])})
    assert segments == ()
    assert missing == tuple(SEGMENT_NAMES.values())


def test_discs_that_do_not_follow_each_other_are_refused():
    line = Centreline.from_cord(straight_cord())
    with pytest.raises(InputError, match="C3-4 and C4-5"):
        segments_from_discs(line, discs_at([69.5, 103.5, 87.5, 119.5, 133.5, 149.5]))


def test_segment_volumes():
    cord = straight_cord()
    cord[0] = False
    line = Centreline.from_cord(cord)
    labels = label_segments(cord, line, (Segment(3, "C2-3", 10, 25), Segment(8, "C7-T1", 100, 130)))
    assert labels.dtype == np.uint8
    assert np.bincount(labels.ravel(), minlength=9)[[3, 8]].tolist() == [2 * 7 * 15, 2 * 7 * 30]
    rows = np.flatnonzero((labels == 3).any(axis=(0, 2)))
    assert (rows[0], rows[-1]) == (60, 74)  # s = row − 49.5
    assert not labels[~cord].any()


# --- slices ---


def slices_of_width(widths, rows=slice(50, 150)):
    cord = np.zeros((len(widths), 256, 256), bool)
    for plane, width in zip(cord, widths, strict=True):
        plane[rows, 100 : 100 + width] = True
    return cord


def test_slices_with_enough_cord():
    cord = slices_of_width([0, 3, 4, 7, 8, 6, 4, 1])
    assert analysed_slices(cord) == (2, 3, 4, 5, 6)
    assert analysed_slices(cord, "middle") == (4,)
    assert analysed_slices(cord, 1) == (4,)
    assert analysed_slices(cord, 2) == (3, 4)  # 7 px shows more cord than 6
    assert analysed_slices(cord, 3) == (3, 4, 5)
    assert analysed_slices(cord, 20) == (2, 3, 4, 5, 6)
    assert middle_slice(slices_of_width([0, 5, 5, 5, 0])) == 2


def test_wide_over_half_of_the_volumes_cord():
    cord = slices_of_width([7, 0, 0])
    cord[1, 50:100, 100:107] = True  # exactly half of the 100 rows
    cord[2, 50:99, 100:107] = True
    assert analysed_slices(cord) == (0, 1)


def test_slices_that_cannot_be_chosen():
    with pytest.raises(InputError, match="at least 4 px"):
        analysed_slices(slices_of_width([3, 3]))
    with pytest.raises(InputError, match="at least 4 px"):
        analysed_slices(slices_of_width([0, 0]), "middle")
    for rule in ("some", 0, -1, 2.5):
        with pytest.raises(UsageError, match="'all', 'middle'"):
            analysed_slices(slices_of_width([7]), rule)


# --- region ---


def stack_of(shape):
    """A stack whose input is a grid in the stack's own orientation: 1 mm pixels, slices 3 mm apart."""
    grid = SimpleNamespace(
        slice_spacing_mm=3.0,
        to_stack=lambda array, order: array,
        ras_to_stack=lambda points: np.asarray(points) / [3, 1, 1],
    )
    return SimpleNamespace(grid=grid, images=np.zeros(shape))


def test_region_from_cord_and_discs():
    cord = straight_cord()
    discs = Discs({n: p * [3, 1, 1] for n, p in discs_at(np.arange(69.5, 165, 16)).items()}, "sct", ("Disc labels: …",))
    region = region_from_labels(stack_of(cord.shape), cord, discs)
    np.testing.assert_array_equal(region.cord, cord)
    np.testing.assert_allclose(region.discs[3], [1, 69.5, 92])
    assert (len(region.segments), region.missing, region.disc_convention) == (6, (), "sct")
    assert region.notes == discs.notes
    assert np.count_nonzero(region.segment_labels() == 5) == 3 * 7 * 16


def test_region_of_a_clinical_volume():
    """0.5 × 0.5 × 3.3 mm: a cord 7 mm deep and 150 mm long, discs 16 mm apart, keep their size in mm."""
    affine = np.array([[-3.3, 0, 0, 5], [0, 0, -0.5, 60], [0, -0.5, 0, 90], [0, 0, 0, 1]])
    volume = Volume(np.random.default_rng(3).random((5, 400, 300)), affine)
    cord = np.zeros(volume.array.shape, bool)
    cord[1:4, 60:360, 120:134] = True
    marks = np.zeros(volume.array.shape, np.uint8)
    for number in range(3, 9):
        marks[2, 110 + 32 * (number - 3), 104] = number
    discs = read_discs(volume.with_array(marks))
    stack = standardise(volume, cord, discs.points)
    region = region_from_labels(stack, cord, discs)
    assert region.cord.sum(axis=(1, 2)).tolist() == [0, 7 * 150, 7 * 150, 7 * 150, 0]
    assert region.missing == ()
    np.testing.assert_allclose([s.stop_mm - s.start_mm for s in region.segments], 16, atol=0.05)
    # C2/3 is 50 rows = 25 mm below the top of the cord, C2-3 begins 8 mm above it.
    assert region.segments[0].start_mm == pytest.approx(25.25 - 8, abs=0.3)
    assert np.bincount(region.segment_labels().ravel(), minlength=9)[3:].tolist() == pytest.approx(
        [3 * 7 * 16] * 6, abs=3 * 7
    )
    assert analysed_slices(region.cord) == (1, 2, 3)


def test_region_without_discs_has_no_segments():
    region = region_from_labels(stack_of((3, 256, 256)), straight_cord())
    assert isinstance(region, Region)
    assert region.segments == ()
    assert region.missing == tuple(SEGMENT_NAMES.values())
    assert not region.segment_labels().any()


def test_discs_of_another_image_are_refused():
    discs = {n: p * [3, 1, 1] for n, p in discs_at(np.arange(69.5, 165, 16), column=30).items()}
    with pytest.raises(InputError, match="73 mm away from the cord"):
        region_from_labels(stack_of((3, 256, 256)), straight_cord(), Discs(discs, "sct"))
    discs = {n: np.array([50.0, p[1], p[2]]) for n, p in discs_at(np.arange(69.5, 165, 16)).items()}  # 44 mm beside
    with pytest.raises(InputError, match="away from the cord"):
        region_from_labels(stack_of((3, 256, 256)), straight_cord(), Discs(discs, "sct"))


def test_discs_behind_the_cord_are_noted():
    discs = {n: p * [3, 1, 1] for n, p in discs_at(np.arange(69.5, 165, 16), column=115).items()}
    region = region_from_labels(stack_of((3, 256, 256)), straight_cord(), Discs(discs, "sct"))
    assert any("Behind the cord" in note and "C7/T1" in note for note in region.notes)


@pytest.mark.parametrize("person", ["11", "21", "24"])
def test_segments_of_real_necks(shared_data, person):
    stem = shared_data / "errsm" / f"sub-errsm{person}" / "anat" / f"sub-errsm{person}_T2w"
    volume = read_volume(f"{stem}.nii.gz")
    cord = read_cord(volume, read_volume(f"{stem}_label-SC_seg.nii.gz"))
    discs = read_discs(read_volume(f"{stem}_label-discs_dlabel.nii.gz"))
    assert (cord.convention, discs.convention) == ("sct", "sct")
    stack = standardise(volume, cord.array, discs.points)
    region = region_from_labels(stack, cord.array, discs)
    assert region.missing == ()
    for segment, (number, point) in zip(region.segments, sorted(region.discs.items()), strict=True):
        s = region.centreline.project(point[None, 1:])[0][0]
        assert number == segment.number
        assert segment.start_mm < s < segment.stop_mm
        assert 13 <= segment.stop_mm - segment.start_mm <= 22
    # An independent reader marked the middle of C2 on the cord: the upper end of C2-3.
    landmarks = read_volume(f"{stem}_label-landmarks_C2mid_T2mid.nii.gz")
    middle_of_c2 = stack.grid.ras_to_stack(landmarks.to_ras(np.argwhere(landmarks.array == 2)))
    s = region.centreline.project(middle_of_c2[:, 1:])[0][0]
    assert region.segments[0].start_mm == pytest.approx(s, abs=5)


def test_a_found_cord_without_its_sides():
    """Slices 1 mm apart lose the pixels that a neighbour does not show; thicker ones stay as they are."""
    cord = np.zeros((5, 8, 8), bool)
    cord[1:4, 2:6, 2:6] = True
    cord[2, 0] = True
    inner = without_sides(cord, 1.0)
    assert inner[2, 2:6, 2:6].all()
    assert inner.sum() == 16
    assert without_sides(cord, 1.2) is cord
    assert without_sides(cord, 0.4)[2].sum() == 0  # two slices on either side
    # A volume of few slices that all show the cord has no sides.
    for count in (1, 2, 3):
        assert without_sides(cord[2:3].repeat(count, 0), 0.5).all(where=cord[2])
