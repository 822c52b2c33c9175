"""Reading and writing volumes: NIfTI, NRRD, MetaImage and DICOM.

NIfTI is read and written here, the others through SimpleITK. Its files are LPS and its arrays [k, j, i]; here, and only
here, they become RAS and [i, j, k]. ITK's own NIfTI reader cannot be trusted with a patient: it fills a truncated file
with zeros, takes the voxels of `neck.nii` for `neck.nii.gz` where both lie in one folder, and refuses axes that are off
by rounding alone.

A NIfTI header holds two geometries (qform and sform), and programs differ in which they prefer. An image in which they
disagree would lie in different places in different programs, so it is refused; so is an image that does not say where
it lies in the patient.
"""

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .volume import Volume

NIFTI = (".nii", ".nii.gz")
SUFFIXES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
MOST_VOXELS = 1 << 30
PLACE_TOLERANCE_MM = 0.1  # between two statements of where a voxel lies
HALF_TURN_REST = 4e-7  # single precision: less than this cannot be told from 0 in 1 − b² − c² − d²
SPACING_TOLERANCE = 0.05  # of the distance between slices: more is a missing or an extra one
ANGLE_TOLERANCE = 1e-3  # between the direction cosines of slices that belong together
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

T2_ECHO_MS = 60  # turbo spin echo; T1-weighted ones are below 40
T2_WORDS = ("t2", "tse", "fse", "space", "cube", "vista")
OTHER_WORDS = (
    "t1", "stir", "tirm", "flair", "dixon", "dwi", "diff", "adc", "swi", "pd", "mip", "myelo",
    "loc", "scout", "survey", "plan",
)  # fmt: skip


@dataclass(frozen=True)
class DicomSeries:
    """One series of a DICOM folder. `why` says in words what it is, and so why it is proposed or not."""

    uid: str
    description: str
    orientation: str  # "sagittal", "coronal", "axial" or "mixed"
    shape: tuple[int, int, int]  # columns, rows, slices
    spacing: tuple[float, float, float]  # mm; of a single slice its thickness
    proposed: bool  # the one that looks like a sagittal T2w; of several such, none
    why: str
    files: tuple[str, ...]


@contextmanager
def _without_itk_warnings():
    """Errors are reported; ITK's warnings on standard error hold file names and help nobody."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@_without_itk_warnings()
def read_volume(path: str | Path, series: str | None = None) -> Volume:
    """Read an image file, a DICOM file, or a folder of DICOM files.

    :param series: UID of the DICOM series to take; otherwise the only one, or the sagittal T2-weighted one.
    :returns: the volume with its geometry; its name is the file's or folder's, never the patient's.
    :raises InputError: it cannot be read, is not one volume, or it is not certain where it lies in the patient.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path.name} is a link to data that are not here (git-annex?): run `git annex get` first.")
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.")
    if path.is_dir():
        return _read_dicom_folder(path, series)
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError as error:
        raise InputError(f"{path.name} cannot be opened: {error.strerror}.") from error
    if not head:
        raise InputError(f"{path.name} is empty.")
    if b"/annex/objects/" in head:
        raise InputError(f"{path.name} is only a pointer to an image: run `git annex get` in its data set first.")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path.name} is only a pointer to an image: run `git lfs pull` in its repository first.")
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    name = path.name[: -len(suffix)] if suffix else re.sub(r"\.(dcm|ima)$", "", path.name, flags=re.IGNORECASE)
    if suffix in NIFTI:
        return _read_nifti(path, name)
    if suffix:
        _refuse_unless_placed(path)
        return _from_sitk(_read_image(path), name)
    if head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".ima", ""):
        return _read_dicom_files([str(path)], name)
    raise InputError(f"{path.name} is not an image that can be read: use {', '.join(SUFFIXES)} or DICOM.")


