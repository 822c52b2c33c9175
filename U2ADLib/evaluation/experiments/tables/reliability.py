"""Twenty times five folds with Monte Carlo maps drawn anew (paper, App. F, Fig. A6)."""

import numpy as np

from ..figures import reliability
from ..pictures import boxes
from ..training import Comparison
from .context import Context, jobs_of
from .result import SPREAD, Picture, Result, Table, Value
from .scoring import Job

TITLE = "Reliability over repeated folds (Fig. A6)"
SHOWN = (
    ("Patient F1", "patient F1"),
    ("Segment F1 (oracle)", "segment F1 (oracle)"),
    ("Segment F1", "segment F1"),
    ("Segment F1, located", "located F1"),
)


def _seeds(comparison):
    return min(comparison.config.option("reliability").inference_seeds, comparison.config.folds.repeats)


def jobs(comparison: Comparison) -> list[Job]:
    """Each method in its best strategy, with each seed of its maps."""
    methods = comparison.config.known(comparison.config.option("reliability").methods)
    return [
        job
        for name in methods
        for inference in range(_seeds(comparison))
        for job in jobs_of(comparison, comparison.entry(name), inference=inference)
    ]


def run(context: Context) -> Result:
    """Quartiles in a table, boxes in a picture."""
    config, lines, drawn = context.config, [], {title: {} for title, _ in SHOWN}
    for entry in context.entries(config.option("reliability").methods):
        seeds = [seed for seed in range(_seeds(context.comparison)) if context.is_there(entry, inference=seed)]
        runs = [context.scores(entry, inference=seed) for seed in seeds]
        repeated = [runs[repeat % len(runs)] for repeat in range(config.folds.repeats)]
        found = reliability(repeated, context.truths, folds=config.folds.count, seed=config.folds.seed)
        for title, key in SHOWN:
            values = found[key][np.isfinite(found[key])]
            drawn[title][context.title(entry)] = values
            if not len(values):
                continue
            low, first, middle, third, high = np.percentile(values, (0, 25, 50, 75, 100))
            mean, apart = values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan
            cells = [Value(mean, mean - apart, mean + apart, SPREAD), *map(Value, (low, first, middle, third, high))]
            lines.append((context.title(entry), title, str(len(values)), *cells))
    if not lines:
        return Result(notes=["Fig. A6 is empty: none of its methods takes part."])
    boxes(context.picture_path("reliability"), drawn)
    table = Table(
        "reliability",
        TITLE,
        ("Method", "Figure", "Repeats", "Mean ± SD", "Lowest", "Quartile 1", "Median", "Quartile 3", "Highest"),
        tuple(lines),
        notes=(
            f"Each repeat deals the people to {config.folds.count} folds anew; {_seeds(context.comparison)} sets "
            "of maps are taken in turn. The trained model stays the same. What is counted is the mean over folds of a "
            "repeat; repeats in which it is not defined in any fold are left out.",
            *context.doubts(),
            context.stated(),
        ),
    )
    return Result([table], [Picture("reliability.png", TITLE, "Means over folds of each repeat.")])
