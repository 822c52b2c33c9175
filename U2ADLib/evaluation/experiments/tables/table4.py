"""K, mask ratio and τ, and the time of an image (paper, Table 4)."""

import numpy as np

from ..training import Comparison, Entry, title_of
from . import paper
from .common import PROTOCOL, PROTOCOL_GROUPS, PROTOCOL_NOTE, protocol_cells
from .context import Context, interval, jobs_of
from .result import Result, Table, Value
from .scoring import Job

TITLE = "Hyper-parameters (Table 4)"
NAMES = {"k": "K", "mask_ratio": "mask ratio r", "tau": "τ"}


def variants(comparison: Comparison) -> list[tuple[str, float, Entry]]:
    """(setting, value, method with it), without the method where it does not take part. K changes the maps alone."""
    option = comparison.config.option("table4")
    if option.method not in comparison.config.methods:
        return []
    base = comparison.entry(option.method)
    usual = base.make().settings
    return [
        (
            name,
            value,
            base  # with the value that it has anyway, the method is itself
            if getattr(usual, name, None) == value
            else base.variant(f"{name}-{value:g}", retrained=name != "k", **{name: value}),
        )
        for name in NAMES
        for value in getattr(option, name)
    ]


def jobs(comparison: Comparison) -> list[Job]:
    """Each value in the best strategy. Variants that would be trained as another one share its training."""
    return [job for _, _, entry in variants(comparison) for job in jobs_of(comparison, entry)]


def run(context: Context) -> Result:
    """One table, with the paper's time where the data are its own."""
    lines, data = [], context.config.paper_data
    method = context.config.option("table4").method
    for name, value, entry in variants(context.comparison):
        if not context.is_there(entry):
            continue
        found, known = context.figures(entry), paper.found("table4", data, name, value)
        seconds = Value(
            float(np.median(context.seconds(entry))), paper=paper.found("seconds", data, name, value).get("seconds", "")
        )
        more = [interval(found.get(key)) for key in ("patient AUROC", "segment AUROC")]
        lines.append((NAMES[name], f"{value:g}", *protocol_cells(found, known), *more, seconds))
    if not lines:
        return Result(notes=["Table 4 is empty: U²AD does not take part, or failed."])
    table = Table(
        "table4",
        TITLE,
        ("Setting", "Value", *(short for short, _ in PROTOCOL), "Patient AUROC", "Segment AUROC", "Seconds per image"),
        tuple(lines),
        (0, 0, *(1 for _ in PROTOCOL), 1, 1, -1),
        (
            PROTOCOL_NOTE,
            f"{title_of(method)} with all that it has learnt, one setting changed at a time. K changes the maps alone, "
            "r and τ the adaptation; the source stage is the same for all. AUROC with 95 % intervals over people. "
            "Seconds: median, of an image's maps.",
            *context.doubts(),
            context.stated(),
        ),
        (("", 2), *PROTOCOL_GROUPS, ("All segments", 2), ("", 1)),
    )
    return Result([table])
