"""Reading and writing volumes: NIfTI, NRRD, MetaImage and DICOM, through SimpleITK.

Files are LPS and SimpleITK's arrays are [k, j, i]; here, and only here, they become RAS and [i, j, k].
NIfTI headers hold two geometries (qform and sform) that programs read with different preferences; an image in which they
disagree would lie in different places in different programs, so it is refused.
"""

import gzip
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .volume import Volume, volume_hash

__all__ = ["DicomSeries", "input_hash", "list_series", "read_volume", "write_volume"]

NIFTI = (".nii", ".nii.gz")
SUFFIXES = (*NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
MOST_VOXELS = 1 << 30
FORM_TOLERANCE_MM = 0.1  # a corner may move so far between qform and sform
SPACING_TOLERANCE = 0.05  # of the slice distance: more is a missing or an extra slice
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class DicomSeries:
    """One series of a DICOM folder. `why` says in words why it is proposed or not."""

    uid: str
    description: str
    orientation: str  # "sagittal", "axial", "coronal" or "mixed"
    slices: int
    files: tuple[str, ...]
    score: float  # how much it looks like a sagittal T2w; the highest positive one is proposed
    why: str


def read_volume(path: str | Path, series: str | None = None) -> Volume:
    """Read an image file, a DICOM file, or a folder of DICOM files.

    :param series: UID of the DICOM series to take; otherwise the sagittal T2-weighted one is taken.
    :returns: the volume with its geometry; its name is the file's or folder's, never the patient's.
    :raises InputError: it cannot be read, or its geometry is ambiguous.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path.name} is a link to data that are not here (git-annex?): run `git annex get` first.")
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.")
    if path.is_dir():
        return _read_dicom_folder(path, series)
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty.")
    with open(path, "rb") as stream:
        head = stream.read(140)
    if head.lstrip(b"./").startswith(b"annex/objects/") or b"/annex/objects/" in head:
        raise InputError(f"{path.name} is only a pointer to an image: run `git annex get` in its data set first.")
    name = _stem(path)
    if path.name.lower().endswith(NIFTI):
        return _read_nifti(path, name)
    if path.name.lower().endswith(SUFFIXES):
        return _from_sitk(_read_image(path), name)
    if head[128:132] == b"DICM" or path.suffix.lower() in (".dcm", ".ima", ""):
        return _read_dicom_files([str(path)], name)
    raise InputError(f"{path.name} is not an image that can be read: use {', '.join(SUFFIXES)} or DICOM.")


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write NIfTI, NRRD or MetaImage by the suffix; the file appears whole or not at all."""
    path = Path(path)
    if not path.name.lower().endswith((*NIFTI, ".nrrd", ".mha")):
        raise InputError(f"{path.name}: images are written as .nii.gz, .nii, .nrrd or .mha.")
    array = volume.array
    small = {"bool": np.uint8, "float16": np.float32, "int64": np.int32, "uint64": np.uint32}.get(array.dtype.name)
    image = sitk.GetImageFromArray(np.ascontiguousarray((array.astype(small) if small else array).transpose(2, 1, 0)))
    lps = LPS_TO_RAS @ volume.affine
    image.SetSpacing(volume.spacing.tolist())
    image.SetDirection((lps[:3, :3] / volume.spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    if path.name.lower().endswith(NIFTI):
        image.SetMetaData("qform_code", "1")
        image.SetMetaData("sform_code", "1")
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        os.replace(temporary, path)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be written: {_reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def list_series(folder: str | Path) -> list[DicomSeries]:
    """All DICOM series in a folder and its subfolders, the most likely sagittal T2w first."""
    found = []
    for place in sorted({p for p in Path(folder).rglob("*") if p.is_dir()} | {Path(folder)}):
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place)):
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid)
            found.append(_describe(uid, files))
    return sorted(found, key=lambda s: (-s.score, s.uid))


input_hash = volume_hash


# ---------------------------------------------------------------- NIfTI


def _read_nifti(path: Path, name: str) -> Volume:
    affine, shape, code = _nifti_geometry(path)
    if int(np.prod(shape)) > MOST_VOXELS:
        raise InputError(f"{path.name} has {' × '.join(map(str, shape))} voxels: too large for a scan of the neck.")
    if len(shape) > 3 and any(n > 1 for n in shape[3:]):
        raise InputError(
            f"{path.name} has {len(shape)} dimensions ({' × '.join(map(str, shape))}): extract the one volume that is "
            "to be analysed, for instance with `fslroi` or `sct_image -split t`."
        )
    image = _read_image(path)
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{path.name} holds colours or vectors (type {code}): a grey-scale image is needed.")
    return Volume(array.reshape(shape[2::-1] if len(shape) >= 3 else (1, *shape[::-1])).transpose(2, 1, 0), affine, name)


def _nifti_geometry(path: Path) -> tuple[np.ndarray, tuple[int, ...], int]:
    """Affine (RAS), shape and type code from the header itself: SimpleITK reads only one of the two forms."""
    try:
        opener = gzip.open if path.name.lower().endswith(".gz") else open
        with opener(path, "rb") as stream:
            header = stream.read(540)
        order = next(o for o in "<>" if struct.unpack(o + "i", header[:4])[0] in (348, 540))
    except (OSError, EOFError, struct.error, StopIteration):
        raise InputError(f"{path.name} is damaged or not a NIfTI image.") from None
    if struct.unpack(order + "i", header[:4])[0] == 348:
        dim = struct.unpack(order + "8h", header[40:56])
        code = struct.unpack(order + "h", header[70:72])[0]
        pixdim = struct.unpack(order + "8f", header[76:108])
        qcode, scode = struct.unpack(order + "2h", header[252:256])
        quaternion = struct.unpack(order + "6f", header[256:280])
        rows = struct.unpack(order + "12f", header[280:328])
    else:
        dim = struct.unpack(order + "8q", header[16:80])
        code = struct.unpack(order + "h", header[12:14])[0]
        pixdim = struct.unpack(order + "8d", header[104:168])
        qcode, scode = struct.unpack(order + "2i", header[344:352])
        quaternion = struct.unpack(order + "6d", header[352:400])
        rows = struct.unpack(order + "12d", header[400:496])
    if not 2 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise InputError(f"{path.name} is damaged: its header gives the size {dim[1:]}.")
    shape = dim[1 : dim[0] + 1]
    sform = np.vstack([np.reshape(rows, (3, 4)), (0, 0, 0, 1)]) if scode > 0 else None
    qform = _from_quaternion(quaternion, pixdim) if qcode > 0 else None
    if sform is None and qform is None:
        raise InputError(
            f"{path.name} does not say where it lies in the patient (neither qform nor sform is set): left and right "
            "cannot be told. Convert it from DICOM again."
        )
    if sform is not None and qform is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in (*shape, 1)[:3]])).reshape(3, -1)
        moved = np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max()
        if moved > FORM_TOLERANCE_MM:
            raise InputError(
                f"The two geometries in the header of {path.name} (sform and qform) disagree by up to {moved:.1f} mm: "
                "programs would show it in different places. Make one a copy of the other, for instance with "
                "`sct_image -set-sform-to-qform` or `fslorient -copyqform2sform`, after looking which is right."
            )
    return (sform if sform is not None else qform), tuple(int(n) for n in shape), code


