"""The images in a folder, each with the masks that belong to it: BIDS datasets as they are, and flat folders.

Found by names alone; nothing is opened but the first bytes of files that could be DICOM. A link that leads nowhere
(git-annex content that was not fetched) counts as a file, so that reading it can say what to do.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import InputError

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

# What a mask's name adds to its image's; the first that is found is taken: corrected ones before automatic ones.
CORD_SUFFIXES = ("_label-SC_seg", "_seg-manual", "_sc_seg", "_seg", "_cord", "_totalspineseg_all", "_step2_output")
DISC_SUFFIXES = (
    "_label-discs_dlabel", "_labels-disc-manual", "_discs", "_seg_labeled_discs", "_seg_labeled",
    "_totalspineseg_all", "_step2_output",
)  # fmt: skip
TOTALSPINESEG = "step2_output"  # the folder, in TotalSpineSeg's output folder, with the final labels of every image

BIDS_SUFFIXES = ("T2w", "T1w", "T2star", "PDw", "MTS", "FLAIR")  # of images whose contrast their acq- names
_BIDS_NAME = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?(?:_|$)")

# Words that only files made from an image have in their names.
_DERIVED = re.compile(
    r"(^|[-_.])(seg|segmentation|d?labels?|labeled|lesions?|masks?|levels|centerline|landmarks|softseg)([-_.]|$)", re.I
)


@dataclass(frozen=True)
class Case:
    """One image. `cord` and `discs` are None where no file of a known name lies with it."""

    id: str  # unique in the folder; the name of the case's results
    person: str  # "sub-…" of a BIDS name, else the image's name
    session: str | None  # "ses-…"
    image: Path  # a file, or a folder with a DICOM series
    cord: Path | None = None
    discs: Path | None = None
    pathology: str | None = None  # from participants.tsv


def find_cases(folder: Path, contrast: str = "T2w") -> list[Case]:
    """All images of a folder that are of a contrast, sorted by id.

    BIDS, where the folder has `sub-*` folders: `sub-*/[ses-*/]anat/*_T2w.nii[.gz]` or, of another contrast than T2w,
    `*_CONTRAST.nii[.gz]` and `*_acq-CONTRAST_*.nii[.gz]`; masks beside the image or anywhere below
    `derivatives/labels`. Otherwise flat, where names say nothing of the contrast: every NIfTI, NRRD and MetaImage file,
    every sub-folder with DICOM files, or the folder itself where it holds them; masks are named as the image (or the
    DICOM folder) with a suffix.

    :raises InputError: there is no such folder, or nothing in it.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    subjects = [path for path in folder.glob("sub-*") if path.is_dir()]
    cases = list(_bids_cases(folder, subjects, contrast) if subjects else _flat_cases(folder))
    if not cases:
        wanted = f"sub-*/anat/*_{contrast}.nii.gz" if subjects else f"{', '.join(EXTENSIONS)} files or DICOM series"
        raise InputError(f"No image was found in {folder}: expected are {wanted}.")
    count = Counter(case.id.casefold() for case in cases)
    # a.nii.gz beside a.nrrd; names that differ only in case would share a results folder on some computers.
    cases = [replace(c, id=c.image.name) if count[c.id.casefold()] > 1 else c for c in cases]
    if len({case.id.casefold() for case in cases}) < len(cases):
        names = ", ".join(sorted(name for name, n in count.items() if n > 1))
        raise InputError(f"Several images in {folder} have the same name ({names}): rename them.")
    return sorted(cases, key=lambda case: case.id)


def labels_beside(image: Path) -> tuple[Path | None, Path | None]:
    """Cord mask and disc labels that lie beside an image (a file, or a DICOM folder): files of known names (see above),
    or TotalSpineSeg's, whose output folder lies there, too. None where there is none."""
    image = Path(image).absolute()
    places = [_labels(image.parent.iterdir())] if image.parent.is_dir() else []
    name = stem(image)
    spine = _totalspineseg(image.parent, name)
    return tuple(_mask(name, suffixes, *places) or spine for suffixes in (CORD_SUFFIXES, DISC_SUFFIXES))


