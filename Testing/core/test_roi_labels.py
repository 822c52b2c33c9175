"""Cord masks and disc labels: the four conventions, what is refused and what is only noted."""

import numpy as np
import pytest

from U2ADLib.errors import InputError, UsageError
from U2ADLib.io import read_volume
from U2ADLib.roi.labels import DISC_NAMES, read_cord, read_discs
from U2ADLib.volume import Volume, reorient

SHAPE = (40, 60, 120)  # R × A × S, 1 mm
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 1, -100], [0, 0, 0, 1]])
CORD = (slice(14, 26), slice(20, 27), slice(5, 115))  # 12 × 7 × 110 mm
DISC_K = {3: 105, 4: 88, 5: 71, 6: 55, 7: 38, 8: 22}  # voxel along S of the middle of each disc
DISC_J, DISC_DEPTH = 32, 16  # a disc begins in front of the cord


def volume(array, affine=AFFINE):
    return Volume(np.asarray(array), affine)


def cord_array(value=1, dtype=np.uint8):
    array = np.zeros(SHAPE, dtype)
    array[CORD] = value
    return array


IMAGE = volume(np.zeros(SHAPE, np.int16))


def levels():
    """The cord valued by vertebra: level n − 1 above disc n, level n below it."""
    array = cord_array(2)
    for number, k in DISC_K.items():
        array[..., : k + 1][cord_array()[..., : k + 1] > 0] = number
    return array


def disc_points(values=DISC_K):
    array = np.zeros(SHAPE, np.uint8)
    for value, k in zip(values, DISC_K.values(), strict=True):
        array[20, DISC_J, k] = value
    return array


def disc_regions(values, array=None):
    """Discs 12 × 16 × 5 mm whose tip, one voxel at the cord's side, is in the middle."""
    array = np.zeros(SHAPE, np.uint8) if array is None else array
    for value, k in zip(values, DISC_K.values(), strict=True):
        array[14:26, DISC_J : DISC_J + DISC_DEPTH, k - 2 : k + 3] = value
        array[20, DISC_J - 1, k] = value
    return array


def totalspineseg():
    array = np.zeros(SHAPE, np.uint8)
    array[10:30, 16:30, 5:115] = 2
    array[CORD] = 1
    array[10:30, 34:50, 60:70] = 13
    return disc_regions((63, 64, 65, 66, 67, 71), array)


def spineps_semantic():
    array = np.zeros(SHAPE, np.uint8)
    array[10:30, 16:30, 5:115] = 61
    array[CORD] = 60
    return disc_regions((100,) * 6, array)


def spineps_instances():
    array = disc_regions(range(102, 108))
    array[10:30, 34:50, 60:67] = 5
    return array


def vertebral_bodies():
    """C2 … C7 as regions numbered by vertebra, with room for a disc between two of them."""
    array = np.zeros(SHAPE, np.uint8)
    for vertebra, k in zip(range(2, 8), DISC_K.values(), strict=True):
        array[14:26, DISC_J : DISC_J + DISC_DEPTH, k - 6 : k + 7] = vertebra
    return array


CORD_MASKS = {
    "sct": cord_array,
    "sct-levels": levels,
    "totalspineseg": totalspineseg,
    "spineps": spineps_semantic,
}
DISC_LABELS = {
    "sct": disc_points,
    "sct-levels": levels,
    "totalspineseg": totalspineseg,
    "spineps": spineps_instances,
}


# --- cord ---


@pytest.mark.parametrize("convention", CORD_MASKS)
def test_cord_conventions_are_detected(convention):
    cord = read_cord(IMAGE, volume(CORD_MASKS[convention]()))
    assert cord.convention == convention
    np.testing.assert_array_equal(cord.array, cord_array() > 0)
    assert cord.array.dtype == bool
    assert len(cord.notes) == 1  # only the convention


