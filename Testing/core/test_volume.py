"""Geometry of volumes, checked against nibabel and SimpleITK, which know nothing of each other."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from U2ADLib.errors import InputError
from U2ADLib.volume import Volume, reorient, resample, volume_hash

ORIENTATIONS = [
    "".join(codes) for order in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*order)
]
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(degrees=(30, -8, 12), spacing=(0.7, 0.8, 3.3), origin=(12.0, -34.0, 56.0), mirrored=False):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return affine @ np.diag([-1.0 if mirrored else 1.0, 1, 1, 1])


def numbered(shape=(4, 5, 6), affine=None, dtype=np.int16):
    """Every voxel has its own value."""
    return Volume(np.arange(np.prod(shape), dtype=dtype).reshape(shape), oblique() if affine is None else affine)


def to_sitk(volume):
    lps = TO_LPS @ volume.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_axis_codes_are_those_of_nibabel_however_oblique():
    rng = np.random.default_rng(3)
    for _ in range(500):
        affine = np.eye(4)
        affine[:3, :3] = Rotation.random(random_state=rng).as_matrix() * rng.uniform(0.3, 5, 3)
        affine[:, 0] *= rng.choice([-1, 1])
        assert Volume(np.zeros((2, 2, 2)), affine).axis_codes == "".join(nibabel.aff2axcodes(affine))


def test_spacing_directions_origin_and_size_of_a_voxel():
    volume = numbered(affine=oblique(spacing=(0.7, 0.8, 3.3), mirrored=True))
    np.testing.assert_allclose(volume.spacing, (0.7, 0.8, 3.3))
    np.testing.assert_allclose(volume.spacing, nibabel.affines.voxel_sizes(volume.affine))
    np.testing.assert_allclose(volume.directions.T @ volume.directions, np.eye(3), atol=1e-12)
    assert volume.voxel_mm3 == pytest.approx(0.7 * 0.8 * 3.3)
    assert volume.voxel_mm3 == pytest.approx(abs(np.linalg.det(volume.affine[:3, :3])))


def test_millimetres_are_those_of_nibabel_and_simpleitk():
    volume = numbered()
    ijk = np.array([[0, 0, 0], [3, 4, 5], [1.5, 2.25, 0.5]])
    np.testing.assert_allclose(volume.to_ras(ijk), nibabel.affines.apply_affine(volume.affine, ijk))
    image = to_sitk(volume)
    lps = [image.TransformContinuousIndexToPhysicalPoint(point.tolist()) for point in ijk]
    np.testing.assert_allclose(volume.to_ras(ijk), np.array(lps) * (-1, -1, 1), atol=1e-9)
    np.testing.assert_allclose(volume.to_ijk(volume.to_ras(ijk)), ijk, atol=1e-9)
    np.testing.assert_allclose(volume.to_ijk(volume.to_ras(ijk[2])), ijk[2], atol=1e-9)  # a single point, too


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_reorienting_is_nibabels_and_can_be_undone_exactly(codes, mirrored):
    volume = numbered(affine=oblique((25, -8, 12), mirrored=mirrored))
    turned, change = reorient(volume, codes)
    assert turned.axis_codes == codes
    orientations = nibabel.orientations
    path = orientations.ornt_transform(
        orientations.io_orientation(volume.affine), orientations.axcodes2ornt(tuple(codes))
    )
    theirs = nibabel.Nifti1Image(volume.array, volume.affine).as_reoriented(path)
    np.testing.assert_array_equal(turned.array, np.asarray(theirs.dataobj))
    np.testing.assert_allclose(turned.affine, theirs.affine, atol=1e-12)
    np.testing.assert_array_equal(change.undo(turned.array), volume.array)
    np.testing.assert_array_equal(change.apply(volume.array), turned.array)
    assert np.shares_memory(turned.array, volume.array)  # nothing is copied


def test_there_and_back_does_not_move_the_geometry():
    volume = numbered()
    there = volume
    for codes in ORIENTATIONS:
        there = reorient(there, codes)[0]
    back = reorient(there, volume.axis_codes)[0]
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-10)
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize("codes", ["LL", "LIX", "LRP", "lip", "LIPS"])
def test_directions_that_do_not_exist_are_refused(codes):
    with pytest.raises(ValueError, match="anatomical directions"):
        reorient(numbered(), codes)


@pytest.mark.parametrize("order", [0, 1])
def test_resampling_is_that_of_simpleitk(order):
    rng = np.random.default_rng(0)
    source = Volume(rng.normal(size=(20, 22, 9)).astype(np.float32), oblique((5, 0, 0), (1, 1.2, 3)))
    target = Volume(np.zeros((25, 15, 12)), oblique((35, 10, -20), (0.9, 1.3, 2.1), (14, -30, 58), mirrored=True))
    ours = resample(source, target, order)
    kind = sitk.sitkLinear if order else sitk.sitkNearestNeighbor
    theirs = sitk.GetArrayFromImage(sitk.Resample(to_sitk(source), to_sitk(target), sitk.Transform(), kind, -99.0))
    theirs = theirs.transpose(2, 1, 0)
    inside = theirs != -99
    assert 500 < inside.sum() < inside.size  # the grids do overlap, and not everywhere
    np.testing.assert_allclose(ours.array[inside], theirs[inside], atol=1e-4)
    assert not ours.array[~inside].any()
    np.testing.assert_array_equal(ours.affine, target.affine)


def test_resampling_keeps_the_type_of_labels_and_comes_back():
    source = numbered((6, 7, 8), np.diag([1.0, 1, 1, 1]), np.uint16)
    target = Volume(
        np.zeros((12, 14, 16)), np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])
    )
    fine = resample(source, target, order=0)
    assert fine.array.dtype == np.uint16
    np.testing.assert_array_equal(fine.array, source.array.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    # Each coarse centre lies on a corner of eight fine voxels: the linear way back averages them to the same value.
    np.testing.assert_allclose(resample(fine, source, order=1).array, source.array)
    assert resample(source.with_array(source.array > 5), target, order=0).array.dtype == bool


@pytest.mark.parametrize("order", [0, 1])
def test_a_single_slice_is_as_thick_as_its_spacing(order):
    source = Volume(np.full((6, 6, 1), 7.0), np.diag([1.0, 1, 5, 1]))
    for mm, seen in ((-2.4, True), (0.0, True), (2.4, True), (2.6, False), (-2.6, False)):
        affine = np.diag([1.0, 1, 5, 1])
        affine[2, 3] = mm
        there = resample(source, Volume(np.zeros((6, 6, 1)), affine), order)
        assert (there.array == (7 if seen else 0)).all(), mm


def bad(**changes):
    return {"array": np.zeros((3, 4, 5)), "affine": np.eye(4)} | changes


def sheared(cosine):
    affine = np.eye(4)
    affine[0, 1] = cosine
    return affine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bad(array=np.zeros((3, 4))), "three dimensions"),
        (bad(array=np.zeros((3, 4, 5, 2))), "three dimensions"),
        (bad(array=np.zeros((3, 0, 5))), "three dimensions"),
        (bad(array=np.zeros((3, 4, 5), complex)), "real numbers"),
        (bad(array=np.full((3, 4, 5), "x")), "real numbers"),
        (bad(array=np.full((3, 4, 5), None)), "real numbers"),
        (bad(affine=np.eye(3)), "4 × 4"),
        (bad(affine=np.diag([1, np.nan, 1, 1])), "4 × 4"),
        (bad(affine=np.diag([1, np.inf, 1, 1])), "4 × 4"),
        (bad(affine=np.diag([1, 1, 1, 2])), "4 × 4"),
        (bad(affine=np.diag([1, 0, 1, 1])), "voxel spacing is 1 × 0 × 1 mm"),
        (bad(affine=np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])), "sheared"),
        (bad(affine=sheared(0.002)), "sheared"),
        (bad(affine=sheared(-0.5)), "sheared"),
    ],
)
def test_impossible_volumes_are_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        Volume(**arguments, name="scan7")
    assert "scan7" in str(caught.value)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_possible_volumes_are_not_refused(dtype):
    affine = sheared(5e-4)
    volume = Volume(np.ones((3, 4, 1), dtype), affine)
    np.testing.assert_array_equal(volume.affine, affine)
    assert volume.array.dtype == dtype
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 2
    affine[0, 0] = 9  # the caller's own array is not the volume's
    assert volume.affine[0, 0] == 1


def test_another_array_on_the_same_grid():
    volume = Volume(np.zeros((3, 4, 5)), oblique(), "scan7")
    other = volume.with_array(np.ones((3, 4, 5), bool))
    assert other.name == "scan7"
    assert other.same_grid(volume)
    with pytest.raises(ValueError, match="does not lie on a grid"):
        volume.with_array(np.ones((3, 5, 4)))


def test_grids_are_the_same_within_a_hundredth_of_a_millimetre_at_the_far_corner():
    volume = Volume(np.zeros((100, 100, 10)), np.eye(4))
    assert volume.same_grid(Volume(np.zeros((100, 100, 10)), np.diag([1 + 5e-5, 1, 1, 1])))
    assert not volume.same_grid(Volume(np.zeros((100, 100, 10)), np.diag([1 + 5e-4, 1, 1, 1])))
    assert volume.same_grid(Volume(np.zeros((100, 100, 10)), np.diag([1 + 5e-4, 1, 1, 1])), tolerance_mm=0.1)
    assert not volume.same_grid(Volume(np.zeros((100, 10, 100)), np.eye(4)))


def test_the_hash_knows_voxels_shape_type_and_geometry():
    volume = numbered()
    hashes = {
        volume_hash(v)
        for v in (
            volume,
            volume.with_array(volume.array + 1),
            volume.with_array(volume.array.astype(np.int32)),
            numbered(affine=oblique((30, -8, 12.1))),
            Volume(volume.array.reshape(4, 6, 5), volume.affine),
        )
    }
    assert len(hashes) == 5
    # Order in memory, name, and rounding below a micrometre are not part of it.
    same = Volume(np.asfortranarray(volume.array), volume.affine + 1e-9, "other")
    assert volume_hash(same) == volume_hash(volume)
    origins = (1e-9, 0, 0), (-1e-9, 0, 0)
    assert len({volume_hash(numbered(affine=oblique((0, 0, 0), origin=origin))) for origin in origins}) == 1