@_without_itk_warnings()
def write_volume(path: str | Path, volume: Volume) -> None:
    """Write NIfTI, NRRD or MetaImage by the suffix; the file appears whole or not at all.

    The type is kept, except that masks become uint8, 64-bit integers 32 bits where they fit, and other floats float32.
    The same volume always gives the same bytes.

    :raises InputError: the suffix is another, or the file cannot be written.
    """
    path = Path(path)
    suffix = next((s for s in (*NIFTI, ".nrrd", ".mha") if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise InputError(f"{path.name}: images are written as .nii.gz, .nii, .nrrd or .mha.")
    volume = volume.with_array(_storable(volume.array))
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        if suffix in NIFTI:
            _write_nifti(temporary, volume, compressed=suffix == ".nii.gz")
        else:
            sitk.WriteImage(_to_sitk(volume), str(temporary), useCompression=True)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "is there such a folder, and room on the disk?"
        raise InputError(f"{path} cannot be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)


@_without_itk_warnings()
def list_series(folder: str | Path) -> list[DicomSeries]:
    """All DICOM series in a folder and its subfolders, the proposed one first."""
    folder = Path(folder)
    files: dict[str, list[str]] = {}
    for place in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place)):
            files.setdefault(uid, []).extend(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid))
    found = [_describe(uid, names) for uid, names in files.items()]
    if sum(series.proposed for series in found) > 1:
        found = [
            replace(s, proposed=False, why=f"{s.why}; one of several that may be meant") if s.proposed else s
            for s in found
        ]
    return sorted(found, key=lambda s: (not s.proposed, s.description, s.uid))


# ---------------------------------------------------------------- NIfTI

_NIFTI_TYPES = {
    2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8",
}  # fmt: skip


@dataclass(frozen=True)
class _NiftiHeader:
    """What the header of NIfTI-1 or NIfTI-2 says about voxels and geometry."""

    order: str  # of bytes, "<" or ">"
    shape: tuple[int, ...]
    type_code: int
    offset: int
    slope: float
    intercept: float
    qforms: tuple[np.ndarray, ...]  # voxel → RAS mm; none: not set; two: as precise as its numbers are, either is meant
    sform: np.ndarray | None


def _read_nifti(path: Path, name: str) -> Volume:
    damaged = InputError(f"{path.name} is damaged or incomplete: copy or convert it again.")
    try:
        with open(path, "rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else open(path, "rb") as stream:
            header = _nifti_header(stream.read(540), path.name)
            affine = _one_geometry(header, name, path.name)
            dtype = np.dtype(header.order + _NIFTI_TYPES[header.type_code])
            stream.seek(header.offset)
            voxels = stream.read(math.prod(header.shape) * dtype.itemsize)
    except (OSError, EOFError, zlib.error, struct.error, ValueError, OverflowError) as error:
        raise damaged from error
    if len(voxels) < math.prod(header.shape) * dtype.itemsize:
        raise damaged
    array = np.frombuffer(voxels, dtype).reshape(header.shape, order="F")
    array = array.astype(dtype.newbyteorder("="), copy=False).reshape((*header.shape, 1)[:3])
    if header.slope not in (0, 1) or (header.slope and header.intercept):
        array = (array * header.slope + header.intercept).astype(np.float32)
    return Volume(array, affine, name)


def _nifti_header(data: bytes, file: str) -> _NiftiHeader:
    """:raises InputError: no NIfTI, or not one grey-scale volume of a size that a scan of the neck can have."""
    size = next((o for o in "<>" if struct.unpack(o + "i", data[:4])[0] in (348, 540)), None)
    order = size or "<"
    first = struct.unpack(order + "i", data[:4])[0] == 348

    def field(code, at, at_second):
        return struct.unpack_from(order + code, data, at if first else at_second)

    if size is None or (data[344:348] != b"n+1\0" if first else data[4:8] != b"n+2\0"):
        raise InputError(f"{file} is not a NIfTI image (.nii or .nii.gz in one file).")
    real, long = ("f", "h") if first else ("d", "q")
    dim = field(f"8{long}", 40, 16)
    shape = dim[1 : dim[0] + 1]
    if not 2 <= dim[0] <= 7 or min(shape) < 1:
        raise InputError(f"{file} is damaged: its header gives the size {dim[1:]}.")
    if math.prod(shape[3:]) > 1:
        raise InputError(
            f"{file} has {len(shape)} dimensions ({' × '.join(map(str, shape))}): extract the one volume that is to "
            "be analysed, for instance with `fslroi` or `sct_image -split t`."
        )
    _refuse_if_huge(file, shape)
    (type_code,) = field("h", 70, 12)
    if type_code not in _NIFTI_TYPES:
        raise InputError(
            f"{file} holds colours, complex numbers or another type that is not supported (code {type_code}): a "
            "grey-scale image is needed."
        )
    pixdim = field(f"8{real}", 76, 104)
    (offset,) = field("f" if first else "q", 108, 168)
    slope, intercept = field(f"2{real}", 112, 176)
    qform_code, sform_code = field("2h" if first else "2i", 252, 344)
    rows = np.reshape(field(f"12{real}", 280, 400), (3, 4))
    return _NiftiHeader(
        order=order,
        shape=shape[:3],
        type_code=type_code,
        offset=int(offset),
        slope=slope if np.isfinite([slope, intercept]).all() else 0.0,
        intercept=intercept,
        qforms=_from_quaternion(field(f"6{real}", 256, 352), pixdim) if qform_code > 0 else (),
        sform=np.vstack([rows, (0, 0, 0, 1)]) if sform_code > 0 else None,
    )


def _one_geometry(header: _NiftiHeader, name: str, file: str) -> np.ndarray:
    """The affine, if it is certain. :raises InputError: qform and sform disagree, or both are missing."""
    sform = header.sform
    if sform is None and not header.qforms:
        raise InputError(
            f"{file} does not say where it lies in the patient (neither qform nor sform is set): left and right cannot "
            "be told. Convert it from DICOM again."
        )
    # A volume refuses what is no geometry at all; what would be compared is then finite.
    grids = [Volume(np.empty((1, 1, 1)), form, name) for form in header.qforms]
    if sform is None:
        return grids[0].affine
    stated = Volume(np.empty((1, 1, 1)), sform, name)
    if grids:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in (*header.shape, 1)[:3]])).reshape(3, -1).T
        moved = [np.linalg.norm(stated.to_ras(corners) - grid.to_ras(corners), axis=1).max() for grid in grids]
        if min(moved) > PLACE_TOLERANCE_MM:
            raise InputError(
                f"The two geometries in the header of {file} disagree by up to {min(moved):.1f} mm, so programs show "
                f"it in different places: the sform has {_geometry(stated)}, the qform {_geometry(grids[0])}. Find out "
                "which is right and copy it over the other: `fslorient -copysform2qform` or `-copyqform2sform` (FSL), "
                "`sct_image -set-qform-to-sform` or `-set-sform-to-qform` (SCT)."
            )
    return stated.affine