@pytest.mark.parametrize(
    ("array", "convention"),
    [
        (cord_array(255), "sct"),
        (cord_array(1.0, np.float32), "sct"),
        (cord_array(60), "spineps"),
        (np.where(cord_array() > 0, 1, np.where(disc_points() > 0, 63, 0)), "totalspineseg"),
        (np.where(np.arange(120) < 60, 4, 3) * cord_array(), "sct-levels"),
    ],
)
def test_other_cord_values(array, convention):
    cord = read_cord(IMAGE, volume(array))
    assert cord.convention == convention
    np.testing.assert_array_equal(cord.array, cord_array() > 0)


@pytest.mark.parametrize(
    "values", [(1, 2), (2,), (1, 2, 60), (3, 99), (0.5, 3)], ids=lambda values: " ".join(map(str, values))
)
def test_cord_values_that_fit_several_conventions_or_none(values):
    array = cord_array(values[0], np.float32)
    for number, value in enumerate(values):
        array[CORD[0], CORD[1], 5 + 20 * number : 25 + 20 * number] = value
    with pytest.raises(InputError, match="none of the known conventions, or several"):
        read_cord(IMAGE, volume(array))


@pytest.mark.parametrize(("named", "given"), [(a, b) for a in CORD_MASKS for b in CORD_MASKS if a != b])
def test_a_named_cord_convention_must_fit(named, given):
    if (named, given) in (("totalspineseg", "sct"), ("sct-levels", "sct")):
        return  # cord 1 alone: all three read it the same
    if (named, given) == ("totalspineseg", "sct-levels"):
        given_array = levels()
        given_array[given_array == 2] = 3  # without C1 and C2 there is no 1
        with pytest.raises(InputError, match="not in the convention of TotalSpineSeg"):
            read_cord(IMAGE, volume(given_array), named)
        return
    with pytest.raises(InputError, match="not in the convention"):
        read_cord(IMAGE, volume(CORD_MASKS[given]()), named)


def test_a_named_cord_convention_overrides():
    array = cord_array()
    array[10:30, 16:20, 5:115] = 2  # levels C1 and C2, or cord and canal: cannot be told
    cord = read_cord(IMAGE, volume(array), "totalspineseg")
    np.testing.assert_array_equal(cord.array, cord_array() > 0)
    assert "as asked" in cord.notes[0]
    with pytest.raises(UsageError, match="Unknown label convention"):
        read_cord(IMAGE, volume(array), "fsl")


def test_soft_cord_mask():
    soft = cord_array(1.0, np.float32)
    soft[13], soft[26] = soft[14] * 0.4, soft[25] * 0.51
    cord = read_cord(IMAGE, volume(soft))
    expected = cord_array() > 0
    expected[26] = expected[25]
    np.testing.assert_array_equal(cord.array, expected)
    assert any("soft" in note for note in cord.notes)
    with pytest.raises(InputError, match="too faint"):
        read_cord(IMAGE, volume(np.float32(0.4) * soft))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(SHAPE, np.uint8), "empty"),
        (np.where(cord_array() > 0, np.nan, 0), "NaN"),
        (-cord_array(1, np.int16), "negative"),
        (disc_points(), "no two levels touch"),
        (np.pad(np.ones((4, 4, 4)), [(10, 26), (20, 36), (50, 66)]), "only 4 mm long"),
    ],
    ids=["empty", "NaN", "negative", "discs", "tiny"],
)
def test_cord_masks_that_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        read_cord(IMAGE, volume(array))


def test_mask_stored_in_another_orientation():
    flip = np.diag([-1.0, 1, -1, 1])
    flip[:3, 3] = [SHAPE[0] - 1, 0, SHAPE[2] - 1]
    turned = Volume(levels()[::-1, :, ::-1].transpose(2, 0, 1), (AFFINE @ flip)[:, [2, 0, 1, 3]])
    np.testing.assert_allclose(turned.to_ras(np.zeros(3)), IMAGE.to_ras(np.array([39, 0, 119])))
    cord = read_cord(IMAGE, turned)
    np.testing.assert_array_equal(cord.array, cord_array() > 0)
    assert any("another grid" in note for note in cord.notes)


