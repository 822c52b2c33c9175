"""Sagittal standardisation: what lies where is known in millimetres beforehand, or from nibabel, SimpleITK, pydicom."""

import itertools

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from U2ADLib.errors import InputError
from U2ADLib.io import read_volume, write_volume
from U2ADLib.sagittal import standardise
from U2ADLib.volume import Volume, reorient

ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*order)
]
# A pixel [slice, row, column] of the canonical image lies at these millimetres.
CANONICAL = np.array([[-1.0, 0, 0, 20], [0, 0, -1.0, 60], [0, -1.0, 0, 100], [0, 0, 0, 1]])


def neck(shape=(7, 300, 280), spacing=(3.3, 1.0, 1.0), dtype=np.int16, seed=0):
    """Random voxels, slices from right to left, rows from head to feet, columns from anterior to posterior."""
    rng = np.random.default_rng(seed)
    return Volume(rng.integers(1, 1000, shape).astype(dtype), CANONICAL @ np.diag([*spacing, 1]), "neck")


def cord_of(volume, rows, columns, slices=slice(2, 5)):
    """A box of cord in a canonical volume."""
    cord = np.zeros(volume.array.shape, bool)
    cord[slices, rows, columns] = True
    return cord


def turned(volume, degrees):
    """The header is turned about an oblique axis, the voxels stay."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([2, -1, 2]) / 3).as_matrix()
    return Volume(volume.array, turn @ volume.affine, volume.name)


def through_files(volume, folder):
    """What nibabel makes of the volume after it was written."""
    write_volume(folder / "written.nii.gz", volume)
    return nibabel.load(folder / "written.nii.gz")


# ---------------------------------------------------------------- the window


def test_one_millimetre_voxels_are_only_moved():
    volume = neck()
    cord = cord_of(volume, slice(20, 240), slice(130, 141))
    stack = standardise(volume, cord)
    # The middle of the cord is row 129.5, column 135; the window's own middle is 127.5.
    np.testing.assert_array_equal(stack.grid.to_stack(volume.array), volume.array[:, 2:258, 7:263])
    assert stack.images.shape == (7, 256, 256)
    assert stack.images.dtype == np.float32
    assert stack.inside.all()
    assert stack.cord_outside_mm == 0
    assert stack.grid.slice_spacing_mm == pytest.approx(3.3)
    np.testing.assert_allclose(stack.grid.stack_to_ras([[0, 0, 0]]), volume.to_ras([[0, 2, 7]]))


def test_the_stack_runs_right_to_left_head_to_feet_front_to_back():
    grid = standardise(neck()).grid
    start = grid.stack_to_ras([[0, 0, 0]])[0]
    for axis, expected in enumerate([(-3.3, 0, 0), (0, 0, -1), (0, -1, 0)]):
        step = np.eye(3)[axis]
        np.testing.assert_allclose(grid.stack_to_ras([step])[0] - start, expected, atol=1e-12)


def test_without_a_cord_the_window_lies_in_the_middle():
    volume = neck()
    np.testing.assert_array_equal(standardise(volume).grid.to_stack(volume.array), volume.array[:, 22:278, 12:268])


def test_a_field_of_view_smaller_than_the_window_is_padded_with_zeros():
    volume = neck((5, 100, 60))
    stack = standardise(volume, cord_of(volume, slice(10, 90), slice(20, 31)))
    assert stack.inside.sum() == 100 * 60
    rows, columns = (np.flatnonzero(stack.inside.any(axis=axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (100, 60)
    assert not stack.images[:, ~stack.inside].any()
    np.testing.assert_array_equal(stack.grid.to_stack(volume.array)[:, stack.inside].reshape(5, 100, 60), volume.array)
    top, bottom = stack.grid.edge_rows
    assert (top, bottom) == (pytest.approx(rows[0] - 0.5), pytest.approx(rows[-1] + 0.5))
    # Padding is not among the values that set the percentiles.
    assert stack.low == pytest.approx(np.percentile(volume.array[2:5], 0.2), rel=1e-6)


def test_a_cord_longer_than_the_window_is_cut_at_both_ends():
    volume = neck((5, 400, 200))
    cord = cord_of(volume, slice(20, 340), slice(90, 101))  # 320 mm; the middle is row 179.5
    stack = standardise(volume, cord)
    assert stack.cord_outside_mm == 64
    assert stack.grid.ras_to_stack(volume.to_ras([[0, 52, 0]]))[0, 1] == pytest.approx(0)


def test_a_cord_longer_than_the_window_is_centred_between_the_outer_discs():
    volume = neck((5, 400, 200))
    cord = cord_of(volume, slice(20, 340), slice(90, 101))
    cord[:, 300:340, 150] = True  # far below: must not pull the window backwards
    discs = {number: volume.to_ras([3, row, 80]) for number, row in ((3, 60), (5, 90), (8, 141))}
    stack = standardise(volume, cord, discs)
    # The middle is row 100.5, column 95: the window reaches from row -27 to 228 and from column -33 to 222.
    np.testing.assert_allclose(stack.grid.ras_to_stack(volume.to_ras([[0, -27, -33]])), [[0, 0, 0]], atol=1e-9)
    assert stack.cord_outside_mm == 340 - 229
    # A cord that fits is not moved by the discs.
    short = cord_of(volume, slice(20, 200), slice(90, 101))
    assert standardise(volume, short, discs).grid.first == standardise(volume, short).grid.first


def test_millimetres_of_the_cord_that_is_cut_off_know_the_spacing():
    volume = neck((3, 300, 200), spacing=(3.3, 2.0, 1.0))
    stack = standardise(volume, cord_of(volume, slice(0, 300), slice(90, 101), slice(1, 2)))
    assert stack.cord_outside_mm == 600 - 256


# ---------------------------------------------------------------- values


def test_percentiles_are_those_of_the_slices_with_cord_in_the_window():
    volume = neck((9, 300, 280), dtype=np.float32)
    volume.array[:2] *= 1000  # slices without cord
    volume.array[:, :, 275:] = -5000  # outside the window
    stack = standardise(volume, cord_of(volume, slice(20, 240), slice(130, 141), slice(3, 7)))
    seen = volume.array[3:7, 2:258, 7:263]
    low, high = np.percentile(seen, (0.2, 99.8))
    assert (stack.low, stack.high) == pytest.approx((low, high), rel=1e-6)
    np.testing.assert_allclose(stack.images[3:7], np.clip((seen - low) / (high - low), 0, 1), atol=1e-6)
    assert stack.images.min() == 0
    assert stack.images.max() == 1
    middle = (seen > low) & (seen < high)
    np.testing.assert_allclose(stack.to_intensity(stack.images[3:7])[middle], seen[middle], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_the_type_and_the_scale_of_the_values_do_not_matter(dtype):
    whole = np.random.default_rng(0).integers(1, 250, (3, 60, 60))
    plain = standardise(Volume(whole.astype(np.float32), CANONICAL))
    other = standardise(Volume(whole.astype(dtype), CANONICAL))
    np.testing.assert_array_equal(other.images, plain.images)
    np.testing.assert_allclose(standardise(Volume(whole * 3.7 - 90, CANONICAL)).images, plain.images, atol=1e-5)


# ---------------------------------------------------------------- the same anatomy in other arrays


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3.3, 0.7, 0.7), (4.0, 1.3, 1.1)])
def test_flips_and_permutations_give_the_same_bits(spacing):
    volume = neck((5, 150, 140), spacing)
    cord = cord_of(volume, slice(20, 120), slice(60, 71))
    expected = standardise(volume, cord)
    for codes in ORIENTATIONS:
        other, change = reorient(volume, codes)
        stack = standardise(Volume(np.ascontiguousarray(other.array), other.affine), change.apply(cord))
        np.testing.assert_array_equal(stack.images, expected.images, codes)
        np.testing.assert_allclose(stack.grid.affine, expected.grid.affine, atol=1e-9, err_msg=codes)
        back = stack.grid.to_input(stack.images)
        np.testing.assert_array_equal(back, change.apply(expected.grid.to_input(expected.images)), codes)


@pytest.mark.parametrize("degrees", [-40, -15, 5, 30, 44])
def test_header_turned_with_the_image_gives_the_same_slices(degrees):
    volume = neck((5, 150, 140), (3.3, 0.7, 0.8))
    cord = cord_of(volume, slice(20, 120), slice(60, 71))
    expected, stack = standardise(volume, cord), standardise(turned(volume, degrees), cord)
    np.testing.assert_allclose(stack.images, expected.images, atol=1e-6)
    # The millimetres turn with the header.
    points = np.array([[0, 0, 0], [4, 100, 200.0]])
    there = Volume(volume.array, expected.grid.affine)
    np.testing.assert_allclose(stack.grid.stack_to_ras(points), turned(there, degrees).to_ras(points), atol=1e-9)


def test_a_left_handed_array_is_not_mirrored():
    volume = neck((5, 150, 140))
    mirrored = Volume(
        volume.array[::-1], volume.affine @ np.array([[-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    assert np.linalg.det(mirrored.affine) * np.linalg.det(volume.affine) < 0
    np.testing.assert_array_equal(standardise(mirrored).images, standardise(volume).images)


ACQUISITIONS = {
    "isotropic": ("PSR", (1.0, 1.0, 1.0), (150, 160, 21)),
    "isotropic, 0.8 mm": ("RAS", (0.8, 0.8, 0.8), (30, 150, 170)),
    "thick sagittal": ("PIR", (0.7, 0.7, 3.3), (160, 180, 9)),
    "axial, 2 mm": ("LPI", (0.6, 0.6, 2.0), (40, 180, 70)),
    "coronal, 2 mm": ("LSA", (0.8, 0.8, 2.0), (40, 160, 60)),
    "one slice": ("PIR", (0.9, 0.9, 5.0), (160, 180, 1)),
}


@pytest.mark.parametrize("degrees", [0, 30])
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_voxel_stays_at_its_millimetres_in_the_file(name, degrees, tmp_path):
    """Planted at a known place; found there in the stack, and by nibabel in a map that was written."""
    codes, spacing, shape = ACQUISITIONS[name]
    grid = turned(_towards(codes, spacing, shape), degrees)
    voxel = np.array(shape) // 2 + np.array([7, -5, 0])
    mm = grid.to_ras(voxel)
    array = np.random.default_rng(0).uniform(50, 100, shape)
    array[tuple(voxel)] = 1000
    cord = np.zeros(shape, bool)
    cord[tuple(voxel)] = True
    volume = grid.with_array(array)
    stack = standardise(volume, cord)
    at = stack.grid.ras_to_stack(mm[None])[0]
    peak = np.unravel_index(stack.grid.to_stack(array).argmax(), stack.images.shape)
    assert peak[0] == pytest.approx(at[0], abs=1e-6)  # slices are never interpolated
    assert np.abs(peak - at).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(stack.grid.stack_to_ras(at[None])[0], mm, atol=1e-9)

    found = through_files(
        volume.with_array(stack.grid.to_input(stack.grid.to_stack(array)).astype(np.float32)), tmp_path
    )
    assert found.shape == shape
    values = found.get_fdata()
    where = nibabel.affines.apply_affine(found.affine, np.unravel_index(values.argmax(), shape))
    # Averaged to 1 mm and back, a smaller voxel may hand its maximum to the next one.
    assert np.linalg.norm(where - mm) < (1e-3 if name == "isotropic" else 1.0)


def _towards(codes, spacing, shape):
    """An empty volume whose voxel axes point to `codes`."""
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(codes):
        row, sign = axes[code]
        affine[row, column] = sign * spacing[column]
    affine[:3, 3] = (11, -23, 37)
    return Volume(np.zeros(shape), affine)


# ---------------------------------------------------------------- interpolation within the plane


def test_coarser_pixels_are_interpolated_linearly_as_simpleitk_does():
    volume = turned(neck((3, 90, 100), (4.0, 1.6, 2.2), np.float32), 20)
    stack = standardise(volume)
    target = sitk.Image([256, 256, 3], sitk.sitkFloat32)
    to_lps = np.diag([-1.0, -1, 1, 1])
    lps = to_lps @ stack.grid.affine[:, [2, 1, 0, 3]]  # SimpleITK's first index is the column
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, (1, 1, 4))
    target.SetSpacing(spacing.tolist())
    target.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    target.SetOrigin(lps[:3, 3].tolist())
    source = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    geometry = to_lps @ volume.affine
    source.SetSpacing(volume.spacing.tolist())
    source.SetDirection((geometry[:3, :3] / volume.spacing).ravel().tolist())
    source.SetOrigin(geometry[:3, 3].tolist())
    theirs = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkLinear, 0.0))
    np.testing.assert_array_equal((theirs != 0).all(axis=0), stack.inside)
    np.testing.assert_allclose(stack.grid.to_stack(volume.array), theirs, atol=0.1)  # of 1000


@pytest.mark.parametrize("spacing", [(3.3, 0.5, 0.5), (3.3, 0.7, 0.43), (1, 0.8, 0.8), (5, 0.957, 0.957)])
def test_finer_pixels_are_averaged_over_the_area_of_a_pixel(spacing):
    """Against the slow way: many points within each pixel, each of which takes the value of the voxel it lies in."""
    volume = neck((2, 110, 90), spacing, np.float32)
    stack = standardise(volume)
    ours = stack.grid.to_stack(volume.array)
    fine = (np.arange(400) + 0.5) / 400 - 0.5
    rng = np.random.default_rng(1)
    complete = np.argwhere(stack.inside)[::71]
    compared = 0
    for row, column in rng.permutation(complete)[:40]:
        rows, columns = (
            np.floor(stack.grid.first[axis] + (at + fine) / spacing[axis + 1] + 0.5).astype(int)
            for axis, at in ((0, row), (1, column))
        )
        if min(rows.min(), columns.min()) < 0 or rows.max() >= 110 or columns.max() >= 90:
            continue
        np.testing.assert_allclose(
            ours[:, row, column], volume.array[:, rows][:, :, columns].mean(axis=(1, 2)), rtol=5e-3
        )
        compared += 1
    assert compared > 15


@pytest.mark.parametrize("mm", [0.31, 0.5, 0.7, 0.957, 1.0, 1.2, 2.3])
def test_a_constant_image_stays_constant_up_to_its_border(mm):
    volume = Volume(np.full((2, int(90 / mm), int(80 / mm)), 37.0), CANONICAL @ np.diag([3.3, mm, mm, 1]))
    textured = volume.with_array(np.random.default_rng(0).random(volume.array.shape))
    grid = standardise(textured).grid
    np.testing.assert_allclose(grid.to_stack(volume.array)[:, grid.inside], 37, rtol=1e-6)
    assert not grid.to_stack(volume.array)[:, ~grid.inside].any()
    assert np.diff(grid.edge_rows) == pytest.approx(int(90 / mm) * mm)
    assert grid.inside.sum() == pytest.approx(int(90 / mm) * int(80 / mm) * mm**2, rel=0.05)
    back = grid.to_input(np.full((2, 256, 256), 0.25, np.float32))
    np.testing.assert_array_equal(back, np.float32(0.25))


def test_a_linear_ramp_keeps_its_place():
    """Resampling does not shift: the value, and so the place, is right to a fraction of a voxel."""
    for mm in (0.45, 0.7, 1.3, 2.0):
        shape = (1, int(120 / mm), int(120 / mm))
        grid = Volume(np.zeros(shape), CANONICAL @ np.diag([3.3, mm, mm, 1]))
        place = grid.to_ras(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
        volume = grid.with_array(place[..., 2] - 0.5 * place[..., 1])
        stack = standardise(volume)
        middle = np.stack(np.meshgrid([0], np.arange(90, 160), np.arange(90, 160), indexing="ij"), -1)
        expected = stack.grid.stack_to_ras(middle.reshape(-1, 3)) @ (0, -0.5, 1)
        values = stack.grid.to_stack(volume.array)[:, 90:160, 90:160].ravel()
        assert np.abs(values - expected).max() < 0.15 * mm
        assert abs((values - expected).mean()) < 0.02 * mm


def test_slices_are_never_mixed():
    volume = neck((6, 120, 120), (3.3, 0.7, 0.7), np.float32)
    whole = standardise(volume)
    lone = volume.array.copy()
    lone[[0, 1, 2, 4, 5]] = 0
    there = whole.grid.to_stack(lone)
    np.testing.assert_array_equal(there[3], whole.grid.to_stack(volume.array)[3])
    assert not there[[0, 1, 2, 4, 5]].any()
    back = whole.grid.to_input(there)
    assert not back[[0, 1, 2, 4, 5]].any()


# ---------------------------------------------------------------- masks, and the way back


def test_there_and_back_is_exact_for_voxels_of_one_millimetre():
    for codes in ("PSR", "LAI", "RAS"):
        volume, change = reorient(neck((5, 300, 200)), codes)
        grid = standardise(volume).grid
        expected = np.zeros((5, 300, 200), volume.array.dtype)
        expected[:, 22:278] = change.undo(volume.array)[:, 22:278]
        for order in (0, 1):
            stack = grid.to_stack(volume.array, order)
            assert stack.dtype == (np.float32 if order else volume.array.dtype)
            np.testing.assert_array_equal(change.undo(grid.to_input(stack, order)), expected)
        outside = change.undo(grid.to_input(grid.to_stack(volume.array, 0), 0, fill=-1))
        assert (outside[:, :22] == -1).all()
        assert (outside[:, 278:] == -1).all()


@pytest.mark.parametrize("mm", [0.45, 0.7, 1.6, 2.4])
def test_labels_keep_their_values_and_come_back_where_they_were(mm):
    volume = neck((3, int(160 / mm), int(150 / mm)), (3.3, mm, mm))
    labels = np.zeros(volume.array.shape, np.uint8)
    middle = [n // 2 for n in volume.array.shape]
    half = round(12 / mm)
    labels[:, middle[1] - half : middle[1], middle[2] - half : middle[2] + half] = 3
    labels[:, middle[1] : middle[1] + half, middle[2] - half : middle[2] + half] = 8
    grid = standardise(volume).grid
    there = grid.to_stack(labels, order=0)
    assert there.dtype == np.uint8
    assert set(np.unique(there)) == {0, 3, 8}
    assert (there == 3).sum() == pytest.approx((labels == 3).sum() * mm**2, rel=0.12)
    back = grid.to_input(there, order=0)
    assert back.dtype == np.uint8
    assert ((back == 3) & (labels == 3)).sum() > 0.9 * (labels == 3).sum()


def test_a_thin_cord_in_a_coarse_grid_does_not_vanish():
    volume = neck((5, 100, 90), (4.0, 2.3, 2.3))
    cord = cord_of(volume, slice(10, 90), slice(45, 46))  # one voxel wide
    there = standardise(volume, cord).grid.to_stack(cord.astype(np.float32)) >= 0.5
    rows = there[3].any(axis=1)
    assert rows.sum() == pytest.approx(80 * 2.3, abs=2)
    assert np.ptp(np.flatnonzero(rows)) + 1 == rows.sum()  # without gaps
    assert there[3].sum() == pytest.approx(80 * 2.3 * 2.3, rel=0.15)


def test_a_cord_in_a_fine_grid_keeps_its_area():
    volume = neck((5, 400, 380), (3.3, 0.4, 0.4))
    cord = cord_of(volume, slice(40, 360), slice(180, 200))  # 128 × 8 mm
    there = standardise(volume, cord).grid.to_stack(cord.astype(np.float32)) >= 0.5
    assert there[3].sum() == pytest.approx(128 * 8, rel=0.05)


def test_arrays_of_another_grid_are_a_mistake():
    volume = neck((5, 100, 90))
    grid = standardise(volume).grid
    with pytest.raises(ValueError, match="input's grid"):
        grid.to_stack(np.zeros((5, 90, 100)))
    with pytest.raises(ValueError, match="stack of 5 slices"):
        grid.to_input(np.zeros((4, 256, 256)))
    with pytest.raises(ValueError, match="does not lie on a grid"):
        standardise(volume, np.ones((5, 90, 100), bool))


# ---------------------------------------------------------------- what is refused


def holding(value, count=1):
    volume = neck((3, 60, 60), dtype=np.float32)
    volume.array.ravel()[100 : 100 + count] = value
    return volume


def axial(slices, mm):
    return Volume(np.random.default_rng(0).random((200, 200, slices)), np.diag([0.5, 0.5, mm, 1]), "neck")


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (holding(np.nan), "neck holds 1 voxels that are not numbers"),
        (holding(-np.inf, 7), "neck holds 7 voxels that are not numbers"),
        (Volume(np.full((3, 60, 60), 5), CANONICAL, "neck"), "neck is constant"),
        (axial(30, 4.0), "axial slices 4.0 mm apart: a sagittal"),
        (axial(1, 4.0), "axial slices 4.0 mm apart: a sagittal"),
        (axial(1, 2.0), "shows only 2 mm from head to feet"),
        (Volume(np.random.default_rng(0).random((200, 12, 200)), np.diag([0.8, 5, 0.8, 1])), "coronal slices 5.0 mm"),
        (Volume(np.random.default_rng(0).random((20, 60, 60)), np.diag([4, 3, 3, 1])), "3.0 × 3.0 mm"),
        (Volume(np.random.default_rng(0).random((20, 60, 9)), np.diag([1, 1, 2, 1])), "shows only 18 mm"),
    ],
)
def test_what_cannot_be_analysed_is_refused_with_the_reason(volume, message):
    with pytest.raises(InputError, match=message) as caught:
        standardise(volume)
    assert volume.name in str(caught.value)


def test_cords_that_are_none_are_refused():
    volume = neck((3, 700, 60))
    with pytest.raises(InputError, match="cord mask is empty"):
        standardise(volume, np.zeros(volume.array.shape, bool))
    two_ends = cord_of(volume, slice(0, 20), slice(20, 30)) | cord_of(volume, slice(600, 620), slice(20, 30))
    with pytest.raises(InputError, match="where its middle should be"):
        standardise(volume, two_ends)
    flat = volume.with_array(np.where(np.arange(3)[:, None, None] == 1, 7, volume.array))
    with pytest.raises(InputError, match="constant"):
        standardise(flat, cord_of(flat, slice(20, 200), slice(20, 30), slice(1, 2)))


# ---------------------------------------------------------------- real images


@pytest.mark.parametrize("person", ["sub-errsm11", "sub-errsm24"])
def test_a_real_volume_of_one_millimetre_is_not_interpolated(shared_data, person):
    folder = shared_data / "errsm" / person / "anat"
    image = nibabel.load(next(folder.glob("*_T2w.nii.gz")))
    mask = nibabel.load(next(folder.glob("*SC_seg.nii.gz")))
    discs = nibabel.load(next(folder.glob("*discs_dlabel.nii.gz")))
    volume = read_volume(next(folder.glob("*_T2w.nii.gz")))
    cord = np.asarray(mask.dataobj) > 0
    points = {
        int(discs.dataobj[tuple(v)]): nibabel.affines.apply_affine(discs.affine, v)
        for v in np.argwhere(np.asarray(discs.dataobj) > 0)
    }
    stack = standardise(volume, cord, points)
    # nibabel's own way to the same axes (PSR → LIP), then a cut.
    turned_by_nibabel = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(("L", "I", "P"))
        )
    )
    theirs = np.asarray(turned_by_nibabel.dataobj)
    first = np.round(stack.grid.ras_to_stack(turned_by_nibabel.affine[:3, 3][None]))[0].astype(int)
    values = stack.grid.to_stack(volume.array)
    for row, column in ((100, 128), (3, 250), (200, 60), (255, 255), (0, 0)):
        at = row - first[1], column - first[2]
        known = 0 <= at[0] < theirs.shape[1] and 0 <= at[1] < theirs.shape[2]
        np.testing.assert_array_equal(values[:, row, column], theirs[:, *at] if known else 0)
    # What comes back lies on the same voxels.
    back = stack.grid.to_input(stack.grid.to_stack(cord, order=0), order=0)
    lost = cord & ~back
    assert not (back & ~cord).any()
    axis = "".join(nibabel.aff2axcodes(image.affine)).index("S")
    assert np.flatnonzero(lost.any(axis=tuple({0, 1, 2} - {axis}))).size == pytest.approx(
        stack.cord_outside_mm, abs=0.1
    )
    # All discs are in the window.
    assert (stack.grid.ras_to_stack(np.array(list(points.values())))[:, 1:] > 0).all()
    assert (stack.grid.ras_to_stack(np.array(list(points.values())))[:, 1:] < 255).all()


def test_the_lesion_of_the_clinical_slice_is_where_pydicom_says(shared_data):
    path = shared_data / "clinical_tse" / "spine1.dcm"
    header = pydicom.dcmread(path)
    volume = read_volume(path)
    stack = standardise(volume)
    row, column = 165, 131  # in the lesion (bright, behind the fused bodies)
    along, down = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    step_down, step_along = map(float, header.PixelSpacing)
    lps = np.array(header.ImagePositionPatient, float) + column * step_along * along + row * step_down * down
    at = stack.grid.ras_to_stack((lps * (-1, -1, 1))[None])[0]
    assert at[0] == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(stack.grid.first[0] + at[1] / step_down, row, atol=1e-3)  # rows run head to feet already
    # The stack agrees with pydicom's pixels at that place, and with no other.
    there = stack.grid.to_stack(volume.array)[0]
    pixel = np.round(at[1:]).astype(int)
    patch = there[pixel[0] - 20 : pixel[0] + 21, pixel[1] - 20 : pixel[1] + 21]

    def difference(down_by, along_by):
        rows, columns = (
            place + off + (np.arange(-20, 21) + whole - exact) / step
            for place, off, whole, exact, step in (
                (row, down_by, pixel[0], at[1], step_down),
                (column, along_by, pixel[1], at[2], step_along),
            )
        )
        grid = np.meshgrid(rows, columns, indexing="ij")
        return np.abs(map_coordinates(header.pixel_array.astype(float), grid, order=1) - patch).mean()

    off_by = {(a, b): difference(a, b) for a in (-1, -0.5, 0, 0.5, 1) for b in (-1, -0.5, 0, 0.5, 1)}
    assert min(off_by, key=off_by.get) == (0, 0)
    assert off_by[0, 0] < 0.02 * header.pixel_array.max()
