"""Results as BIDS derivatives: `derivatives/u2ad/sub-…/[ses-…/]anat/`, named as the Spinal Cord Toolbox does."""

import re
from pathlib import Path

import numpy as np

from . import __version__
from .analysis import Analysis
from .dataset import Case, stem
from .errors import InputError
from .files import write_json
from .io import write_volume
from .lesions import find_lesions
from .roi.labels import disc_labels

CORD, DISCS, LESIONS, MAP = "_label-SC_seg", "_label-discs_dlabel", "_label-lesion_seg", "_desc-anomaly_map"


def write_derivatives(analysis: Analysis, case: Case, root: Path) -> list[Path]:
    """Write cord, discs, lesions and anomaly map of a case on the input's grid, each with its JSON sidecar.

    Discs only where they were given, lesions only where the model has thresholds; what an earlier run wrote of them is
    removed. The sidecar of the anomaly map also holds the provenance and is written last.

    :param root: the derivative dataset, usually `derivatives/u2ad`; its description is written, too.
    :returns: the images.
    """
    folder, name = _place(case)
    folder = root / folder
    folder.mkdir(parents=True, exist_ok=True)
    program = {"Name": "U2AD", "Version": __version__}
    description = {"Name": "U2AD", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [program]}
    write_json(root / "dataset_description.json", description)
    model = analysis.provenance["model"]
    sidecar = {"SpatialReference": "orig", "GeneratedBy": [program | {"Model": model}]}
    anomaly = {"Description": "Filtered anomaly map, 0-1", "provenance": analysis.provenance}
    images = {CORD: (analysis.on_input("cord"), {"Description": "Spinal cord as it was analysed"})}
    if analysis.region.discs:
        discs = {n: analysis.stack.grid.stack_to_ras(point) for n, point in analysis.region.discs.items()}
        images[DISCS] = (
            disc_labels(analysis.volume, discs),
            {"Description": "Discs, 3 = C2/3 ... 8 = C7/T1"},
        )
    if analysis.thresholds:
        images[LESIONS] = (_lesions(analysis), {"Description": "Findings above the thresholds"})
    images[MAP] = (analysis.on_input("anomaly"), anomaly)
    for suffix in {DISCS, LESIONS} - set(images):
        for ending in (".nii.gz", ".json"):
            (folder / f"{name}{suffix}{ending}").unlink(missing_ok=True)
    written = []
    for suffix, (array, entries) in images.items():
        path = folder / f"{name}{suffix}.nii.gz"
        write_volume(path, analysis.volume.with_array(array))
        write_json(folder / f"{name}{suffix}.json", entries | sidecar)
        written.append(path)
    return written


def check_names(cases: list[Case]) -> None:
    """:raises InputError: two images would have the same name in the derivatives, or one would have none."""
    names: dict[tuple[Path, str], str] = {}
    for case in cases:
        place = _place(case)
        if place in names or place[1] == "sub-_T2w":
            other = f", as that of {names[place]}" if place in names else ""
            raise InputError(f"The name of {case.id} cannot become a BIDS name (letters, digits){other}: rename it.")
        names[place] = case.id


def record_of(case: Case, root: Path) -> Path:
    """The file that, with the provenance, says that a case's derivatives are complete."""
    folder, name = _place(case)
    return root / folder / f"{name}{MAP}.json"


def _place(case: Case) -> tuple[Path, str]:
    """Folder in the dataset and beginning of the names. A flat folder's images become subjects of their own."""
    if case.person.startswith("sub-"):
        return Path(case.person, case.session or "", "anat"), stem(case.image)
    subject = "sub-" + re.sub("[^A-Za-z0-9]", "", case.id)
    return Path(subject, "anat"), f"{subject}_T2w"


def _lesions(analysis: Analysis) -> np.ndarray:
    """Lesions on the input's grid, uint8, numbered as in the lesion table."""
    thresholds = analysis.thresholds
    found = find_lesions(analysis.anomaly, analysis.curve, analysis.region, thresholds.segment, thresholds.patient)
    stack = np.zeros(analysis.region.cord.shape, np.uint8)
    stack[list(analysis.slices)] = found.labels
    return analysis.stack.grid.to_input(stack, order=0)