def _from_quaternion(values, pixdim):
    b, c, d, *offset = values
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    flip = -1.0 if pixdim[0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * (np.abs(pixdim[1:4]) * (1, 1, flip))
    affine[:3, 3] = offset
    return affine


# ---------------------------------------------------------------- SimpleITK


def _read_image(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if int(np.prod([float(n) for n in size])) > MOST_VOXELS:
            raise InputError(f"{path.name} has {' × '.join(map(str, size))} voxels: too large for a scan of the neck.")
        return reader.Execute()
    except RuntimeError as error:
        if "orthonormal" in str(error).lower():
            raise InputError(f"The axes of {path.name} are sheared: resample it to a grid with right angles.") from None
        raise InputError(f"{path.name} is damaged or cannot be read: {_reason(error)}") from None


def _from_sitk(image: sitk.Image, name: str) -> Volume:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"{name} holds colours or vectors: a grey-scale image is needed.")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() != 3:
        raise InputError(f"{name} has {image.GetDimension()} dimensions: extract the one volume to be analysed.")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_TO_RAS @ affine, name)


# ---------------------------------------------------------------- DICOM


def _read_dicom_folder(folder: Path, series: str | None) -> Volume:
    found = list_series(folder)
    if not found:
        raise InputError(f"{folder.name} holds no DICOM series: give an image file or a folder of DICOM files.")
    listing = "\n".join(f"  {s.uid}  {s.description or 'no description'}: {s.why}" for s in found)
    if series is not None:
        chosen = [s for s in found if s.uid == series]
        if not chosen:
            raise InputError(f"{folder.name} holds no series {series}. It holds:\n{listing}")
        return _read_dicom_files(chosen[0].files, _stem(folder))
    best = [s for s in found if s.score > 0 and s.score == found[0].score]
    if len(best) != 1 and len(found) > 1:
        reason = "none looks like a sagittal T2w" if not best else "several look like a sagittal T2w"
        raise InputError(f"{folder.name} holds {len(found)} series and {reason}: name one with --series.\n{listing}")
    return _read_dicom_files(found[0].files, _stem(folder))