def _geometry(grid: Volume) -> str:
    spacing, origin = ([f"{value:.4g}" for value in values] for values in (grid.spacing, grid.affine[:3, 3]))
    return f"axes {grid.axis_codes}, spacing {' × '.join(spacing)} mm, first voxel at ({', '.join(origin)}) mm"


def _from_quaternion(values, pixdim) -> tuple[np.ndarray, ...]:
    """(b, c, d, offsets) and pixdim → affine, by the formula in nifti1.h.

    Of a turn by nearly 180° the remainder a is not known: b, c, d are single precision, and a² is what they lack to 1.
    It may be a half turn or differ from one by 0.07°, so both are given, the half turn first.
    """
    *vector, x, y, z = values
    length = float(np.dot(vector, vector))
    rest = 1 - length
    if not (rest > -1e-3 and np.isfinite(pixdim[1:4]).all()):
        raise ValueError("no quaternion")
    quaternions = [(math.sqrt(max(0.0, rest)), *vector)]
    if rest < HALF_TURN_REST:
        quaternions.insert(0, (0.0, *(np.array(vector) / math.sqrt(length))))
    affines = []
    for a, b, c, d in quaternions:
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        affine = np.eye(4)
        affine[:3, :3] = rotation * np.abs(pixdim[1:4]) * (1, 1, -1 if pixdim[0] < 0 else 1)
        affine[:3, 3] = (x, y, z)
        affines.append(affine)
    return tuple(affines)


def _to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """(b, c, d) float32 of a rotation. Of a half turn b² + c² + d² is at least 1: no reader shall find a remainder."""
    from scipy.spatial.transform import Rotation

    *vector, a = Rotation.from_matrix(rotation).as_quat(canonical=True)
    single = np.array(vector, np.float32)
    if a * a < HALF_TURN_REST:
        single = (np.array(vector) / np.linalg.norm(vector)).astype(np.float32)
        largest = np.abs(single).argmax()
        while np.dot(single.astype(float), single.astype(float)) < 1:
            single[largest] = np.nextafter(single[largest], np.float32(2) * np.sign(single[largest]))
    return single