def test_mask_on_a_coarser_grid_and_partly_outside():
    coarse = AFFINE @ np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] += 0.5  # voxels of 2 mm that cover two voxels of 1 mm each
    array = np.zeros((20, 30, 75), np.uint8)
    array[7:13, 10:13, 5:75] = 1  # the last 15 of 70 rows lie above the image
    cord = read_cord(IMAGE, Volume(array, coarse))
    expected = np.zeros(SHAPE, bool)
    expected[14:26, 20:26, 10:120] = True
    np.testing.assert_array_equal(cord.array, expected)
    assert any("21 % of it lies outside" in note for note in cord.notes)


def test_mask_of_another_image():
    far = AFFINE.copy()
    far[:3, 3] += [0, 0, 300]
    with pytest.raises(InputError, match=r"does not meet the image.*lost the image's geometry"):
        read_cord(IMAGE, volume(cord_array(), far))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_gap_is_named_in_mm(flipped):
    affine = AFFINE @ np.diag([1, 1, 2.0, 1])
    array = cord_array()
    array[:, :, 70:73] = 0  # rows 73 … 114 above it
    if flipped:
        array = array[:, :, ::-1]
        affine = affine @ np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1]])
    cord = read_cord(volume(np.zeros(SHAPE), affine), volume(array, affine))
    np.testing.assert_array_equal(cord.array, array > 0)
    assert any("gap of 6.0 mm, 84 mm below its upper end" in note for note in cord.notes)
    assert any("2 pieces" in note for note in cord.notes)


def test_pieces_are_kept_and_far_specks_removed():
    array = cord_array()
    array[5, 50, 60] = 1  # 9 and 23 mm away from the cord
    array[27, 20, 60] = 1  # 2 mm away
    cord = read_cord(IMAGE, volume(array))
    assert not cord.array[5, 50, 60]
    assert cord.array[27, 20, 60]
    assert np.count_nonzero(cord.array) == 12 * 7 * 110 + 1
    assert any("1 small piece(s)" in note for note in cord.notes)
    assert any("2 pieces" in note for note in cord.notes)


# --- discs ---


def expected_point(convention, number, with_cord):
    k = DISC_K[number]
    if convention == "sct-levels":
        return [19.5, 23, k + 0.5]  # the middle of the cord's cross-section
    if convention == "sct":
        return [20, DISC_J, k]
    if with_cord:
        return [20, DISC_J - 1, k]  # the posterior tip
    box = 12 * DISC_DEPTH * 5
    return (np.array([19.5, DISC_J + (DISC_DEPTH - 1) / 2, k]) * box + [20, DISC_J - 1, k]) / (box + 1)


@pytest.mark.parametrize("with_cord", [False, True])
@pytest.mark.parametrize("convention", DISC_LABELS)
def test_disc_conventions_give_the_same_discs(convention, with_cord):
    discs = read_discs(volume(DISC_LABELS[convention]()), cord=volume(cord_array()) if with_cord else None)
    assert discs.convention == convention
    assert list(discs.points) == [3, 4, 5, 6, 7, 8]
    assert len(discs.notes) == 1
    for number, point in discs.points.items():
        with_tip = with_cord or convention == "totalspineseg"  # its labels hold the cord
        np.testing.assert_allclose(point, IMAGE.to_ras(np.array(expected_point(convention, number, with_tip))))


