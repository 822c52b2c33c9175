"""The pseudo-anomaly data set as files: original, altered and mask of each slice (paper 4.1, #2).

Written are slices of phantoms; those of people only where the configuration says that they may be shown.
"""

import shutil

import numpy as np

from ....files import write_json
from ....io import write_volume
from ....volume import Volume
from ..training import Comparison
from .context import Context
from .result import Result
from .scoring import Job, file_name

TITLE = "The pseudo-anomaly data set"
FOLDER = "pseudo-dataset"


def jobs(comparison: Comparison) -> list[Job]:
    """None."""
    return []


def run(context: Context) -> Result:
    """A folder for each image, complete or not there; those that are there stay."""
    folder, written, left = context.out / FOLDER, 0, 0
    most = context.config.option("pseudo_dataset").images
    for case in context.comparison.cases:
        if case.original is None or case.lesions is None or not (case.lesions > 0).any():
            continue
        if not context.may_show(case):
            left += 1
            continue
        if written == most:
            break
        _write(folder / file_name(case.id), case)
        written += 1
    note = f"{written} images with original, altered image and mask are in the folder {FOLDER} of the results."
    if left:
        note += f" {left} of people are left out (pictures_of)."
    return Result(notes=[note])


def _write(place, case):
    if place.exists():
        return
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # Slices to the left, rows to the feet, columns to the front, in mm.
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = -case.spacing_mm, -1, 1, 1
    files = {"original": case.original, "altered": case.images, "mask": case.lesions, "cord": case.cords}
    for name, values in files.items():
        values = values.astype(np.float32 if name in ("original", "altered") else np.uint8)
        write_volume(temporary / f"{name}.nii.gz", Volume(values, affine, name))
    record = {"id": case.id, "kinds": list(case.kinds), "segments": case.segments, **case.record}
    write_json(temporary / "made.json", record)
    temporary.rename(place)