def _write_nifti(path: Path, volume: Volume, compressed: bool) -> None:
    """NIfTI-1 with the affine as sform and, as near as a rotation comes, as qform."""
    array = volume.array
    handed = 1.0 if np.linalg.det(volume.directions) > 0 else -1.0
    quaternion = _to_quaternion(volume.directions * (1, 1, handed))
    code = next(code for code, kind in _NIFTI_TYPES.items() if np.dtype(kind) == array.dtype)
    header = bytearray(352)
    for layout, at, values in (
        ("i", 0, (348,)),
        ("8h", 40, (3, *array.shape, 1, 1, 1, 1)),
        ("2h", 70, (code, 8 * array.dtype.itemsize)),
        ("8f", 76, (handed, *volume.spacing, 1, 1, 1, 1)),
        ("3f", 108, (352, 1, 0)),  # where the voxels begin, slope, intercept
        ("B", 123, (2,)),  # mm
        ("2h", 252, (1, 1)),  # qform and sform are scanner coordinates
        ("6f", 256, (*quaternion, *volume.affine[:3, 3])),
        ("12f", 280, volume.affine[:3].ravel()),
        ("4s", 344, (b"n+1\0",)),
    ):
        struct.pack_into("<" + layout, header, at, *values)
    data = bytes(header) + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    path.write_bytes(gzip.compress(data, 6, mtime=0) if compressed else data)


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.itemsize == 8:
        short = array.astype(np.int32)
        return short if np.array_equal(short, array) else array
    return array


# ---------------------------------------------------------------- NRRD, MetaImage: SimpleITK


def _refuse_unless_placed(path: Path) -> None:
    """ITK takes an image without directions for an axial one. :raises InputError: NRRD, MetaImage do not have any."""
    with open(path, "rb") as stream:
        header = stream.read(1 << 16)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        header = re.split(rb"\r?\n\r?\n", header)[0]
        needed = (rb"^space:\s*(\w+-\w+-superior|[LR][AP]S)", rb"^space directions:")
    else:
        needed = (rb"^(TransformMatrix|Orientation|Rotation)\s*=",)
    if not all(re.search(pattern, header, re.MULTILINE | re.IGNORECASE) for pattern in needed):
        raise InputError(
            f"{path.name} does not say where it lies in the patient (its header has no space and directions): left and "
            "right cannot be told. Convert it from DICOM again."
        )


def _read_image(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _refuse_if_huge(path.name, reader.GetSize())
        return reader.Execute()
    except RuntimeError as error:
        beside = path.suffix.lower() in (".nhdr", ".mhd")
        raise InputError(
            f"{path.name} cannot be read: it is damaged, incomplete or not of the kind that its name says"
            f"{', or the file with its voxels is missing' if beside else ''}."
        ) from error


def _refuse_if_huge(file: str, size: Sequence[int]) -> None:
    if math.prod(size) > MOST_VOXELS:
        raise InputError(f"{file} has {' × '.join(map(str, size))} voxels: too large for a scan of the neck.")


def _from_sitk(image: sitk.Image, name: str) -> Volume:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{name} holds colours or vectors: a grey-scale image is needed.")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"{name} has {image.GetDimension()} dimensions ({' × '.join(map(str, image.GetSize()))}): extract the one "
            "volume that is to be analysed."
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine, name)


def _to_sitk(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.transpose(2, 1, 0)))
    lps = LPS_TO_RAS @ volume.affine
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


# ---------------------------------------------------------------- DICOM


# Among the bytes of a file (little endian): a tag, four bytes with type or length, and numbers as text. The position of
# a frame is alone in a sequence of one item.
_NUMBERS = rb".{4}([-+.\deE \\]+)"
_PIXEL_SPACING = re.compile(rb"\x28\x00\x30\x00" + _NUMBERS, re.DOTALL)
_PLANE_POSITION = re.compile(
    rb"\x20\x00\x13\x91(?:SQ..)?.{4}\xfe\xff\x00\xe0.{4}\x20\x00\x32\x00" + _NUMBERS, re.DOTALL
)


