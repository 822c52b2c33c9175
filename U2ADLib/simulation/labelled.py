"""An image whose truth is known, as files: a simulated neck, or a real one with lesions planted in it.

In a flat folder, named as BIDS derivatives are, so that `u2ad batch` finds image and labels together:

| file | content |
|---|---|
| `NAME_T2w.nii.gz` | the image |
| `NAME_T2w_label-SC_seg.nii.gz` | the cord, 1 |
| `NAME_T2w_label-CSF_seg.nii.gz` | the fluid around it, 1 (simulated necks) |
| `NAME_T2w_label-discs_dlabel.nii.gz` | posterior tips of the discs, single voxels 3 (C2/C3) … 8 (C7/T1) |
| `NAME_T2w_label-lesion_seg.nii.gz` | the lesions, 1, 2, …; absent where there are none |
| `NAME_T2w.json` | how it was made: everything that is needed to make it again |
| `NAME_T2w.png` | what it looks like, without and with its labels |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..config import SEGMENT_NAMES
from ..errors import InputError
from ..files import staged, write_json
from ..io import write_volume
from ..pictures.labelled import labelled_picture
from ..roi.labels import Discs, disc_labels
from ..volume import Volume
from .phantom import Lesion, Phantom
from .plant import plant_in_slices, plant_in_volume

SUFFIXES = {"cord": "_label-SC_seg", "csf": "_label-CSF_seg", "discs": "_label-discs_dlabel"}
LESIONS = "_label-lesion_seg"


@dataclass(frozen=True)
class LabelledVolume:
    """An image and its truth, uint8 volumes on its grid; description: JSON-able, says how it was made."""

    volume: Volume
    cord: Volume
    lesions: Volume  # numbered from 1, 0 where there is none
    description: dict
    discs: Volume | None = None
    csf: Volume | None = None


def labelled_phantom(phantom: Phantom) -> LabelledVolume:
    """A simulated neck."""
    made = phantom
    return LabelledVolume(made.volume, made.cord, made.lesions, made.description, made.discs, made.csf)


def planted(
    volume: Volume,
    cord: np.ndarray,
    discs: Discs | None = None,
    *,
    lesions: Sequence[Lesion] = (),
    kind: str | None = None,
    slices: str | int = "middle",
    seed: int = 0,
) -> LabelledVolume:
    """A real neck with lesions: ellipsoids at the discs, one of a `kind` (`plant.LESION_KINDS`) in a slice, or both.

    :param cord: (I, J, K) mask on the volume's grid. :param discs: needed for `lesions`, which lie at the discs.
    :raises InputError: there is no place for a lesion. :raises UsageError: unknown kind or slices.
    """
    rng = np.random.default_rng(seed)
    mask, made, description = np.asarray(cord, bool), np.zeros(volume.array.shape, np.uint8), []
    for lesion in lesions:
        number = next(n for n, name in SEGMENT_NAMES.items() if name == lesion.segment)
        if discs is None or number not in discs.points:
            raise InputError(f"A lesion at {lesion.segment} needs the label of that disc, which is not given.")
        sizes = {"ap_mm": lesion.ap_mm, "length_mm": lesion.length_mm, "rl_mm": lesion.rl_mm}
        at = discs.points[number]
        volume, where = plant_in_volume(volume, mask, centre_ras=at, contrast=lesion.contrast, rng=rng, **sizes)
        made[where] = made.max() + 1
        description.append({"segment": lesion.segment, "contrast": lesion.contrast, **sizes})
    if kind is not None:
        volume, numbers, drawn = plant_in_slices(volume, mask, kind, rng, slices)
        made = np.where(numbers > 0, numbers + made.max(), made).astype(np.uint8)
        description += drawn
    return LabelledVolume(
        volume,
        volume.with_array(mask.astype(np.uint8)),
        volume.with_array(made),
        {"source": volume.name, "seed": seed, "lesions": description},
        None if discs is None else volume.with_array(disc_labels(volume, discs.points)),
    )


def write_labelled(made: LabelledVolume, folder: Path, name: str, overwrite: bool = False) -> list[Path]:
    """Write the files above, all or none. :returns: their paths, the image first.

    :raises InputError: a file of that name is there and `overwrite` is not set, or it is no name of a file.
    """
    image = f"{name}_T2w"
    labels = {f"{image}{suffix}.nii.gz": getattr(made, kind) for kind, suffix in SUFFIXES.items()}
    if np.any(made.lesions.array):
        labels[f"{image}{LESIONS}.nii.gz"] = made.lesions
    labels = {file: label for file, label in labels.items() if label is not None}
    names = [f"{image}.nii.gz", *labels, f"{image}.json", f"{image}.png"]
    with staged(folder, names, overwrite) as place:
        write_volume(place / names[0], made.volume)
        for file, label in labels.items():
            write_volume(place / file, label)
        write_json(place / f"{image}.json", {"made_by": f"U2AD {__version__}", **made.description})
        labelled_picture(place / f"{image}.png", made.volume, made.cord, made.discs, made.lesions)
    return [Path(folder) / file for file in names]
