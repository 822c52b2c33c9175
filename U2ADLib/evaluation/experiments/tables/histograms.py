"""Intensities of cord and fluid in the source against the target (paper, Fig. 1): how far apart they are."""

import numpy as np
from scipy.ndimage import binary_dilation

from ....rivals.detector import SOURCE
from ..cases import training_slices
from ..pictures import domain_shift
from ..training import Comparison
from .context import Context
from .result import Picture, Result, Table, Value
from .scoring import BINS, Job, histogram

TITLE = "Intensities of source and target (Fig. 1)"
RING_PX = 3


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
    rows = []
    for name, parts in counts.items():
        for part, found in parts.items():
            share = found / max(found.sum(), 1)
            middle = (np.arange(BINS) + 0.5) / BINS
            mean = float((share * middle).sum())
            spread = float(np.sqrt((share * (middle - mean) ** 2).sum()))
            reference = counts["test"][part] / max(counts["test"][part].sum(), 1)
            apart = float(np.abs(np.cumsum(share - reference)).sum() / BINS)
            rows.append((name, _WORDS[part], Value(mean), Value(spread), Value(apart)))
    table = Table(
        "histograms",
        TITLE,
        ("Set", "Where", "Mean", "SD", "Distance to the test set"),
        tuple(rows),
        notes=(
            f"Intensities 0–1; within {RING_PX} mm around the cord is mostly fluid. Distance: Wasserstein's.",
            context.stated(),
        ),
    )
    return Result([table], [Picture("histograms.png", TITLE, "Shares of pixels.")])


_WORDS = {"cord": "cord", "around": "around the cord"}
