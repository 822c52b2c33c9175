"""What each part of U²AD adds (paper, Table 3): detection and reconstruction."""

from collections.abc import Sequence

import numpy as np

from ..training import Comparison
from . import paper
from .common import Row, best_rows, detection_tables, method_jobs
from .context import Context
from .result import Result, Table, Value
from .scoring import Job

TITLE = "Ablation (Table 3)"
PARTS = {  # Monte Carlo, EU-guided, AU-guided
    "mae": ("no", "no", "no"),
    "mae-mc": ("yes", "no", "no"),
    "mae-mc-signed": ("yes", "no", "no"),
    "eu-guided": ("yes", "yes", "no"),
    "u2ad": ("yes", "yes", "yes"),
}
QUALITY = (
    ("SSIM", "ssim", 1, 4),
    ("PSNR [dB]", "psnr", 1, 2),
    ("MSE", "mse", -1, 5),
    ("Variance × 1000", "variance", -1, 4),
)


def jobs(comparison: Comparison) -> list[Job]:
    """Every step in its best strategy."""
    return method_jobs(comparison, comparison.config.option("table3").methods, best_only=True)


def run(context: Context) -> Result:
    """Detection as in Table 1, and reconstruction in the whole cord and inside planted lesions."""
    rows = best_rows(context, context.config.option("table3").methods)
    quality = quality_table(context, "table3-reconstruction", f"{TITLE}: reconstruction", rows)
    return Result([*detection_tables(context, "table3", TITLE, rows), quality])


def quality_table(context: Context, name: str, title: str, rows: Sequence[Row]) -> Table:
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
            "Means over the test images, intensities 0–1. Whole cord: against the image itself. Inside planted "
            "lesions: against the image before they were planted; low errors mean that a healthy cord is rebuilt. "
            "Variance: mean EU; –: a single pass has none.",
            context.stated(),
        ),
        (("", 4), ("Whole cord", 4), ("Inside planted lesions", 4)),
        tuple(n for n, row in enumerate(rows) if row.is_ours),
    )
