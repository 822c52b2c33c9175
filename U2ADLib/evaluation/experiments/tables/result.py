"""What an experiment gives: tables, pictures and notes; and tables as CSV and LaTeX."""

import csv
import io
from dataclasses import asdict, dataclass, field
from math import isfinite, nan

from ..figures import Figure

NOTHING = "–"
SPREAD, INTERVAL = "spread", "interval"


@dataclass(frozen=True)
class Value:
    """A number in a table.

    low, high: its interval, or, of kind "spread", less and plus a standard deviation. paper: what the paper has in this
    place, in its words; empty where the data are not the paper's.
    """

    value: float
    low: float = nan
    high: float = nan
    kind: str = INTERVAL
    paper: str = ""
    digits: int = 3

    @classmethod
    def of(cls, figure: Figure | None, kind: str = INTERVAL, paper: str = "", digits: int = 3) -> "Value":
        if figure is None:
            return cls(nan, paper=paper)
        return cls(figure.value, figure.low, figure.high, kind, paper, digits)

    @property
    def text(self) -> str:
        """As it is read: `0.774 ± 0.012` or `0.774 (0.70 to 0.83)`."""
        if not isfinite(self.value):
            return NOTHING
        shown = f"{self.value:.{self.digits}f}"
        if not (isfinite(self.low) and isfinite(self.high)):
            return shown
        if self.kind == SPREAD:
            return f"{shown} ± {(self.high - self.low) / 2:.{self.digits}f}"
        return f"{shown} ({self.low:.{self.digits - 1}f} to {self.high:.{self.digits - 1}f})"


Cell = Value | str


@dataclass(frozen=True)
class Table:
    """name: of its files. better: of each column 1 where more is better, −1 where less is, 0 else.

    groups: (title, number of columns) above the columns. emphasised: rows that are U²AD's own.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    better: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()
    emphasised: tuple[int, ...] = ()

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of the best values, ties all; nowhere where only one row has a value."""
        found = set()
        for column, sign in enumerate(self.better):
            values = {
                n: sign * round(row[column].value, 9)
                for n, row in enumerate(self.rows)
                if sign and isinstance(row[column], Value) and isfinite(row[column].value)
            }
            if len(values) > 1:
                found |= {(n, column) for n, value in values.items() if value == max(values.values())}
        return found


@dataclass(frozen=True)
class Picture:
    """file: its name among the report's figures. real: it shows images of people."""

    file: str
    title: str
    caption: str = ""
    real: bool = False


@dataclass(frozen=True)
class Result:
    """What an experiment found."""

    tables: list[Table] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    title: str = ""

    def record(self) -> dict:
        """JSON-able; NaN is null."""
        return plain(asdict(self))

    @classmethod
    def from_record(cls, record: dict) -> "Result":
        """What `record` gave."""
        tables = [_table(one) for one in record["tables"]]
        figures = [Picture(**one) for one in record["figures"]]
        return cls(tables, figures, record["notes"], record["title"])


def plain(value):
    """JSON-able: NaN and infinity become null."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def _table(record):
    rows = tuple(tuple(_cell(one) for one in row) for row in record["rows"])
    lists = {name: tuple(record[name]) for name in ("columns", "better", "notes", "emphasised")}
    groups = tuple((title, count) for title, count in record["groups"])
    return Table(record["name"], record["title"], rows=rows, groups=groups, **lists)


def _cell(value):
    if not isinstance(value, dict):
        return value
    return Value(**{key: nan if one is None else one for key, one in value.items()})


# ---------------------------------------------------------------------------------------------------------------- CSV


def to_csv(table: Table) -> str:
    """The same numbers, with all their digits: a column of values is followed by those of its intervals, or of one
    standard deviation less and more, and of the paper's values where there are any."""
    wide = {}
    for column in range(len(table.columns)):
        values = [row[column] for row in table.rows if isinstance(row[column], Value)]
        wide[column] = any(isfinite(one.low) for one in values), any(one.paper for one in values)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    header = []
    for column, title in enumerate(_full_titles(table)):
        interval, paper = wide[column]
        spread = any(isinstance(row[column], Value) and row[column].kind == SPREAD for row in table.rows)
        ends = [f"{title} − SD", f"{title} + SD"] if spread else [f"{title} low", f"{title} high"]
        header += [title] + ends * interval + [f"{title} (paper)"] * paper
    writer.writerow(header)
    for row in table.rows:
        line = []
        for column, cell in enumerate(row):
            interval, paper = wide[column]
            if isinstance(cell, Value):
                line += [_number(cell.value)] + [_number(cell.low), _number(cell.high)] * interval
                line += [cell.paper] * paper
            else:
                line += [cell] + ["", ""] * interval + [""] * paper
        writer.writerow(line)
    return stream.getvalue()


def _number(value):
    return f"{value:.6g}" if isfinite(value) else ""


def _full_titles(table):
    """With their group, so that two columns of one name stay apart."""
    titles = list(table.columns)
    at = 0
    for title, count in table.groups:
        if title:
            titles[at : at + count] = [f"{title}: {one}" for one in titles[at : at + count]]
        at += count
    return titles


# -------------------------------------------------------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "²": "$^2$", "±": r"$\pm$", "×": r"$\times$", "τ": r"$\tau$", "σ": r"$\sigma$", "κ": r"$\kappa$", "–": "--",
    "−": "$-$", "≥": r"$\geq$", "≤": r"$\leq$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "|": r"\textbar{}",
    "μ": r"$\mu$", "∞": r"$\infty$", "→": r"$\rightarrow$", "“": "``", "”": "''", "…": r"\ldots{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(c, c) for c in text)


def to_latex(table: Table) -> str:
    """A `table` of booktabs; the best of each column is bold. Needs \\usepackage{booktabs}."""
    best = table.best()
    lines = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.title)}}}"]
    lines += [rf"\label{{tab:{table.name}}}", r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\toprule"]
    if any(title for title, _ in table.groups):
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{latex_text(title)}}}" for title, count in table.groups]
        lines.append(" & ".join(spans) + r" \\")
    lines += [" & ".join(map(latex_text, table.columns)) + r" \\", r"\midrule"]
    for n, row in enumerate(table.rows):
        cells = []
        for column, cell in enumerate(row):
            text = latex_text(cell.text if isinstance(cell, Value) else cell)
            if (n, column) in best:
                text = rf"\textbf{{{text}}}"
            if isinstance(cell, Value) and cell.paper:
                text += f" [{latex_text(cell.paper)}]"
            cells.append(text)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines.append(r"\par\footnotesize " + latex_text(" ".join(table.notes)))
    return "\n".join([*lines, r"\end{table}", ""])
