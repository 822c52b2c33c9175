"""Reading and writing: against nibabel, SimpleITK and pydicom, and inputs that must be refused with their reason."""

import gzip
import os
import struct
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from U2ADLib import io
from U2ADLib.errors import InputError
from U2ADLib.io import list_series, read_volume, write_volume
from U2ADLib.volume import Volume, reorient

SHAPE = (5, 6, 7)
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
ACQUISITIONS = {"isotropic": (1.0, 1.0, 1.0), "thick sagittal": (0.7, 0.7, 3.3), "axial": (0.5, 0.5, 4.0)}


def affine_of(codes="PSR", spacing=(0.7, 0.7, 3.3), degrees=0.0, mirrored=False):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, code in enumerate(codes):
        row, sign = AXES[code]
        affine[row, column] = sign * spacing[column]
    affine[:3, 3] = (10.5, -20.25, 30)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([2, -1, 2]) / 3).as_matrix()
    return turn @ affine @ np.diag([-1.0 if mirrored else 1.0, 1, 1, 1])


GEOMETRIES = {
    f"{kind}, {acquisition}": affine_of(codes, spacing, degrees, mirrored)
    for acquisition, spacing in ACQUISITIONS.items()
    for kind, codes, degrees, mirrored in (
        ("RAS", "RAS", 0, False),
        ("LPI", "LPI", 0, False),
        ("PIR", "PIR", 0, False),
        ("oblique 30°", "PIR", 30, False),
        ("left-handed", "RAS", 0, True),
        ("left-handed, oblique", "PSR", 30, True),
    )
}


def voxels(dtype=np.int16, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 120, shape).astype(dtype)


def save_nifti(path, array=None, affine=None, sform=1, qform=1, qform_affine=None, kind=nibabel.Nifti1Image, order="<"):
    """By nibabel, with both codes exactly as asked for."""
    array = voxels() if array is None else array
    affine = affine_of() if affine is None else affine
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    image = kind(array, affine, header)
    image.set_sform(affine, sform)
    image.set_qform(affine if qform_affine is None else qform_affine, qform, strip_shears=True)
    image.to_filename(path)
    if not sform and not qform:  # nibabel insists on one
        data = bytearray(Path(path).read_bytes())
        struct.pack_into(order + "2h", data, 252, 0, 0)
        Path(path).write_bytes(data)
    return path


def assert_as_nibabel(volume, path):
    image = nibabel.load(path)
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-4)
    np.testing.assert_allclose(volume.array, image.get_fdata(dtype=np.float64).reshape(volume.array.shape), rtol=1e-6)


# ---------------------------------------------------------------- NIfTI


