"""Intensities inside planted lesions: planted, rebuilt, and those of healthy cord and fluid (paper, Fig. 6 and A2)."""

import numpy as np
from scipy.ndimage import binary_dilation

from ..pictures import distributions, reconstructions
from ..training import Comparison
from .context import Context, jobs_of
from .result import Picture, Result, Table, Value
from .scoring import Job, distance, histogram, mean_and_spread, overlap

TITLE = "Planted lesions, rebuilt (Fig. 6 and A2)"
RING_PX = (2, 3)  # fluid is looked for so far outside the cord …
BRIGHT_PERCENTILE = 70  # … and is its bright part


def jobs(comparison: Comparison) -> list[Job]:
    """Each method in its best strategy."""
    methods = comparison.config.known(comparison.config.option("pseudo_anomalies").methods)
    return [job for name in methods for job in jobs_of(comparison, comparison.entry(name))]


def run(context: Context) -> Result:
    """Distributions over all images with planted lesions, and one image as an example."""
    cases = [case for case in context.comparison.cases if case.original is not None and case.lesions is not None]
    cases = [case for case in cases if (case.lesions > 0).any()]
    if not cases:
        return Result(notes=["Fig. 6 is empty: no lesion is planted in the test images."])
    cord, fluid, lesion = (np.sum([part(case) for case in cases], axis=0) for part in (_cord, _fluid, _lesion))
    rebuilt = {}
    for entry in context.entries(context.config.option("pseudo_anomalies").methods):
        lines = [line["rebuilt"] for line in context.quality(entry).values() if "rebuilt" in line]
        if lines:
            rebuilt[context.title(entry)] = np.sum(lines, axis=0)
    if not rebuilt:
        return Result(notes=["Fig. 6 is empty: none of its methods takes part."])
    distributions(context.picture_path("pseudo-anomalies"), cord, fluid, lesion, rebuilt)
    figures = [Picture("pseudo-anomalies.png", TITLE, "All test images with a planted lesion.")]
    if shown := [case for case in cases if context.may_show(case)]:
        example = max(shown, key=lambda case: int((case.lesions > 0).sum()))
        entries = context.entries(context.config.option("pseudo_anomalies").methods)
        made = {context.title(entry): context.maps(entry, example) for entry in entries}
        reconstructions(context.picture_path("pseudo-anomaly-example"), example, made)
        caption = "Above: image and reconstructions; below: what was planted, and anomaly maps."
        real = example.group != "phantom"
        figures.append(Picture("pseudo-anomaly-example.png", "A planted lesion, rebuilt (Fig. A2)", caption, real))
    rows = [
        (title, *mean_and_spread(counts), distance(counts, cord), distance(counts, lesion), overlap(counts, cord))
        for title, counts in {"(the lesion itself)": lesion, **rebuilt}.items()
    ]
    table = Table(
        "pseudo-anomalies",
        TITLE,
        ("Rebuilt by", "Mean", "SD", "Distance to healthy cord", "Distance to the lesion", "Overlap with healthy cord"),
        tuple((title, *map(Value, values)) for title, *values in rows),
        (0, 0, 0, -1, 1, 1),
        (
            f"Of {len(cases)} images with a planted lesion. Healthy cord: mean {mean_and_spread(cord)[0]:.3f}; fluid: "
            f"{mean_and_spread(fluid)[0]:.3f}; intensities 0–1. Distance: of Wasserstein, between the distributions, "
            "in intensities; overlap: 1 where they are the same. A method that rebuilds a healthy cord is near to it "
            "and far from the lesion.",
            context.stated(),
        ),
        emphasised=tuple(n for n, (title, *_) in enumerate(rows) if "U²AD" in title),
    )
    return Result([table], figures)


def _cord(case):
    return np.array(histogram(case.images[case.cords & (case.lesions == 0)]))


def _lesion(case):
    return np.array(histogram(case.images[(case.lesions > 0) & case.cords]))


def _fluid(case):
    cords = case.cords
    near = [np.stack([binary_dilation(cord, iterations=px) for cord in cords]) for px in (RING_PX[0] - 1, RING_PX[1])]
    values = case.images[near[1] & ~near[0]]
    return np.array(histogram(values[values >= np.percentile(values, BRIGHT_PERCENTILE)]))
