"""Cases on disk: simulating, planting and finding cords is slow, and every method sees the same ones."""

import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...roi.centreline import Centreline
from ...roi.region import Region
from .contracts import ExperimentCase
from .planting import region_of

_TEXT = ("id", "person", "group", "spacing_mm", "patient", "segments", "found", "record")
_OPTIONAL = ("lesions", "original")


def save_case(path: Path, case: ExperimentCase) -> None:
    """Write beside its place and move it there: several processes may do so at once."""
    region = case.region
    discs = None if region.discs is None else {str(n): np.asarray(at, float).tolist() for n, at in region.discs.items()}
    record = {name: getattr(case, name) for name in _TEXT}
    record |= {"slices": list(case.slices), "kinds": list(case.kinds), "shape": region.cord.shape, "discs": discs}
    record |= {"convention": region.disc_convention, "notes": region.notes}
    tensors = {"images": case.images, "cords": np.packbits(case.cords), "cord": np.packbits(region.cord)}
    tensors |= {name: getattr(case, name) for name in _OPTIONAL if getattr(case, name) is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    tensors = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    save_file(tensors, temporary, {"case": json.dumps(record, allow_nan=False)})
    os.replace(temporary, path)


def load_case(path: Path) -> ExperimentCase | None:
    """What `save_case` wrote; None where there is nothing, or nothing that can be read."""
    try:
        with safe_open(path, "numpy") as stored:
            record = json.loads(stored.metadata()["case"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None
    cord = _mask(tensors["cord"], record["shape"])
    discs = record["discs"] and {int(n): np.array(at) for n, at in record["discs"].items()}
    names = {"disc_convention": record["convention"], "notes": tuple(record["notes"])}
    bare = Region(cord, Centreline.from_cord(cord), discs=discs, **names)
    return ExperimentCase(
        images=tensors["images"],
        cords=_mask(tensors["cords"], tensors["images"].shape),
        slices=tuple(record["slices"]),
        region=region_of(cord, bare),
        kinds=tuple(record["kinds"]),
        **{name: tensors.get(name) for name in _OPTIONAL},
        **{name: record[name] for name in _TEXT},
    )


def _mask(bits, shape):
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
