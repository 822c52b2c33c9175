"""Reconstruction along the adaptation, in the cord and inside planted lesions (paper, App. D, Fig. A4).

A point is an adaptation of its own, to the end of its schedule, with a share of the budget.
"""

from collections.abc import Sequence

from ..pictures import line_panels
from ..training import Comparison, Entry
from .context import Context, jobs_of
from .result import Picture, Result, Table, Value
from .scoring import Job

TITLE = "Reconstruction along the adaptation (Fig. A4)"
SHOWN = (
    ("SSIM", "ssim", 4),
    ("PSNR [dB]", "psnr", 2),
    ("MSE", "mse", 5),
    ("Variance × 1000", "variance", 4),
    ("SSIM, lesions", "lesion_ssim", 4),
    ("PSNR, lesions", "lesion_psnr", 2),
    ("MSE, lesions", "lesion_mse", 5),
)


def points(comparison: Comparison, methods: Sequence[str], shares: Sequence[float]) -> list[tuple[str, float, Entry]]:
    """(method, share of the target's budget, its variant); share 1 is the method itself, 0 its source stage.

    Empty without a stage of both kinds: there is no adaptation to follow.
    """
    made = []
    for name in comparison.config.known(tuple(methods)):
        if comparison.best_strategy(name) != 3:
            continue
        base = comparison.entry(name)
        for share in shares:
            made.append((name, share, base if share == 1 else base.variant(f"after {share:g}", share=share)))
    return made


def jobs(comparison: Comparison) -> list[Job]:
    """Every point."""
    option = comparison.config.option("curves")
    return [
        job for *_, entry in points(comparison, option.methods, option.shares) for job in jobs_of(comparison, entry)
    ]


def run(context: Context) -> Result:
    """A table and a picture with a panel for each figure."""
    option, lines = context.config.option("curves"), []
    drawn: dict[str, dict[str, list]] = {title: {} for title, *_ in SHOWN}
    for name, share, entry in points(context.comparison, option.methods, option.shares):
        if not context.is_there(entry):
            continue
        found = context.mean_quality(entry)
        title = context.title(context.comparison.entry(name))
        lines.append((title, f"{share:g}", *(Value(found.get(key, float("nan")), digits=n) for _, key, n in SHOWN)))
        for shown, key, _ in SHOWN:
            if key in found:
                drawn[shown].setdefault(title, []).append((share, found[key]))
    if not lines:
        return Result(notes=["Fig. A4 is empty: it needs strategy 3 and U²AD or one of its ablations."])
    panels = [
        {
            "title": shown,
            "x": "share of the adaptation's budget",
            "lines": {title: tuple(zip(*values, strict=True)) for title, values in methods.items()},
        }
        for shown, methods in drawn.items()
        if methods
    ]
    line_panels(context.picture_path("curves"), panels, 4)
    table = Table(
        "curves",
        TITLE,
        ("Method", "Share of the budget", *(title for title, *_ in SHOWN)),
        tuple(lines),
        notes=(
            "Means over the test images, intensities 0–1; variance: mean EU. Whole cord: against the image itself; "
            "lesions: inside planted ones, against the image before they were planted. Each share is an adaptation of "
            "its own with its whole schedule; 0 is the source stage.",
            *context.doubts(),
            context.stated(),
        ),
    )
    return Result([table], [Picture("curves.png", TITLE, "0 is the source stage.")])