@pytest.mark.parametrize("codes", ["LPI", "SRA", "AIL", "PSR"])
@pytest.mark.parametrize("convention", DISC_LABELS)
def test_the_order_of_voxels_does_not_matter(convention, codes):
    plain = volume(DISC_LABELS[convention]())
    if convention in ("totalspineseg", "spineps"):
        plain.array[22] = plain.array[20]  # two tips at the same distance
    turned = reorient(plain, codes)[0]
    cord = volume(cord_array())
    expected, found = read_discs(plain, cord=cord), read_discs(turned, cord=reorient(cord, codes)[0])
    for number, point in expected.points.items():
        np.testing.assert_allclose(found.points[number], point, atol=1e-9)
    np.testing.assert_array_equal(
        read_cord(volume(np.zeros(SHAPE)), volume(cord_array())).array,
        read_cord(volume(np.zeros(SHAPE)), reorient(cord, codes)[0]).array,
    )


def test_blobs_and_other_sct_points():
    array = disc_points()
    for k in DISC_K.values():
        array[19:22, DISC_J - 1 : DISC_J + 2, k - 1 : k + 2] = array[20, DISC_J, k]
    array[20, DISC_J, [118, 116, 112, 5, 2]] = [50, 49, 2, 9, 60]
    discs = read_discs(volume(array))
    assert list(discs.points) == list(DISC_NAMES)
    np.testing.assert_allclose(discs.points[5], IMAGE.to_ras(np.array([20, DISC_J, DISC_K[5]])))


@pytest.mark.parametrize(("convention", "by"), [("sct", 1), ("sct-levels", 1), ("totalspineseg", -1), ("spineps", -1)])
def test_levels_can_be_shifted(convention, by):
    plain = read_discs(volume(DISC_LABELS[convention]()))
    shifted = read_discs(volume(DISC_LABELS[convention]()), shift=by)
    assert set(shifted.points) == {n + by for n in range(3, 9)} & set(range(3, 9))
    for number, point in shifted.points.items():
        np.testing.assert_allclose(point, plain.points[number - by])
    assert any(f"renumbered by {by:+d}" in note for note in shifted.notes)


def test_shift_brings_in_labels_from_outside():
    """Labels 2 … 7 that mean C2/3 … C7/T1."""
    discs = read_discs(volume(disc_points(range(2, 8))), shift=1)
    np.testing.assert_allclose(discs.points[3], IMAGE.to_ras(np.array([20, DISC_J, DISC_K[3]])))
    assert list(discs.points) == list(DISC_NAMES)


@pytest.mark.parametrize(("named", "given"), [(a, b) for a in DISC_LABELS for b in DISC_LABELS if a != b])
def test_a_named_disc_convention_must_fit(named, given):
    if {named, given} == {"sct", "sct-levels"}:  # the same numbers: only the shape differs
        message = "too high for the mark of a disc" if named == "sct" else "not vertebral levels"
    else:
        message = "not in the convention"
    with pytest.raises(InputError, match=message):
        read_discs(volume(DISC_LABELS[given]()), named)


def test_a_named_disc_convention_overrides():
    array = spineps_instances()
    array[20, 5, 60] = 60
    discs = read_discs(volume(array), "spineps")
    assert discs.convention == "spineps"
    assert "as asked" in discs.notes[0]
    with pytest.raises(UsageError, match="Unknown label convention"):
        read_discs(volume(array), "fsl")


def marked(**changes):
    """Disc points with single voxels added, as d4=(i, j, k)."""
    array = disc_points()
    for name, at in changes.items():
        array[at] = int(name[1:])
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(SHAPE, np.uint8), "empty"),
        (disc_points() + 0.5 * (disc_points() > 0), "whole numbers"),
        (np.where(disc_points() > 0, np.nan, 0), "NaN"),
        (disc_points((20, 21, 22, 23, 24, 25)), "none of the discs C2/3 … C7/T1, only the values 20, 21"),
        (np.where(disc_points() > 0, 49, 0), "none of the discs C2/3 … C7/T1"),
        (disc_points((30, 31, 32, 33, 34, 35)), "none of the known conventions"),
        (disc_points((3, 5, 4, 6, 7, 8)), "C4/5 is not below C3/4"),
        (disc_points((8, 7, 6, 5, 4, 3)), "out of order"),
        (marked(d4=(20, DISC_J, 75)), "C3/4 is marked twice, 13 mm apart"),
        (marked(d3=(20, DISC_J, 93), d0=(20, DISC_J, 105)), "C2/3 and C3/4 are 5 mm apart"),
        (spineps_semantic(), "SPINEPS semantic mask"),
        (vertebral_bodies(), "too high for the mark of a disc"),
    ],
    ids=[
        "empty",
        "soft",
        "NaN",
        "lumbar",
        "groove",
        "unknown",
        "swapped",
        "reversed",
        "doubled",
        "close",
        "semantic",
        "vertebrae",
    ],
)
def test_disc_labels_that_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        read_discs(volume(array))


