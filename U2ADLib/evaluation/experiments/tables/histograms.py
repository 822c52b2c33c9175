"""Intensities of cord and fluid in the source against the target (paper, Fig. 1): how far apart they are."""

import numpy as np
from scipy.ndimage import binary_dilation

from ....rivals.detector import SOURCE
from ..cases import training_slices
from ..pictures import domain_shift
from ..training import Comparison
from .context import Context
from .result import Picture, Result, Table, Value
from .scoring import Job, distance, histogram, mean_and_spread

TITLE = "Intensities of source and target (Fig. 1)"
RING_PX = 3
WORDS = {"cord": "cord", "around": "around the cord"}


def jobs(comparison: Comparison) -> list[Job]:
    """None."""
    return []


def run(context: Context) -> Result:
    """A picture and a table of means, spreads and distances."""
    config = context.config
    sets = {"source": (config.source, SOURCE), "target": config.target_sets, "test": (config.test, "test")}
    counts = {}
    for name, (chosen, use) in sets.items():
        if chosen:
            slices = training_slices(chosen, use, cache=context.comparison.cache, device=context.comparison.device)
            near = np.stack([binary_dilation(cord, iterations=RING_PX) for cord in slices.cords])
            parts = {"cord": slices.cords, "around": near & ~slices.cords}
            counts[name] = {part: np.array(histogram(slices.images[mask])) for part, mask in parts.items()}
    domain_shift(context.picture_path("histograms"), counts)
    rows = [
        (name, WORDS[part], *map(Value, (*mean_and_spread(found), distance(found, counts["test"][part]))))
        for name, parts in counts.items()
        for part, found in parts.items()
    ]
    table = Table(
        "histograms",
        TITLE,
        ("Set", "Where", "Mean", "SD", "Distance to the test set"),
        tuple(rows),
        notes=(
            f"Intensities 0–1 of all slices of each set; within {RING_PX} mm around the cord is mostly fluid. "
            "Distance: of Wasserstein, in intensities.",
            context.stated(),
        ),
    )
    return Result([table], [Picture("histograms.png", TITLE, "Shares of pixels.")])
