"""Object detectors, signal analysis and simple rules beside U²AD (paper, Table 2)."""

from ..training import Comparison
from .common import best_rows, detection_tables, method_jobs
from .context import Context
from .result import Result
from .scoring import Job

TITLE = "Detectors, signal analysis and simple rules (Table 2)"
SUPERVISED_NOTE = (
    "Detectors learn from annotated target images of the training folds. Of five folds three train, one is for "
    "validation and one is tested (paper, B.2); of two the other one trains."
)


def jobs(comparison: Comparison) -> list[Job]:
    """Every method in its best strategy."""
    return method_jobs(comparison, comparison.config.option("table2").methods, best_only=True)


def run(context: Context) -> Result:
    """As Table 1."""
    rows = best_rows(context, context.config.option("table2").methods)
    return Result(detection_tables(context, "table2", TITLE, rows), notes=[SUPERVISED_NOTE])