def test_too_wide_apart_is_refused():
    with pytest.raises(InputError, match="51 mm apart; possible are 8 to 35 mm"):
        read_discs(volume(disc_points(), AFFINE @ np.diag([1, 1, 3.0, 1])))


def test_unlabelled_discs_are_noted():
    array = disc_points()
    array[array == 5] = 0
    array[array == 8] = 0
    discs = read_discs(volume(array))
    assert list(discs.points) == [3, 4, 6, 7]
    assert "Not labelled: C4/5, C7/T1." in discs.notes


def test_a_speck_beside_a_disc_region_is_ignored():
    array = spineps_instances()
    array[20, 3, 3] = 104
    discs = read_discs(volume(array))
    np.testing.assert_allclose(discs.points[5], read_discs(volume(spineps_instances())).points[5])
    assert any("speck of 1 voxel(s) labelled 104 (C4/5)" in note for note in discs.notes)


def test_some_levels_touch_and_some_discs_do_not():
    """Half levels, half marks: neither convention."""
    array = levels()
    for number in (3, 4, 5, 6, 7):
        array[..., DISC_K[number] - 3 : DISC_K[number] + 4] = 0
    assert read_discs(volume(levels())).convention == "sct-levels"
    with pytest.raises(InputError, match="none of the known conventions, or several"):
        read_discs(volume(array))


# --- real data ---


def test_template_levels_and_discs_agree(shared_data):
    """PAM50: discs from the cord's levels against the template's own disc labels (voxels are 2 mm high)."""
    folder = shared_data / "pam50_small"
    levels = read_discs(read_volume(folder / "PAM50_small_levels.nii.gz"))
    discs = read_discs(read_volume(folder / "PAM50_small_label_disc.nii.gz"))
    assert (levels.convention, discs.convention) == ("sct-levels", "sct")
    for number in DISC_NAMES:
        np.testing.assert_allclose(levels.points[number][2], discs.points[number][2], atol=2)
    tips = read_discs(read_volume(folder / "PAM50_small_label_discPosterior.nii.gz"))
    assert tips.convention == "sct"
    image = read_volume(folder / "PAM50_small_t2.nii.gz")
    cord = read_cord(image, read_volume(folder / "PAM50_small_levels.nii.gz"))
    assert cord.convention == "sct-levels"


def test_real_levels_that_are_one_too_low(shared_data):
    """A level mask whose number 2 lies on the body of C3, against its own body labels and another reader's discs."""
    folder = shared_data / "sct_testing_data"
    levels = read_volume(folder / "t2_seg-manual_labeled.nii.gz")
    bodies = read_volume(folder / "labels.nii.gz")
    body_of_c3 = bodies.to_ras(np.argwhere(bodies.array == 3)[0])[2]
    assert read_discs(levels).points[3][2] < body_of_c3  # "C2/3" below C3: as they stand they are wrong
    discs = read_discs(levels, shift=1)
    whole = read_discs(
        read_volume(shared_data / "errsm" / "sub-sctexample" / "anat" / "sub-sctexample_T2w_label-discs_dlabel.nii.gz")
    )
    for number in (4, 5):
        assert discs.points[number][2] == pytest.approx(whole.points[number][2], abs=3)