@dataclass(frozen=True)
class _DicomHeader:
    """What one DICOM file says about itself, in its own coordinates (LPS)."""

    size: tuple[int, ...]  # columns, rows, frames
    spacing: tuple[float, ...]
    placed: bool  # it says where it lies in the patient
    position: np.ndarray
    axes: np.ndarray  # (3, 3); columns: along a row, along a column, normal
    thickness: float  # mm; 0: unknown
    description: str
    times: tuple[float, float]  # echo and inversion time, ms; 0: unknown

    @property
    def frames(self) -> int:
        return self.size[2] if len(self.size) > 2 else 1


def _dicom_header(file: str) -> _DicomHeader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{Path(file).name} cannot be read: it is damaged, or not a DICOM image.") from error

    def text(tag):
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    def number(*tags):
        for tag in tags:
            try:
                if (value := float(text(tag).split("\\")[0])) > 0:
                    return value
            except ValueError:
                pass
        return 0.0

    size = reader.GetSize()
    many = len(size) > 2 and size[2] > 1
    return _DicomHeader(
        size=size,
        spacing=reader.GetSpacing(),
        # Files with many frames keep their geometry in sequences, which ITK reads but does not show.
        placed=many or bool(text("0020|0032") and text("0020|0037")),
        position=np.array(reader.GetOrigin()),
        axes=np.reshape(reader.GetDirection(), (3, 3)),
        # Of a lone slice: a voxel is as thick as what was excited.
        thickness=number("0018|0050", "0018|0088"),
        description=text("0008|103e"),
        times=(number("0018|0081"), number("0018|0082")),
    )


def _read_dicom_folder(folder: Path, series: str | None) -> Volume:
    name = folder.name or folder.resolve().name
    found = list_series(folder)
    if not found:
        raise InputError(f"{name} holds no DICOM series: give an image file or a folder of DICOM files.")
    listing = "\n".join(f"  {s.uid}  {s.description or '(no description)'}: {s.why}" for s in found)
    if series is not None:
        chosen = next((s for s in found if s.uid == series), None)
        if chosen is None:
            raise InputError(f"{name} holds no series {series}. It holds:\n{listing}")
    elif found[0].proposed or len(found) == 1:
        chosen = found[0]
    else:
        raise InputError(
            f"{name} holds {len(found)} series, and it is not certain which is the sagittal T2-weighted one: name it "
            f"with --series UID.\n{listing}"
        )
    return _read_dicom_files(chosen.files, name)


def _read_dicom_files(files: Sequence[str], name: str) -> Volume:
    """Slices sorted along their normal; gaps, doubles, shifts and mixtures are refused."""
    headers = [_dicom_header(file) for file in files]
    if not all(header.placed for header in headers):
        raise InputError(f"{name} does not say where it lies in the patient: it is no MR image, or lost its header.")
    if len(files) == 1:
        return _read_dicom_file(files[0], headers[0], name)
    files = [files[i] for i in _stacked(headers, name)]
    _refuse_if_huge(name, (*headers[0].size[:2], len(files)))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    try:
        return _from_sitk(reader.Execute(), name)
    except RuntimeError as error:
        raise InputError(f"The series in {name} cannot be read: a file is damaged. Export it again.") from error


def _read_dicom_file(file: str, header: _DicomHeader, name: str) -> Volume:
    volume = _from_sitk(_read_image(Path(file)), name)
    if header.frames > 1:
        # What ITK says where it cannot make a stack of the frames; and of cubes of 1 mm.
        if header.spacing == (1, 1, 1) and not _are_cubes_of_1_mm(file, header):
            raise InputError(
                f"The frames of {name} cannot be put in order. Convert it to NIfTI, for instance with dcm2niix."
            )
        return volume
    if not header.thickness:
        raise InputError(f"{name} does not say how thick its slice is.")
    scale = np.diag([1, 1, header.thickness / volume.spacing[2], 1])
    return Volume(volume.array, volume.affine @ scale, name)


