"""Noise and lower resolution (paper, Fig. 7). The noise is given as σ and as σ²: the paper's text and figure differ."""

from math import sqrt

from ..pictures import line_panels
from ..training import Comparison
from .context import Context, interval, jobs_of, spread
from .result import Picture, Result, Table
from .scoring import UNCHANGED, Change, Job

TITLE = "Robustness to noise and resolution (Fig. 7)"
SHOWN = (
    ("Patient F1", "patient F1"),
    ("Patient specificity", "patient specificity"),
    ("Segment F1 (oracle)", "segment F1 (oracle)"),
    ("Patient AUROC", "patient AUROC"),
    ("Segment AUROC", "segment AUROC"),
)


def changes(comparison: Comparison) -> list[tuple[str, float, Change]]:
    """(what, how much, change): "noise" with its variance, "coarse" with its factor."""
    option = comparison.config.option("robustness")
    made = [("noise", variance, Change(noise=sqrt(variance))) for variance in option.variances]
    return made + [("coarse", factor, Change(coarse=factor)) for factor in option.downsampling]


def jobs(comparison: Comparison) -> list[Job]:
    """Each method in its best strategy, with each change."""
    methods = comparison.config.known(comparison.config.option("robustness").methods)
    return [
        job
        for name in methods
        for change in dict.fromkeys([UNCHANGED, *(change for *_, change in changes(comparison))])
        for job in jobs_of(comparison, comparison.entry(name), change=change)
    ]


def run(context: Context) -> Result:
    """A table, and a picture with noise above and resolution below."""
    lines = []
    points: dict[tuple[str, str], dict[str, list]] = {}
    for entry in context.entries(context.config.option("robustness").methods):
        for what, amount, change in changes(context.comparison):
            if not context.is_there(entry, change=change):
                continue
            found = context.figures(entry, change=change)
            label = f"σ² = {amount:g} (σ = {sqrt(amount):.3g})" if what == "noise" else f"downsampled by {amount:g}"
            cells = [interval(found.get(key)) if "AUROC" in key else spread(found.get(key)) for _, key in SHOWN]
            lines.append((context.title(entry), label, *cells))
            for title, key in SHOWN:
                at = points.setdefault((what, title), {}).setdefault(context.title(entry), [])
                at.append((sqrt(amount) if what == "noise" else amount, found[key].value))
    if not lines:
        return Result(notes=["Fig. 7 is empty: none of its methods takes part."])
    panels = [
        {
            "title": title,
            "x": "σ of the noise" if what == "noise" else "factor of downsampling",
            "x2": "σ²" if what == "noise" else None,
            "lines": {method: tuple(zip(*values, strict=True)) for method, values in methods.items()},
        }
        for (what, title), methods in points.items()
    ]
    line_panels(context.picture_path("robustness"), panels, len(SHOWN))
    table = Table(
        "robustness",
        TITLE,
        ("Method", "Images", *(title for title, _ in SHOWN)),
        tuple(lines),
        notes=(
            "The test images are changed, nothing is trained anew; cord masks stay. F1 and specificity: mean ± SD over "
            "folds; AUROC: 95 % intervals over people. σ in intensities, which are 0–1.",
            *context.doubts(),
            context.stated(),
        ),
    )
    return Result([table], [Picture("robustness.png", TITLE, "Above: Gaussian noise. Below: downsampling.")])
