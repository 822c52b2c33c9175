"""Methods without annotations × strategies (paper, Table 1)."""

from ..training import Comparison
from .common import detection_tables, method_jobs, rows_of
from .context import Context
from .result import Result
from .scoring import Job

TITLE = "Unsupervised methods in each strategy (Table 1)"


def jobs(comparison: Comparison) -> list[Job]:
    """Every method in every strategy."""
    return method_jobs(comparison, comparison.config.option("table1").methods)


def run(context: Context) -> Result:
    """The paper's protocol, ours, lesions by kind, and differences from U²AD."""
    rows = rows_of(context, context.config.option("table1").methods)
    return Result(detection_tables(context, "table1", TITLE, rows))
