"""Where the region comes from: the user's masks and labels, the model, or some of each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..config import Preprocessing
from ..errors import InputError, UsageError
from ..package import RegionModel
from ..progress import Progress, no_progress
from ..sagittal import SagittalStack, standardise
from ..volume import Volume
from .labels import Discs, read_cord, read_discs, renumbered
from .locate import FOUND, locate
from .region import Region, region_from_labels


@dataclass(frozen=True)
class Prepared:
    """Standard slices and the region in them.

    cord: (I, J, K) bool on the volume's grid. notes: what the user should know, doubts included. record: JSON-able, for
    the provenance: where cord and discs came from, the model, confidences, doubts.
    """

    stack: SagittalStack
    region: Region
    cord: np.ndarray
    notes: tuple[str, ...]
    record: dict


def doubt_note(doubt: str) -> str:
    """A doubt about what was found, as it stands among the notes."""
    return f"Doubt: {doubt}"


def prepare(
    volume: Volume,
    *,
    cord: Volume | None = None,
    discs: Volume | Discs | None = None,
    cord_convention: str = "auto",
    disc_convention: str = "auto",
    shift_levels: int = 0,
    region_model: RegionModel | str | None = "default",
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda message: None,
) -> Prepared:
    """Slices and region of a volume; what is not given is found by the region model.

    Parameters as `analysis.analyse`. :raises InputError, UsageError, ModelError: as there.
    """
    progress("Preparing", 0, 3)
    record = {
        "cord": FOUND,
        "discs": None,
        "model": None,
        "confidence": {},
        "doubts": [],
        "disc_doubts": [],
        "disc_notes": [],
    }
    notes: tuple[str, ...] = ()
    found = None
    if cord is not None:
        read = read_cord(volume, cord, cord_convention)
        mask, notes, record["cord"] = read.array, read.notes, read.convention
    elif region_model is not None:
        found = locate(volume, model=region_model, device=device, progress=progress, say=say)
        mask, notes = found.cord, (f"The cord was found by the model {found.model['name']}: look at its outline.",)
    else:
        raise InputError(
            "No cord mask was given: pass the mask of the spinal cord (--cord), for instance SCT's *_seg.nii.gz."
        )
    if isinstance(discs, Volume):
        discs = read_discs(discs, disc_convention, shift_levels, cord=volume.with_array(mask))
    elif discs is not None:
        discs = renumbered(discs, shift_levels)
    elif region_model is not None:
        found = found or locate(volume, cord=mask, model=region_model, device=device, progress=progress, say=say)
        discs = renumbered(found.discs, shift_levels)
    elif shift_levels:
        raise UsageError("Levels can only be shifted where disc labels are given (--discs).")
    if found is not None:
        record |= {"model": found.model, "confidence": found.confidence, "doubts": list(found.doubts)}
        record["disc_doubts"] = list(found.disc_doubts)
        notes += tuple(doubt_note(doubt) for doubt in found.doubts)
    progress("Preparing", 1, 3)
    if discs is not None and not discs.points:
        record["disc_notes"] += discs.notes
        notes, discs = notes + discs.notes, None
    stack = standardise(volume, mask, discs.points if discs else None, preprocessing)
    region = region_from_labels(stack, mask, discs)
    record["discs"] = region.disc_convention
    record["disc_notes"] += region.notes
    progress("Preparing", 3, 3)
    return Prepared(stack, region, mask, (*notes, *region.notes), record)
