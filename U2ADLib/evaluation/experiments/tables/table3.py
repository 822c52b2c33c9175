"""What each part of U²AD adds (paper, Table 3): detection and reconstruction."""

import numpy as np

from ..training import Comparison
from . import paper
from .common import difference_table, method_jobs, protocol_table, reviewers_table, rows_of, rule_rows
from .context import Context
from .result import Result, Table, Value
from .scoring import Job

TITLE = "Ablation (Table 3)"
PARTS = {  # Monte Carlo, EU-guided, AU-guided
    "mae": ("", "", ""),
    "mae-mc": ("yes", "", ""),
    "mae-mc-signed": ("yes", "", ""),
    "eu-guided": ("yes", "yes", ""),
    "u2ad": ("yes", "yes", "yes"),
}
QUALITY = (("SSIM", "ssim", 1, 4), ("PSNR", "psnr", 1, 2), ("MSE", "mse", -1, 5), ("Variance", "variance", -1, 4))


def jobs(comparison: Comparison) -> list[Job]:
    """Every step in its best strategy."""
    return method_jobs(comparison, comparison.config.option("table3").methods, best_only=True)


def run(context: Context) -> Result:
    """Detection as in Table 1, and reconstruction in the whole cord and inside planted lesions."""
    methods = context.config.option("table3").methods
    rows = [
        row for row in rows_of(context, methods) if row.strategy == context.comparison.best_strategy(row.entry.method)
    ]
    both = [*rows, *rule_rows(context)]
    tables = [
        protocol_table(context, "table3-protocol", f"{TITLE}: detection, the paper's protocol", both, "table3"),
        reviewers_table(context, "table3", f"{TITLE}: detection, all segments", both),
        difference_table(context, "table3-differences", f"{TITLE}: U²AD less the others", "u2ad", rows),
        quality_table(context, "table3-reconstruction", f"{TITLE}: reconstruction", rows),
    ]
    return Result([table for table in tables if table])


def quality_table(context: Context, name: str, title: str, rows) -> Table:
    """How well cords are rebuilt."""
    lines = []
    for row in rows:
        found = context.mean_quality(row.entry, row.strategy)
        known = paper.found("quality", context.config.paper_data, row.entry.method)
        whole = [Value(found.get(key, np.nan), paper=known.get(key, ""), digits=n) for _, key, _, n in QUALITY]
        inside = [Value(found.get(f"lesion_{key}", np.nan), digits=n) for _, key, _, n in QUALITY]
        lines.append((row.labels[1], *PARTS.get(row.entry.method, ("", "", "")), *whole, *inside))
    titles = tuple(title for title, *_ in QUALITY)
    signs = tuple(sign for _, _, sign, _ in QUALITY)
    return Table(
        name,
        title,
        ("Method", "Monte Carlo", "EU-guided", "AU-guided", *titles, *titles),
        tuple(lines),
        (0, 0, 0, 0, *signs, *signs),
        (
            "Whole cord: against the image itself. Inside planted lesions: against the image before they were planted; "
            "low errors mean that a healthy cord is rebuilt there. Variance: mean EU × 1000.",
            context.stated(),
        ),
        (("", 4), ("Whole cord", 4), ("Inside planted lesions", 4)),
        tuple(n for n, row in enumerate(rows) if row.is_ours),
    )