@pytest.mark.parametrize("forms", ["both", "sform", "qform"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_nifti_lies_where_nibabel_and_simpleitk_see_it(tmp_path, name, forms):
    path = save_nifti(
        tmp_path / "a.nii.gz", affine=GEOMETRIES[name], sform=int(forms != "qform"), qform=int(forms != "sform")
    )
    volume = read_volume(path)
    assert_as_nibabel(volume, path)
    image = sitk.ReadImage(str(path))
    for voxel in ([0, 0, 0], [4, 5, 6], [1, 3, 2]):
        lps = np.array(image.TransformIndexToPhysicalPoint(voxel))
        np.testing.assert_allclose(volume.to_ras(voxel), lps * (-1, -1, 1), atol=1e-4)
        assert volume.array[tuple(voxel)] == image[voxel]
    assert volume.name == "a"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_and_byte_order(tmp_path, dtype, kind, order):
    path = save_nifti(tmp_path / "a.nii", voxels(dtype), kind=kind, order=order)
    volume = read_volume(path)
    assert_as_nibabel(volume, path)
    assert volume.array.dtype == np.dtype(dtype)
    assert volume.array.dtype.isnative


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0.37, -12.5), (2, 0), (1, 5), (-1, 0), (0, 0), (0, 7), (np.nan, 0), (1, 0)]
)
def test_scaled_values_are_those_of_nibabel(tmp_path, slope, intercept):
    path = save_nifti(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    struct.pack_into("<2f", data, 112, slope, intercept)
    path.write_bytes(data)
    volume = read_volume(path)
    assert_as_nibabel(volume, path)
    plain = slope in (0, 1) and not (slope and intercept)
    assert volume.array.dtype == (np.int16 if plain or np.isnan(slope) else np.float32)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (1, 6, 7), (5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_axes_of_one_voxel_are_added_or_dropped(tmp_path, shape):
    volume = read_volume(save_nifti(tmp_path / "a.nii.gz", voxels(shape=shape)))
    np.testing.assert_array_equal(volume.array, voxels(shape=shape).reshape((*shape, 1)[:3]))


@pytest.mark.parametrize("cosine", [1e-5, 1e-4, 9e-4])
def test_axes_that_are_off_by_rounding_are_read_as_they_are(tmp_path, cosine):
    affine = affine_of()
    affine[0, 0] = cosine * 0.7
    path = save_nifti(tmp_path / "a.nii.gz", affine=affine, qform=0)
    np.testing.assert_allclose(read_volume(path).affine, affine, atol=1e-6)


def test_a_neighbour_of_the_same_name_is_not_mixed_in(tmp_path):
    """ITK reads the voxels of neck.nii where neck.nii.gz is asked for."""
    first, second = voxels(seed=1), voxels(seed=2)
    save_nifti(tmp_path / "neck.nii", first)
    save_nifti(tmp_path / "neck.nii.gz", second)
    np.testing.assert_array_equal(read_volume(tmp_path / "neck.nii").array, first)
    np.testing.assert_array_equal(read_volume(tmp_path / "neck.nii.gz").array, second)


def test_endings_in_capitals_and_without_compression(tmp_path):
    save_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "SCAN.NII.GZ").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    volume = read_volume(tmp_path / "SCAN.NII.GZ")
    assert volume.name == "SCAN"
    np.testing.assert_array_equal(volume.array, voxels())


@pytest.mark.parametrize("codes", ["".join(letters) for letters in product("RL", "AP", "IS")])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_orientation_survives_single_precision(tmp_path, codes, order):
    """A quaternion of a half turn loses 0.07° to single precision in a careless header: 0.5 mm over a neck."""
    codes = "".join(codes[k] for k in order)
    volume, _ = reorient(Volume(np.zeros((390, 4, 5), np.uint8), np.diag([0.7, 0.8, 0.9, 1.0])), codes)
    write_volume(tmp_path / "a.nii.gz", volume)
    again = read_volume(tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    corner = np.array(volume.array.shape) - 1
    for place in (again.to_ras(corner), image.get_qform() @ [*corner, 1], image.get_sform() @ [*corner, 1]):
        np.testing.assert_allclose(place[:3], volume.to_ras(corner), atol=1e-3)
    lps = itk.TransformIndexToPhysicalPoint([int(n) for n in corner])
    np.testing.assert_allclose(np.array(lps) * (-1, -1, 1), volume.to_ras(corner), atol=1e-3)


def test_a_careless_half_turn_is_read_as_what_the_sform_says(tmp_path):
    """b, c, d rounded down: the remainder a = 3e-4 is no rotation but a rounding error."""
    affine = np.array([[-1, 0, 0, 90.0], [0, 0, -1, 100], [0, -1, 0, 120], [0, 0, 0, 1]])
    path = save_nifti(tmp_path / "a.nii", np.zeros((300, 300, 3), np.int16), affine)
    data = bytearray(path.read_bytes())
    half = np.nextafter(np.float32(np.sqrt(0.5)), np.float32(0))
    data[256:268] = np.array([0, half, -half], "<f4").tobytes()
    path.write_bytes(bytes(data))
    np.testing.assert_allclose(read_volume(path).affine, affine, atol=1e-6)


def test_forms_that_differ_by_less_than_a_tenth_of_a_millimetre_are_one(tmp_path):
    moved = affine_of()
    moved[2, 3] += 0.08
    path = save_nifti(tmp_path / "a.nii.gz", qform_affine=moved)
    assert_as_nibabel(read_volume(path), path)


def conflicting(folder):
    other = affine_of()
    other[2, 3] += 7
    return save_nifti(folder / "a.nii.gz", qform_affine=other)


def mirrored_in_one_form(folder):
    return save_nifti(folder / "a.nii.gz", qform_affine=np.diag([-1, 1, 1, 1]) @ affine_of())


def sheared(folder):
    affine = affine_of()
    affine[0, 0] = 0.1
    return save_nifti(folder / "a.nii.gz", affine=affine)


def shortened(suffix, share, pixels=(30, 40, 20)):
    def make(folder):
        path = folder / f"a{suffix}"
        write = save_nifti if suffix in io.NIFTI else lambda p, a: write_volume(p, Volume(a, affine_of()))
        write(path, voxels(shape=pixels))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return make


def file_of(name, content=b""):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def with_nifti_field(layout, at, *values):
    def make(folder):
        path = save_nifti(folder / "a.nii")
        data = bytearray(path.read_bytes())
        struct.pack_into("<" + layout, data, at, *values)
        path.write_bytes(data)
        return path

    return make


def broken_link(folder):
    os.symlink(folder / ".git/annex/objects/xx/MD5E-s1--0.nii.gz", folder / "a.nii.gz")
    return folder / "a.nii.gz"


def colours(folder):
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(rgb, affine_of()).to_filename(folder / "a.nii.gz")
    return folder / "a.nii.gz"


def empty_folder(folder):
    (folder / "nothing").mkdir()
    return folder / "nothing"


def nrrd(*lines, sizes="5 6 7"):
    start = f"NRRD0004\ntype: short\ndimension: {len(sizes.split())}\nsizes: {sizes}\nendian: little\nencoding: raw\n"
    return file_of("a.nrrd", (start + "".join(f"{line}\n" for line in lines) + "\n").encode() + voxels().tobytes())


def mha(*lines):
    text = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    end = "DimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    return file_of("a.mha", (text + "".join(f"{line}\n" for line in lines) + end).encode() + voxels().tobytes())


def detached_without_voxels(folder):
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(folder / "a.mhd"))
    (folder / "a.raw").unlink()
    return folder / "a.mhd"


DIRECTIONS = ("space directions: (1,0,0) (0,2,0) (0,0,3)", "space origin: (0,0,0)")

REFUSED = {
    "missing": (lambda folder: folder / "none.nii.gz", "There is no file"),
    "folder without DICOM": (empty_folder, "holds no DICOM series"),
    "broken link": (broken_link, "git annex get"),
    "annex pointer": (file_of("a.nii.gz", b"/annex/objects/MD5E-s1--0.nii.gz\n"), "git annex get"),
    "LFS pointer": (file_of("a.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "empty": (file_of("a.nii.gz"), "is empty"),
    "text": (file_of("a.txt", b"no image"), "is not an image that can be read"),
    "text without ending": (file_of("scan", b"no image"), "not a DICOM image"),
    "text called NIfTI": (file_of("a.nii", b"x" * 1000), "is not a NIfTI image"),
    "a few bytes": (file_of("a.nii", b"xy"), "damaged or incomplete"),
    "gzip of text": (file_of("a.nii.gz", gzip.compress(b"x" * 1000)), "is not a NIfTI image"),
    "ANALYZE": (with_nifti_field("4s", 344, b"\0\0\0\0"), "is not a NIfTI image"),
    "half of .nii": (shortened(".nii", 0.5), "damaged or incomplete"),
    "last byte of .nii": (shortened(".nii", 1 - 1e-6), "damaged or incomplete"),
    "half of .nii.gz": (shortened(".nii.gz", 0.5), "damaged or incomplete"),
    "half of .nrrd": (shortened(".nrrd", 0.5), "damaged, incomplete"),
    "half of .mha": (shortened(".mha", 0.5), "damaged, incomplete"),
    "text called NRRD": (file_of("a.nrrd", b"x" * 1000), "does not say where it lies"),
    "voxels elsewhere": (detached_without_voxels, "the file with its voxels is missing"),
    "qform and sform disagree": (conflicting, r"disagree by up to 7.0 mm.*sform has axes PSR.*30\).*qform axes.*37\)"),
    "qform and sform mirrored": (mirrored_in_one_form, "sform has axes PSR.*qform axes PSL"),
    "neither form": (lambda folder: save_nifti(folder / "a.nii", sform=0, qform=0), "neither qform nor sform"),
    "sheared": (sheared, "sheared"),
    "no numbers in the geometry": (with_nifti_field("f", 280, np.nan), "geometry of a is broken"),
    "no quaternion": (with_nifti_field("3f", 256, 3, 3, 3), "damaged"),
    "spacing of zero": (with_nifti_field("4f", 280, 0, 0, 0, 0), "geometry of a is broken|sheared"),
    "negative size": (with_nifti_field("h", 42, -5), "its header gives the size"),
    "no dimensions": (with_nifti_field("h", 40, 0), "its header gives the size"),
    "voxels far behind the end": (with_nifti_field("f", 108, 1e30), "damaged"),
    "4D": (lambda folder: save_nifti(folder / "a.nii.gz", voxels(shape=(5, 6, 7, 3))), "4 dimensions.*extract the one"),
    "vectors": (lambda folder: save_nifti(folder / "a.nii.gz", voxels(shape=(5, 6, 7, 1, 3))), "5 dimensions"),
    "huge": (with_nifti_field("3h", 42, 30000, 30000, 30000), "too large for a scan of the neck"),
    "colours": (colours, "grey-scale image is needed"),
    "complex": (lambda folder: save_nifti(folder / "a.nii.gz", voxels("c8")), "grey-scale image is needed"),
    "NRRD without space": (nrrd("spacings: 1 1 3"), "does not say where it lies"),
    "NRRD in scanner axes": (nrrd("space: scanner-xyz", *DIRECTIONS), "does not say where it lies"),
    "NRRD without directions": (nrrd("space: left-posterior-superior"), "does not say where it lies"),
    "sheared NRRD": (nrrd("space: RAS", "space directions: (1,0,0) (0.3,2,0) (0,0,3)"), "sheared"),
    "NRRD of colours": (
        nrrd("space: RAS", "space directions: none (1,0,0) (0,2,0) (0,0,3)", "kinds: vector domain domain domain",
             sizes="3 1 7 5"),
        "colours or vectors",
    ),
    "huge NRRD": (nrrd("space: RAS", *DIRECTIONS, sizes="9000 9000 9000"), "too large"),
    "MetaImage without axes": (mha("ElementSpacing = 1 1 3"), "does not say where it lies"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, name):
    make, message = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    text = str(caught.value)
    assert path.stem.split(".")[0] in text  # says which file …
    if name != "missing":
        assert str(tmp_path) not in text  # … but not where it lies


def test_a_file_that_may_not_be_opened_is_refused(tmp_path, monkeypatch):
    path = save_nifti(tmp_path / "a.nii.gz")

    def no(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", no)
    with pytest.raises(InputError, match=r"a\.nii\.gz cannot be opened: Permission denied"):
        read_volume(path)


def test_values_that_are_not_numbers_are_read(tmp_path):
    """They are refused later, where it is known whether they matter."""
    array = voxels(np.float32)
    array[1, 2, 3] = np.nan
    assert np.isnan(read_volume(save_nifti(tmp_path / "a.nii.gz", array)).array[1, 2, 3])


# ---------------------------------------------------------------- NRRD, MetaImage


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "left-anterior-superior"])
def test_nrrd_spaces(tmp_path, space):
    path = nrrd(f"space: {space}", "space directions: (1,0,0) (0,2,0) (0,0,3)", "space origin: (10,20,30)")(tmp_path)
    signs = {"left-posterior-superior": (-1, -1, 1), "RAS": (1, 1, 1), "left-anterior-superior": (-1, 1, 1)}[space]
    volume = read_volume(path)
    np.testing.assert_allclose(
        volume.affine, np.diag([*signs, 1]) @ np.array([[1, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    )
    np.testing.assert_array_equal(volume.array, voxels().ravel().reshape(SHAPE, order="F"))


def test_metaimage_is_lps(tmp_path):
    path = mha("TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 10 20 30", "ElementSpacing = 1 2 3")(tmp_path)
    np.testing.assert_allclose(read_volume(path).to_ras([1, 1, 1]), (-11, -22, 33))


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_headers_with_voxels_in_another_file(tmp_path, suffix):
    image = sitk.GetImageFromArray(voxels())
    image.SetSpacing((0.5, 0.6, 3))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array, voxels().transpose(2, 1, 0))
    np.testing.assert_allclose(volume.to_ras([1, 1, 1]), (-1.5, -2.6, 6))


def test_itk_speaks_again_afterwards(tmp_path):
    """Warnings are silenced only while reading: Slicer's own code shares ITK's switch."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    try:
        for on in (True, False):
            sitk.ProcessObject.SetGlobalWarningDisplay(on)
            read_volume(save_nifti(tmp_path / "a.nii.gz"))
            with pytest.raises(InputError):
                read_volume(tmp_path / "none.nrrd")
            assert sitk.ProcessObject.GetGlobalWarningDisplay() == on
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_what_was_written_is_read_back(tmp_path, name, suffix):
    """By this library exactly, and by SimpleITK (and nibabel) at the same millimetres."""
    volume = Volume(voxels(), GEOMETRIES[name])
    path = tmp_path / f"map{suffix}"
    write_volume(path, volume)
    back = read_volume(path)
    assert back.name == "map"
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, rtol=1e-6, atol=1e-5)
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(
        np.array(image.TransformIndexToPhysicalPoint([4, 5, 6])) * (-1, -1, 1), volume.to_ras([4, 5, 6]), atol=1e-4
    )
    assert image[4, 5, 6] == volume.array[4, 5, 6]
    if suffix in io.NIFTI:
        image = nibabel.load(path)
        assert_as_nibabel(volume, path)
        for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
            np.testing.assert_allclose(form, volume.affine, atol=1e-4)
            assert code == 1
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.header.get_zooms(), volume.spacing, rtol=1e-6)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("dtype", "written"),
    [("?", "u1"), ("u1", "u1"), ("i1", "i1"), ("i2", "i2"), ("u2", "u2"), ("i4", "i4"), ("u4", "u4"), ("f4", "f4"),
     ("f8", "f4"), ("f2", "f4"), ("i8", "i4"), ("u8", "i4")],
)  # fmt: skip
def test_types_are_kept_or_become_what_every_program_reads(tmp_path, dtype, written, suffix):
    array = voxels(dtype)
    write_volume(tmp_path / f"a{suffix}", Volume(array, affine_of()))
    back = read_volume(tmp_path / f"a{suffix}").array
    assert back.dtype == np.dtype(written)
    np.testing.assert_array_equal(back, array)


def test_integers_that_need_64_bits_keep_them(tmp_path):
    array = voxels("i8") + 2**40
    write_volume(tmp_path / "a.nii.gz", Volume(array, affine_of()))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, array)


def test_slightly_sheared_axes_survive_in_every_format(tmp_path):
    affine = affine_of()
    affine[0, 0] = 6e-4
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        write_volume(tmp_path / f"a{suffix}", Volume(voxels(), affine))
        np.testing.assert_allclose(read_volume(tmp_path / f"a{suffix}").affine, affine, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_the_same_volume_gives_the_same_bytes(tmp_path, suffix, monkeypatch):
    volume = Volume(voxels(), affine_of())
    write_volume(tmp_path / f"a{suffix}", volume)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_volume(tmp_path / f"b{suffix}", Volume(np.asfortranarray(voxels()), affine_of()))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_old_file_survives_a_failure(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    write_volume(path, Volume(voxels(seed=1), affine_of()))

    def no(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no)
    with pytest.raises(InputError, match="No space left on device"):
        write_volume(path, Volume(voxels(seed=2), affine_of()))
    assert os.listdir(tmp_path) == [path.name]
    np.testing.assert_array_equal(read_volume(path).array, voxels(seed=1))


@pytest.mark.parametrize("name", ["none/a.nii.gz", "none/a.nrrd", "none/a.mha", "a.png", "a"])
def test_places_and_formats_that_cannot_be_written(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be written|images are written as"):
        write_volume(tmp_path / name, Volume(voxels(), affine_of()))
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- DICOM

SAGITTAL, AXIAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1)
OBLIQUE = tuple(Rotation.from_euler("xyz", (20, 10, -15), degrees=True).apply(np.reshape(SAGITTAL, (2, 3))).ravel())


def dicom_dataset(path, storage, pixels, uid, description):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.StudyDate, data.Modality = "Secret^Name", "SECRET-ID", "20010203", "MR"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesDescription = "1.2.3", uid, description
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = pixels.astype("<u2").tobytes()
    return data


def save_slice(path, pixels, position, orientation=SAGITTAL, uid="1.2.3.4", description="T2 TSE sag", **fields):
    data = dicom_dataset(path, MRImageStorage, pixels, uid, description)
    data.ImagePositionPatient = [f"{v:.9g}" for v in position]
    data.ImageOrientationPatient = [f"{v:.9g}" for v in orientation]
    data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [0.8, 0.6], 3.0, 3.3
    data.EchoTime, data.RepetitionTime = 100.0, 3000.0
    for name, value in fields.items():
        if value is None:
            del data[name]
        else:
            setattr(data, name, value)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def save_series(folder, offsets=(0, 3.3, 6.6, 9.9), orientation=SAGITTAL, names=None, seed=0, **fields):
    """Slices at `offsets` mm along their normal; returns their pixels (n, rows, columns) in that order."""
    pixels = np.random.default_rng(seed).integers(0, 4000, (len(offsets), 20, 30))
    normal = np.cross(orientation[:3], orientation[3:])
    for k, offset in enumerate(offsets):
        name = names[k] if names else f"{k:03d}.dcm"
        position = np.array([-6.6, -80, 90]) + normal * offset
        save_slice(folder / name, pixels[k], position, orientation, **{"InstanceNumber": k + 1} | fields)
    return pixels


@pytest.mark.parametrize("orientation", [SAGITTAL, OBLIQUE, AXIAL, CORONAL])
def test_a_series_lies_where_its_headers_say(tmp_path, orientation):
    pixels = save_series(tmp_path / "scan", orientation=orientation, names=["c.dcm", "a.dcm", "d.dcm", "b.dcm"])
    volume = read_volume(tmp_path / "scan")
    assert volume.name == "scan"
    assert volume.array.shape == (30, 20, 4)
    np.testing.assert_allclose(volume.spacing, (0.6, 0.8, 3.3), atol=1e-6)
    for file in (tmp_path / "scan").iterdir():
        header = pydicom.dcmread(file)
        along, down = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        for row, column in ((0, 0), (19, 29), (7, 11)):
            lps = np.array(header.ImagePositionPatient, float) + column * 0.6 * along + row * 0.8 * down
            voxel = volume.to_ijk(lps * (-1, -1, 1))
            np.testing.assert_allclose(voxel, np.round(voxel), atol=1e-4)
            assert volume.array[tuple(np.round(voxel).astype(int))] == header.pixel_array[row, column]
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), pixels)


def test_rescaled_values_of_a_series(tmp_path):
    pixels = save_series(tmp_path, RescaleSlope=0.5, RescaleIntercept=-7)
    np.testing.assert_allclose(read_volume(tmp_path).array.transpose(2, 1, 0), pixels * 0.5 - 7)


def study(folder, *, t2=True):
    """A usual study: localizer, T1w, T2w, STIR, axial T2w, one folder for each."""
    save_slice(
        folder / "1" / "a.dcm", np.ones((20, 30)), (0, 0, 0), SAGITTAL, uid="1.1", description="localizer", EchoTime=4
    )
    save_slice(
        folder / "1" / "b.dcm", np.ones((20, 30)), (0, 0, 0), AXIAL, uid="1.1", description="localizer", EchoTime=4
    )
    save_slice(
        folder / "1" / "c.dcm", np.ones((20, 30)), (0, 0, 0), CORONAL, uid="1.1", description="localizer", EchoTime=4
    )
    save_series(folder / "2", uid="1.2", description="T1 TSE sag", EchoTime=10, seed=2)
    pixels = save_series(folder / "3", uid="1.3", description="T2 TSE sag", seed=3) if t2 else None
    save_series(folder / "4", uid="1.4", description="STIR sag", EchoTime=70, seed=4)
    save_series(folder / "5", uid="1.5", description="T2 TSE tra", orientation=AXIAL, seed=5)
    return pixels


def test_the_sagittal_t2w_is_proposed_and_read(tmp_path):
    pixels = study(tmp_path / "study")
    found = {series.uid: series for series in list_series(tmp_path / "study")}
    assert [uid for uid, series in found.items() if series.proposed] == ["1.3"]
    assert next(iter(found)) == "1.3"
    assert {uid: s.orientation for uid, s in found.items()} == {
        "1.1": "mixed", "1.2": "sagittal", "1.3": "sagittal", "1.4": "sagittal", "1.5": "axial"
    }  # fmt: skip
    assert found["1.3"].shape == (30, 20, 4)
    assert found["1.3"].spacing == pytest.approx((0.6, 0.8, 3.3))
    assert found["1.3"].description == "T2 TSE sag"
    assert "called STIR" in found["1.4"].why
    assert "echo time 10 ms" in found["1.2"].why
    np.testing.assert_array_equal(read_volume(tmp_path / "study").array.transpose(2, 1, 0), pixels)


def test_a_series_can_be_named(tmp_path):
    study(tmp_path)
    named = read_volume(tmp_path, series="1.4").array.transpose(2, 1, 0)
    np.testing.assert_array_equal(named, np.random.default_rng(4).integers(0, 4000, (4, 20, 30)))
    with pytest.raises(InputError, match=r"holds no series 9\.9") as caught:
        read_volume(tmp_path, series="9.9")
    assert all(f"1.{n}" in str(caught.value) for n in range(1, 6))


def test_series_in_one_folder_and_one_series_in_two(tmp_path):
    """Exports differ: everything flat, with other files among it, or a series split by hundreds."""
    save_series(tmp_path, uid="1.2", description="T1 TSE sag", EchoTime=10, names=[f"a{k}" for k in range(4)])
    pixels = save_series(tmp_path, names=["b0", "x/b1", "x/y/b2", "b3"], seed=1)
    (tmp_path / "readme.txt").write_text("not an image " * 50)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 3000)
    assert {s.uid: s.shape[2] for s in list_series(tmp_path)} == {"1.2": 4, "1.2.3.4": 4}
    np.testing.assert_array_equal(read_volume(tmp_path).array.transpose(2, 1, 0), pixels)


def test_the_only_series_is_read_whatever_it_is_called(tmp_path):
    save_series(tmp_path, description="", EchoTime=None, RepetitionTime=None)
    assert not list_series(tmp_path)[0].proposed
    assert read_volume(tmp_path).array.shape == (30, 20, 4)


@pytest.mark.parametrize(
    ("fields", "proposed"),
    [
        ({}, True),
        ({"description": "t2_tse_sag_384"}, True),
        ({"description": "Sag CUBE T2", "EchoTime": 62.0}, True),
        ({"description": "SAG", "EchoTime": 110.0}, True),
        ({"description": "T2W_TSE", "EchoTime": None}, True),
        ({"description": "SAG", "EchoTime": None}, False),
        ({"description": "T2 sag", "EchoTime": 12.0}, False),
        ({"description": "t2_tirm_sag"}, False),
        ({"description": "T2 sag", "InversionTime": 160.0}, False),
        ({"description": "T2 localizer"}, False),
        ({"description": "T2 sag", "orientation": CORONAL}, False),
    ],
)
def test_which_series_looks_like_a_sagittal_t2w(tmp_path, fields, proposed):
    save_series(tmp_path, **fields)
    assert list_series(tmp_path)[0].proposed == proposed


def test_several_that_may_be_meant_are_listed(tmp_path):
    save_series(tmp_path / "1", uid="1.1", description="T2 sag C spine")
    save_series(tmp_path / "2", uid="1.2", description="T2 sag T spine")
    with pytest.raises(InputError, match="not certain which") as caught:
        read_volume(tmp_path)
    text = str(caught.value)
    assert "1.1  T2 sag C spine: " in text
    assert "1.2  T2 sag T spine: " in text
    assert "one of several" in text


def test_nothing_that_looks_right_is_listed_with_reasons(tmp_path):
    study(tmp_path, t2=False)
    with pytest.raises(InputError, match="not certain which") as caught:
        read_volume(tmp_path)
    text = str(caught.value)
    for reason in ("mixed", "called T1", "called STIR", "axial"):
        assert reason in text
    for secret in ("Secret", "SECRET", "2001", str(tmp_path)):
        assert secret not in text


def tilted(folder):
    for k in range(4):
        save_slice(folder / f"{k}.dcm", np.ones((20, 30)), (-6.6 + 3.3 * k, -80 + 0.5 * k, 90), InstanceNumber=k)


def mixed_sizes(folder):
    save_series(folder, offsets=(0, 3.3, 6.6))
    save_slice(folder / "9.dcm", np.ones((20, 32)), (-16.5, -80, 90))


def localizer(folder):
    for k, orientation in enumerate((SAGITTAL, AXIAL, CORONAL)):
        save_slice(folder / f"{k}.dcm", np.ones((20, 30)), (0, 0, k), orientation)


def one_damaged(folder):
    save_series(folder)
    data = (folder / "001.dcm").read_bytes()
    (folder / "001.dcm").write_bytes(data[: len(data) // 2])


BAD_SERIES = {
    "missing slice": (
        lambda f: save_series(f, (0, 3.3, 6.6, 13.2, 16.5)),
        r"usually 3.30 mm.*between 13.2 and 19.8 mm",
    ),
    "uneven": (lambda f: save_series(f, (0, 3.3, 6.6, 10.4)), "not evenly spaced"),
    "doubled": (lambda f: save_series(f, (0, 3.3, 3.3, 6.6)), r"1 of the 4 slices.*at 9.9 mm.*several echoes"),
    "all doubled": (lambda f: save_series(f, (0, 0, 3.3, 3.3)), "2 of the 4 slices"),
    "tilted": (tilted, "shifted against each other by up to 1.5 mm"),
    "sizes": (mixed_sizes, "orientation or size"),
    "localizer": (localizer, "a localizer"),
    "damaged slice": (one_damaged, "not evenly spaced"),
    "no place": (lambda f: save_series(f, ImagePositionPatient=None), "does not say where it lies"),
}


@pytest.mark.parametrize("name", BAD_SERIES)
def test_series_that_are_no_volume_are_refused(tmp_path, name):
    make, message = BAD_SERIES[name]
    make(tmp_path / "scan")
    with pytest.raises(InputError, match=message) as caught:
        read_volume(tmp_path / "scan")
    assert "scan" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "mm"),
    [({}, 3.0), ({"SliceThickness": None}, 3.3), ({"SpacingBetweenSlices": None, "SliceThickness": 4.5}, 4.5)],
)
def test_a_single_slice_is_as_thick_as_its_header_says(tmp_path, fields, mm):
    pixels = np.random.default_rng(0).integers(0, 4000, (20, 30))
    save_slice(tmp_path / "slice.dcm", pixels, (5, -80, 90), OBLIQUE, **fields)
    volume = read_volume(tmp_path / "slice.dcm")
    assert volume.name == "slice"
    assert volume.array.shape == (30, 20, 1)
    np.testing.assert_allclose(volume.spacing, (0.6, 0.8, mm), atol=1e-6)
    np.testing.assert_allclose(volume.to_ras([0, 0, 0]), (-5, 80, 90), atol=1e-6)
    np.testing.assert_array_equal(volume.array[..., 0].T, pixels)
    np.testing.assert_array_equal(read_volume(tmp_path).array, volume.array)  # a folder with one slice


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"SliceThickness": None, "SpacingBetweenSlices": None}, "how thick"),
        ({"ImageOrientationPatient": None}, "where it lies"),
        ({"PixelData": None}, "not a DICOM image"),
    ],
)
def test_single_slices_that_miss_something_are_refused(tmp_path, fields, message):
    save_slice(tmp_path / "slice.dcm", np.ones((20, 30)), (5, -80, 90), **fields)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / "slice.dcm")


def items(**fields):
    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    return [item]


def save_enhanced(path, pixels, order, spacing=(0.8, 0.6, 3.3), implicit=False):
    """One file with all frames, in the order given. :param spacing: of rows, columns and frames."""
    data = dicom_dataset(path, EnhancedMRImageStorage, pixels[list(order)], "1.2.3.4", "T2 sag")
    data.NumberOfFrames = len(pixels)
    shared = items(
        PlaneOrientationSequence=items(ImageOrientationPatient=list(SAGITTAL)),
        PixelMeasuresSequence=items(
            PixelSpacing=list(spacing[:2]), SliceThickness=3.0, SpacingBetweenSlices=spacing[2]
        ),
    )
    data.SharedFunctionalGroupsSequence = shared
    data.DimensionOrganizationSequence = items(DimensionOrganizationUID="1.2.3.9")
    data.PerFrameFunctionalGroupsSequence = [
        items(
            PlanePositionSequence=items(ImagePositionPatient=[-6.6 - spacing[2] * k, -80.0, 90.0]),
            FrameContentSequence=items(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1]),
        )[0]
        for k in order
    ]
    if implicit:
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_a_file_with_many_frames(tmp_path, order):
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 20, 30))
    save_enhanced(tmp_path / "many.dcm", pixels, order)
    volume = read_volume(tmp_path / "many.dcm")
    np.testing.assert_allclose(volume.spacing, (0.6, 0.8, 3.3), atol=1e-6)
    for k in range(4):
        voxel = volume.to_ijk((6.6 + 3.3 * k, 80 - 0.6 * 11, 90 - 0.8 * 7))
        assert volume.array[tuple(np.round(voxel).astype(int))] == pixels[k, 7, 11]
    series = list_series(tmp_path)[0]
    assert series.proposed
    assert (series.orientation, series.shape) == ("sagittal", (30, 20, 4))


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_frames_of_cubes_of_1_mm(tmp_path, order, implicit):
    """ITK says 1 mm of these, too, and of what it cannot put in order."""
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 20, 30))
    save_enhanced(tmp_path / "many.dcm", pixels, order, (1, 1, 1), implicit)
    volume = read_volume(tmp_path / "many.dcm")
    np.testing.assert_allclose(volume.spacing, 1, atol=1e-6)
    for k in range(4):
        voxel = volume.to_ijk((6.6 + k, 80 - 11, 90 - 7))
        assert volume.array[tuple(np.round(voxel).astype(int))] == pixels[k, 7, 11]


@pytest.mark.parametrize("spacing", [(0.8, 0.6, 3.3), (0.8, 0.6, 1), (1, 1, 1)])
def test_frames_that_itk_cannot_put_in_order_are_refused(tmp_path, spacing):
    pixels = np.random.default_rng(0).integers(0, 4000, (4, 20, 30))
    save_enhanced(tmp_path / "many.dcm", pixels, (0, 2, 1, 3), spacing)
    with pytest.raises(InputError, match="cannot be put in order"):
        read_volume(tmp_path / "many.dcm")


# ---------------------------------------------------------------- real images


def test_all_real_images_are_read_as_nibabel_reads_them(shared_data):
    paths = sorted(shared_data.rglob("*.nii.gz"))
    assert len(paths) > 20
    for path in paths:
        volume = read_volume(path)
        image = nibabel.load(path)
        np.testing.assert_allclose(volume.affine, image.affine, atol=1e-4, err_msg=path.name)
        np.testing.assert_array_equal(volume.array, np.asarray(image.dataobj), err_msg=path.name)


def test_the_real_clinical_slice(shared_data):
    path = shared_data / "clinical_tse" / "spine1.dcm"
    header = pydicom.dcmread(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[..., 0].T, header.pixel_array)
    np.testing.assert_allclose(
        volume.to_ras([0, 0, 0]), np.array(header.ImagePositionPatient, float) * (-1, -1, 1), atol=1e-4
    )
    assert volume.axis_codes == "PIR"
    assert volume.spacing[2] == pytest.approx(5)
    np.testing.assert_array_equal(read_volume(path.parent).array, volume.array)
