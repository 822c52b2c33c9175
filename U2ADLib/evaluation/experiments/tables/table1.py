"""Methods without annotations × strategies (paper, Table 1)."""

from ..training import Comparison
from .common import difference_table, groups_table, method_jobs, protocol_table, reviewers_table, rows_of, rule_rows
from .context import Context
from .result import Result
from .scoring import Job

TITLE = "Unsupervised methods in each strategy (Table 1)"


def jobs(comparison: Comparison) -> list[Job]:
    """Every method in every strategy."""
    return method_jobs(comparison, comparison.config.option("table1").methods)


def run(context: Context) -> Result:
    """Three tables: the paper's protocol, ours, and differences from U²AD."""
    methods = context.config.option("table1").methods
    rows = [*rows_of(context, methods), *rule_rows(context)]
    tables = [
        protocol_table(context, "table1-protocol", f"{TITLE}: the paper's protocol", rows, "table1"),
        reviewers_table(context, "table1", f"{TITLE}: all segments, intervals over people", rows),
        groups_table(context, "table1-groups", f"{TITLE}: phantoms and people apart", rows),
        difference_table(context, "table1-differences", f"{TITLE}: U²AD less the others", "u2ad", rows),
    ]
    return Result([table for table in tables if table])