def _are_cubes_of_1_mm(file: str, header: _DicomHeader) -> bool:
    """Whether the file itself says that its voxels are, and that every frame lies where ITK puts it.

    It says so in sequences, which ITK does not show: the numbers are searched for among the file's bytes.
    """
    content = Path(file).read_bytes()
    try:
        spacings, positions = (
            np.array([[float(value) for value in text.split(b"\\")] for text in pattern.findall(content)])
            for pattern in (_PIXEL_SPACING, _PLANE_POSITION)
        )
    except ValueError:
        return False
    expected = header.position + np.arange(header.frames)[:, None] * header.axes[:, 2]
    if spacings.shape[1:] != (2,) or positions.shape != expected.shape:
        return False
    return np.allclose(spacings, 1, rtol=0, atol=1e-6) and np.abs(positions - expected).max() < PLACE_TOLERANCE_MM


def _stacked(headers: list[_DicomHeader], name: str) -> np.ndarray:
    """The order in which single slices make a stack. :raises InputError: they do not."""
    first = headers[0]
    if any(
        header.size != first.size
        or header.frames > 1
        or np.abs(header.axes - first.axes).max() > ANGLE_TOLERANCE
        or not np.allclose(header.spacing[:2], first.spacing[:2], rtol=ANGLE_TOLERANCE)
        for header in headers
    ):
        raise InputError(
            f"The series in {name} mixes slices of different orientation or size (a localizer?): it is not one volume."
        )
    across, along = np.split(np.array([header.position for header in headers]) @ first.axes, [2], axis=1)
    order = np.argsort(along[:, 0], kind="stable")
    at = along[order, 0]
    steps = np.diff(at)
    if steps.min() < PLACE_TOLERANCE_MM:
        twice = at[1:][steps < PLACE_TOLERANCE_MM]
        raise InputError(
            f"{len(twice)} of the {len(at)} slices of {name} lie where another does (at {_listed_mm(twice)}): the "
            "series holds several echoes, repeats or reconstructions. Give a folder with one of them."
        )
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > SPACING_TOLERANCE * usual)
    if len(odd):
        between = ", ".join(f"{at[k]:.1f} and {at[k + 1]:.1f} mm" for k in odd[:3])
        raise InputError(
            f"The slices of {name} are not evenly spaced: usually {usual:.2f} mm apart, but not between {between}. Is "
            "one missing? Export the series again."
        )
    shift = np.ptp(across, axis=0).max()
    if shift > PLACE_TOLERANCE_MM:
        raise InputError(
            f"The slices of {name} are shifted against each other by up to {shift:.1f} mm in their plane (a tilted "
            "stack): it cannot be read as a volume with right angles."
        )
    return order


def _describe(uid: str, files: list[str]) -> DicomSeries:
    """A series in words; `proposed` if it looks like a sagittal T2w."""
    headers = [_dicom_header(file) for file in files]
    first = headers[0]
    axes = {int(np.abs(header.axes[:, 2]).argmax()) for header in headers if header.placed}
    orientation = ("sagittal", "coronal", "axial")[axes.pop()] if len(axes) == 1 else "mixed"
    words = re.findall("[a-z]+[0-9]*", first.description.lower())
    other = next((w for w in OTHER_WORDS if any(word.startswith(w) for word in words)), None)
    echo, inversion = first.times
    weighted = echo >= T2_ECHO_MS if echo else any(word.startswith(T2_WORDS) for word in words)
    thickness = first.thickness or first.spacing[-1]
    if len(headers) > 1:
        along = sorted(float(header.position @ first.axes[:, 2]) for header in headers)
        thickness = float(np.median(np.diff(along)))
    slices = first.frames if len(headers) == 1 else len(headers)
    why = [f"{orientation}, {slices} slice{'s' if slices > 1 else ''}"]
    why.append(f"echo time {echo:g} ms" if echo else "echo time unknown")
    if inversion:
        why.append("inversion recovery")
    if other:
        why.append(f"called {other.upper()}")
    proposed = orientation == "sagittal" and weighted and not inversion and not other
    if proposed:
        why.append("looks like a sagittal T2w")
    return DicomSeries(
        uid=uid,
        description=first.description,
        orientation=orientation,
        shape=(*first.size[:2], slices),
        spacing=(*first.spacing[:2], thickness),
        proposed=proposed,
        why=", ".join(why),
        files=tuple(files),
    )


def _listed_mm(values: np.ndarray) -> str:
    return ", ".join(f"{value:.1f}" for value in values[:3]) + (" … mm" if len(values) > 3 else " mm")