def stem(path: Path) -> str:
    """A file's name without its image extension, a folder's name as it is."""
    extension = next((e for e in EXTENSIONS if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(extension)]


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file, by its magic bytes."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _bids_cases(folder: Path, subjects: list[Path], contrast: str) -> Iterator[Case]:
    pathologies = _pathologies(folder / "participants.tsv")
    central = _labels(folder.glob("derivatives/labels/**/*"))
    for subject in subjects:
        for anat in (*subject.glob("anat"), *subject.glob("ses-*/anat")):
            beside = _labels(anat.iterdir())
            for path in anat.iterdir():
                name = stem(path)
                if _is_image_file(path) and _is_of(contrast, name):
                    yield Case(
                        id=name,
                        person=subject.name,
                        session=None if anat.parent == subject else anat.parent.name,
                        image=path,
                        cord=_mask(name, CORD_SUFFIXES, beside, central) or _totalspineseg(anat, name),
                        discs=_mask(name, DISC_SUFFIXES, beside, central) or _totalspineseg(anat, name),
                        pathology=pathologies.get(subject.name),
                    )


def _is_of(contrast: str, name: str) -> bool:
    """Whether a BIDS name is of a contrast. A mask's is not: its name ends otherwise."""
    *entities, suffix = name.split("_")
    if suffix == contrast:
        return True
    return f"acq-{contrast}" in entities and suffix in BIDS_SUFFIXES


def _flat_cases(folder: Path) -> Iterator[Case]:
    labels = _labels(folder.iterdir())
    images = [path for path in folder.iterdir() if _is_image_file(path) and not _is_derived(stem(path))]
    if _holds_dicom(folder.iterdir()):
        images.append(folder)
    series = (path for path in folder.iterdir() if path.is_dir() and path.name not in ("sourcedata", "derivatives"))
    images += [path for path in series if _holds_dicom(path.rglob("*"))]
    for path in images:
        name = stem(path)
        bids = _BIDS_NAME.match(name)
        yield Case(
            id=name,
            person=bids[1] if bids else name,
            session=bids[2] if bids else None,
            image=path,
            cord=_mask(name, CORD_SUFFIXES, labels) or _totalspineseg(folder, name),
            discs=_mask(name, DISC_SUFFIXES, labels) or _totalspineseg(folder, name),
        )


def _is_image_file(path: Path) -> bool:
    if path.name.startswith(".") or not path.name.lower().endswith(EXTENSIONS):
        return False
    return path.is_file() or path.is_symlink()


def _is_derived(name: str) -> bool:
    return name.endswith(CORD_SUFFIXES + DISC_SUFFIXES) or _DERIVED.search(name) is not None


def _holds_dicom(paths) -> bool:
    return any(is_dicom(path) for path in paths if path.is_file() and not _is_image_file(path))


def _labels(paths) -> dict[str, Path]:
    """Image files by stem; of several with one name the first in order of path."""
    return {stem(path): path for path in sorted(paths, reverse=True) if _is_image_file(path)}


def _mask(name: str, suffixes: tuple[str, ...], *places: dict[str, Path]) -> Path | None:
    """The first mask of an image, places before suffixes."""
    found = (place[name + suffix] for place in places for suffix in suffixes if name + suffix in place)
    return next(found, None)


def _totalspineseg(folder: Path, name: str) -> Path | None:
    """What TotalSpineSeg made of an image, where its output folder is `folder` or lies in it."""
    found = (
        path
        for place in sorted([*folder.glob(TOTALSPINESEG), *folder.glob(f"*/{TOTALSPINESEG}")])
        for path in (place / f"{name}{extension}" for extension in EXTENSIONS)
    )
    return next((path for path in found if path.is_file()), None)


def _pathologies(path: Path) -> dict[str, str]:
    """Column `pathology` of participants.tsv, by participant; empty where there is none."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {
        row["participant_id"]: row["pathology"]
        for row in rows
        if row.get("participant_id") and row.get("pathology") not in (None, "", "n/a")
    }