def _read_dicom_files(files, name: str) -> Volume:
    """Slices sorted along their normal; gaps, doubles and mixtures are refused."""
    if len(files) == 1:
        image = _read_image(Path(files[0]))
        volume = _from_sitk(image, name)
        if volume.array.shape[2] == 1:
            spacing = _single_slice_spacing(files[0], volume.spacing[2])
            affine = volume.affine.copy()
            affine[:3, 2] *= spacing / volume.spacing[2]
            volume = Volume(volume.array, affine, name)
        return volume
    headers = [_header(file) for file in files]
    orientation = np.array([h["orientation"] for h in headers])
    if np.ptp(orientation, axis=0).max() > 1e-3 or len({h["size"] for h in headers}) > 1:
        raise InputError(f"The series in {name} mixes slices of different orientation or size (a localizer?).")
    normal = np.cross(orientation[0, :3], orientation[0, 3:])
    at = np.array([h["position"] for h in headers]) @ normal
    order = np.argsort(at)
    steps = np.diff(at[order])
    if (steps < 1e-3).any():
        raise InputError(f"The series in {name} has {np.count_nonzero(steps < 1e-3)} slices at the place of another.")
    if np.ptp(steps) > SPACING_TOLERANCE * np.median(steps):
        raise InputError(
            f"The slices of {name} are not evenly spaced ({steps.min():.2f} to {steps.max():.2f} mm apart): is one "
            "missing? Export the series again."
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([files[i] for i in order])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The series in {name} cannot be read: {_reason(error)}") from None
    return _from_sitk(image, name)


def _single_slice_spacing(file, fallback):
    """Thickness of a lone slice: a voxel must be as thick as the slice that was excited."""
    read = _tags(file)
    for tag in ("0018|0050", "0018|0088"):
        try:
            if (value := float(read(tag))) > 0:
                return value
        except ValueError:
            continue
    return fallback


def _tags(file):
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{Path(file).name} cannot be read as DICOM: {_reason(error)}") from None
    return lambda tag: reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""


def _header(file):
    read = _tags(file)
    try:
        orientation = [float(v) for v in read("0020|0037").split("\\")]
        position = [float(v) for v in read("0020|0032").split("\\")]
    except ValueError:
        orientation, position = [], []
    if len(orientation) != 6 or len(position) != 3:
        raise InputError(f"{Path(file).name} does not say where its slice lies in the patient.")
    return {"orientation": orientation, "position": position, "size": (read("0028|0010"), read("0028|0011"))}


def _describe(uid, files) -> DicomSeries:
    read = _tags(files[0])
    description = read("0008|103e")
    try:
        headers = [_header(file) for file in files]
        normals = np.array([np.cross(h["orientation"][:3], h["orientation"][3:]) for h in headers])
        axes = {int(np.abs(n).argmax()) for n in normals}
        orientation = ("sagittal", "coronal", "axial")[axes.pop()] if len(axes) == 1 else "mixed"
    except InputError:
        orientation = "mixed"
    words = description.lower().replace("_", " ")

    def number(tag):
        try:
            return float(read(tag))
        except ValueError:
            return 0.0

    echo, repetition = number("0018|0081"), number("0018|0080")
    t2_words = any(w in words for w in ("t2", "tse", "fse", "space", "cube", "vista"))
    other = next((w for w in ("stir", "t1", "flair", "dixon", "loc", "scout", "survey", "swi", "diff") if w in words), "")
    reasons = [orientation]
    score = 2.0 if orientation == "sagittal" else -4.0
    if echo >= 60 and repetition >= 1000:
        score += 2
        reasons.append("T2-weighted by its echo time")
    elif echo and echo < 40:
        score -= 3
        reasons.append("not T2-weighted by its echo time")
    if t2_words and not other:
        score += 1
        reasons.append("called T2")
    if other:
        score -= 3
        reasons.append(f"called {other.upper()}")
    reasons.append(f"{len(files)} slices")
    return DicomSeries(uid, description, orientation, len(files), tuple(files), score, ", ".join(reasons))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in sorted((*SUFFIXES, ".dcm", ".ima"), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _reason(error: Exception) -> str:
    """The last line of an ITK error, without its file names and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1].split("): ", 1)[-1] if lines else type(error).__name__)[:200]
