"""The three training strategies side by side (paper, Fig. A3)."""

from ..pictures import bars
from ..training import Comparison
from .common import rows_of, strategy_text
from .context import Context, jobs_of
from .result import Picture, Result
from .scoring import Job

TITLE = "Training strategies side by side (Fig. A3)"
SHOWN = (
    ("Patient F1", "patient F1"),
    ("Segment F1 (oracle)", "segment F1 (oracle)"),
    ("Patient AUROC", "patient AUROC"),
    ("Segment AUROC", "segment AUROC"),
)


def jobs(comparison: Comparison) -> list[Job]:
    """Every method in every strategy."""
    methods = comparison.config.known(comparison.config.option("strategies").methods)
    return [
        job
        for name in methods
        for strategy in comparison.strategies(name)
        for job in jobs_of(comparison, comparison.entry(name), strategy)
    ]


def run(context: Context) -> Result:
    """A picture; the numbers are in Table 1."""
    rows = rows_of(context, context.config.option("strategies").methods)
    if not rows:
        return Result(notes=["Fig. A3 is empty: none of its methods takes part."])
    figures = {(context.title(row.entry), row.strategy): context.figures(row.entry, row.strategy) for row in rows}
    methods = list(dict.fromkeys(method for method, _ in figures))
    panels = [
        {
            "title": title,
            "groups": methods,
            "bars": {
                f"strategy {strategy_text(strategy)}": [
                    figures.get((method, strategy), {}).get(key) for method in methods
                ]
                for strategy in sorted({strategy for _, strategy in figures})
            },
        }
        for title, key in SHOWN
    ]
    bars(context.picture_path("strategies"), panels)
    caption = "Whiskers: ± SD over folds (F1), 95 % intervals over people (AUROC). No bar: 0, or not defined."
    return Result([], [Picture("strategies.png", TITLE, caption)])
