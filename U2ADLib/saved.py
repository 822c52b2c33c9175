"""An analysis read back from its folder, to go on from there: other levels, other thresholds, the same computation.

`analysis.safetensors` holds what `analysis.json` and the images on the input's grid do not: the maps in the standard
slices, unrounded. With the image itself they make the same `Analysis` again, in a fraction of a second and without
torch.
"""

import json
from pathlib import Path

import numpy as np

from .analysis import Analysis, scored
from .config import Preprocessing, ScoreConfig, from_dict
from .errors import InputError
from .files import file_sha256
from .package import Thresholds
from .reconstruction import Reconstruction
from .roi.labels import Discs
from .roi.region import region_in_stack
from .sagittal import restored
from .scoring.evidence import Evidence
from .volume import Volume, volume_hash

STATE = "analysis.safetensors"
_RECONSTRUCTION = ("mean", "aleatoric", "epistemic")
_EVIDENCE = ("map", "smaller", "gain")


def write_state(path: Path, analysis: Analysis) -> None:
    """Write what `read_state` needs beside the record: maps as lists of the cord's pixels, float32."""
    from safetensors.numpy import save_file

    region, stack, rebuilt = analysis.region, analysis.stack, analysis.reconstruction
    cords = region.cord[list(analysis.slices)]
    discs = region.discs or {}
    points = stack.grid.stack_to_ras(np.array(list(discs.values())).reshape(-1, 3))
    tensors = {
        "window": np.array([*stack.grid.first, stack.low, stack.high, stack.cord_outside_mm]),
        "cord": np.packbits(region.cord),
        "disc_numbers": np.array(list(discs), np.int64),
        "disc_points_ras": np.ascontiguousarray(points),
        **{name: getattr(rebuilt, name)[cords] for name in _RECONSTRUCTION},
        **{name: getattr(analysis.evidence, name)[cords] for name in _EVIDENCE},
    }
    # A single entry: the library writes several in any order, and the same analysis should give the same bytes.
    save_file(tensors, path, {"reconstruction": json.dumps({"passes": rebuilt.passes, "device": rebuilt.device})})


def read_state(folder: Path, record: dict, volume: Volume) -> Analysis:
    """The analysis of `volume` that `report.write_results` wrote to a folder.

    :param record: the folder's `analysis.json`.
    :raises InputError: the image is another one, or a file of the folder is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    if record["provenance"]["input"]["sha256"] != volume_hash(volume):
        raise InputError(f"The results in {folder.name} are those of another image than {volume.name}.")
    path = folder / STATE
    if not path.is_file() or file_sha256(path) != record["state_sha256"]:
        raise InputError(f"{STATE} in {folder.name} is missing or damaged: analyse the image again.")
    try:
        with safe_open(path, "numpy") as stored:
            made = json.loads(stored.metadata()["reconstruction"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{STATE} in {folder.name} cannot be read ({error}): analyse the image again.") from None
    configuration = record["provenance"]["configuration"]
    row, column, low, high, outside = tensors["window"].tolist()
    preprocessing = from_dict(Preprocessing, configuration["preprocessing"])
    stack = restored(volume, (row, column), low, high, outside, preprocessing)
    shape = stack.images.shape
    cord = np.unpackbits(tensors["cord"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    numbers, points = tensors["disc_numbers"].tolist(), tensors["disc_points_ras"]
    discs = Discs(dict(zip(numbers, points, strict=True)), configuration["disc_convention"]) if numbers else None
    slices = tuple(configuration["analysed_slices"])
    maps = {name: np.zeros((len(slices), *shape[1:]), np.float32) for name in _RECONSTRUCTION + _EVIDENCE}
    for name, values in maps.items():
        values[cord[list(slices)]] = tensors[name]
    return scored(
        volume,
        stack,
        region_in_stack(stack, cord, discs),
        slices,
        Reconstruction(**{name: maps[name] for name in _RECONSTRUCTION}, **made),
        Evidence(**{name: maps[name] for name in _EVIDENCE}),
        score=configuration["score"],
        score_config=from_dict(ScoreConfig, configuration["score_settings"]),
        thresholds=record["thresholds"] and Thresholds(**record["thresholds"]),
        notes=tuple(record["notes"]),
        provenance=record["provenance"],
    )
