"""Object detectors, signal analysis and simple rules beside U²AD (paper, Table 2)."""

from ..training import Comparison
from .common import difference_table, groups_table, method_jobs, protocol_table, reviewers_table, rows_of, rule_rows
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
    """Three tables, as of Table 1."""
    methods = context.config.option("table2").methods
    best = [
        row for row in rows_of(context, methods) if row.strategy == context.comparison.best_strategy(row.entry.method)
    ]
    known = {row.entry for row in best}
    rows = [*best, *(row for row in rule_rows(context) if row.entry not in known)]
    tables = [
        protocol_table(context, "table2-protocol", f"{TITLE}: the paper's protocol", rows, "table2"),
        reviewers_table(context, "table2", f"{TITLE}: all segments, intervals over people", rows),
        groups_table(context, "table2-groups", f"{TITLE}: phantoms and people apart", rows),
        difference_table(context, "table2-differences", f"{TITLE}: U²AD less the others", "u2ad", rows),
    ]
    return Result([table for table in tables if table], notes=[SUPERVISED_NOTE])
