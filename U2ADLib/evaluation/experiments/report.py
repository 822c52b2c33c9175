"""The report: one HTML file that needs nothing else, and each table as CSV and LaTeX.

Pictures are part of the file. No script, no address, no path, no name of a person stands in it; images of people only
where the configuration allows them.
"""

import base64
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ... import __version__
from ...errors import U2ADError
from .config import ExperimentConfig, bundled
from .tables.result import Picture, Result, Table, Value, to_csv, to_latex
from .tables.standing import Standing

REPORT = "report.html"
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-image", "scikit-learn", "SimpleITK", "monai", "transformers", "torchvision",
    "opensimplex", "matplotlib",
)  # fmt: skip
WIDE = 9  # columns; in a wider table intervals stand below their values
LIMITS = (
    "Lesions that were planted in healthy or simulated necks say nothing certain about patients. For research only; "
    "not a medical device."
)


@dataclass(frozen=True)
class Report:
    """results: by experiment, in their order. left_out: what could not run, in sentences. device: in words."""

    config: ExperimentConfig
    standing: Standing
    results: Mapping[str, Result]
    stated: str
    device: str
    left_out: Sequence[str] = ()
    trainings: Sequence[tuple[str, ...]] = field(default=())  # method, stage, slices, people, seconds, folder


def write_report(out: Path, report: Report) -> Path:
    """`report.html` and `tables/*.csv`, `tables/*.tex`. :raises U2ADError: writing failed."""
    out = Path(out)
    try:
        (out / "tables").mkdir(parents=True, exist_ok=True)
        for table in _tables(report):
            _write(out / "tables" / f"{table.name}.csv", to_csv(table))
            _write(out / "tables" / f"{table.name}.tex", to_latex(table))
        _write(out / REPORT, page(report, out / "figures"))
    except OSError as error:
        raise U2ADError(f"The report could not be written: {error.strerror or type(error).__name__}.") from error
    return out / REPORT


def _tables(report):
    own = [report.standing.table] if report.standing.table else []
    return own + [table for result in report.results.values() for table in result.tables]


def _write(path, text):
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def page(report: Report, figures: Path) -> str:
    """The HTML. :param figures: where its pictures are."""
    config = report.config
    titles = {name: result.title or name for name, result in report.results.items()}
    linked = {"reading": "How to read the tables", **titles, "repeat": "How to repeat it"}
    contents = "".join(f'<li><a href="#{name}">{_text(title)}</a></li>' for name, title in linked.items())
    parts = [
        f"<h1>U²AD and its rivals: {_text(config.name)}</h1>",
        f"<p>{_text(config.description)}</p>" if config.description else "",
        _summary(report),
        _READING,
        f"<nav><h2>Contents</h2><ul>{contents}</ul></nav>",
    ]
    for name, result in report.results.items():
        parts.append(_section(name, titles[name], result, figures, config.pictures_of == "all"))
    parts.append(_repeat(report))
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=escape(f"U²AD: {config.name}"), style=_STYLE, body=body)


def _summary(report):
    standing = report.standing
    first = "".join(f"<li>{_text(one)}</li>" for one in standing.sentences)
    behind = "".join(f"<li>{_text(one)}</li>" for one in standing.not_first)
    parts = ['<section id="summary"><h2>Summary</h2>', f"<ul>{first}</ul>"]
    if behind:
        parts.append(f'<div class="warning"><h3>Where U²AD is not first</h3><ul>{behind}</ul></div>')
    elif standing.takes_part and standing.table:
        parts.append("<p>No other method is level with U²AD, or ahead of it, in any figure of the table below.</p>")
    if standing.table:
        parts.append(_table(standing.table))
    missing = [*report.config.notes, *report.left_out]
    if missing:
        listed = "".join(f"<li>{_text(one)}</li>" for one in missing)
        parts.append(f'<div class="warning"><h3>Left out</h3><ul>{listed}</ul></div>')
    parts.append(f'<p class="foot">{_text(report.stated)}</p><p class="foot">{_text(LIMITS)}</p></section>')
    return "".join(parts)


def _section(name, title, result, figures, people):
    parts = [f'<section id="{name}"><h2>{_text(title)}</h2>']
    parts += [f"<p>{_text(note)}</p>" for note in result.notes]
    parts += [_table(table) for table in result.tables]
    parts += [_picture(one, figures) for one in result.figures if people or not one.real]
    return "".join(parts) + "</section>"


def _table(table: Table) -> str:
    best, head = table.best(), ""
    if any(title for title, _ in table.groups):
        head = (
            "<tr>"
            + "".join(f'<th colspan="{n}" class="group">{_text(title)}</th>' for title, n in table.groups)
            + "</tr>"
        )
    head += "<tr>" + "".join(f'<th scope="col">{_text(one)}</th>' for one in table.columns) + "</tr>"
    lines = []
    for n, row in enumerate(table.rows):
        cells = "".join(_cell(cell, (n, column) in best) for column, cell in enumerate(row))
        lines.append(f"<tr{' class=ours' if n in table.emphasised else ''}>{cells}</tr>")
    notes = " ".join(dict.fromkeys(table.notes))
    caption = f"<caption>{_text(table.title)}</caption>"
    wide = " wide" * (len(table.columns) > WIDE)
    return (
        f'<div class="table{wide}"><table>{caption}<thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
        f'<p class="foot">{_text(notes)}</p></div>'
    )


def _cell(cell, best):
    if not isinstance(cell, Value):
        return f"<td>{_text(cell)}</td>"
    main, _, rest = cell.text.partition(" ")
    shown = f"<b>{_text(main)}</b>" if best else _text(main)
    rest = f' <span class="interval">{_text(rest)}</span>' if rest else ""
    paper = f'<br><span class="paper">paper: {_text(cell.paper)}</span>' if cell.paper else ""
    return f'<td class="number">{shown}{rest}{paper}</td>'


def _picture(picture: Picture, figures: Path) -> str:
    path = figures / picture.file
    if not path.is_file():
        return f"<p>{_text(picture.title)}: the picture is missing.</p>"
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = f"<b>{_text(picture.title)}.</b> {_text(picture.caption)}"
    return (
        f'<figure><img alt="{_text(picture.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _repeat(report):
    config = report.config
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(found)}</td></tr>" for name, found in versions().items())
    trained = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in line) + "</tr>" for line in report.trainings
    )
    trainings = (
        "<details><summary>Trainings</summary><table><thead><tr><th>Method</th><th>Stage</th><th>Slices</th>"
        "<th>People</th><th>Seconds of computing</th><th>Folder in models</th></tr></thead>"
        f"<tbody>{trained}</tbody></table>"
        '<p class="foot">A line for each fold and seed whose images differ. Seconds: since a training was last '
        "started; what it did before it was stopped is not counted.</p></details>"
        if trained
        else ""
    )
    named = config.name if config.name in bundled() else f"{config.name}.toml"
    record = json.dumps(config.record(people=False), indent=1, ensure_ascii=False)
    return (
        '<section id="repeat"><h2>How to repeat it</h2>'
        f"<p><code>u2ad evaluate {escape(named)} --out DIR</code></p>"
        f"<p>Configuration {escape(config.key())}. Seeds of the trainings: {', '.join(map(str, config.seeds))}; of the "
        f"folds: {config.folds.seed}. The seeds of phantoms, places and degradations follow from the configuration and "
        f"are written down with every image. Device: {_text(report.device)}.</p>"
        f"<details><summary>Configuration, defaults included</summary><pre>{_text(record)}</pre></details>"
        f"<details><summary>Versions</summary><table><tbody>{rows}</tbody></table></details>{trainings}</section>"
    )


def versions() -> dict[str, str]:
    """Of U²AD, Python, the system and the packages that decide on figures."""
    found = {
        "U²AD": __version__,
        "Python": platform.python_version(),
        "System": f"{platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


_ADDRESSES = re.compile(r"\w+://\S+")
_PATHS = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?[\\/](?:[\w.@+ -]+[\\/])*([\w.@+-]+)")


def _text(text: str) -> str:
    """Escaped, and without addresses and the folders of absolute paths."""
    return escape(_PATHS.sub(r"\1", _ADDRESSES.sub("…", str(text))))


_READING = """<section id="reading"><h2>How to read the tables</h2><ul>
<li><b>Patient level</b>: has the image a hyperintensity, by the highest value of its curve? <b>Segment level</b>: which
of its segments C2-3 to C7-T1 have one?</li>
<li><b>Strategy</b>: what a method learnt from. 1: the source images; 2: the target images alone; 3: the source and then
the target. Detectors learn from annotated target images, so theirs is 2. –: the method learns nothing.</li>
<li>In <b>brackets</b>: a 95 % interval, for which people were drawn again and again, each with all of their images.
After <b>±</b>: the standard deviation over folds.</li>
<li><b>(oracle)</b>: a threshold was chosen on the images that are judged with it, as nobody can in practice.</li>
<li><b>Bold</b>: the best of a column, however little it is ahead. <b>Coloured rows</b>: U²AD's own scores. <b>–</b> in
the place of a number: not defined, or the method has nothing of the kind; more about it stands below the table.</li>
<li>Below each table stands what was tested and on whom. The CSV files in the folder tables hold all digits.</li>
</ul></section>"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light; --ink: #1d2530; --soft: #5a6675; --line: #d8dee6; --ours: #fff3ea; --warn: #fff8e1; }
body { margin: 0; background: #f4f6f8; color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px; }
h1 { font-size: 1.8rem; margin: 0 0 8px; }
h2 { font-size: 1.3rem; margin: 0 0 12px; }
h3 { font-size: 1.05rem; margin: 0 0 6px; }
section, nav { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 20px; margin: 18px 0; }
nav ul { columns: 2; margin: 0; padding-left: 20px; }
a { color: #0b5cad; }
.table { overflow-x: auto; margin: 16px 0 24px; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 8px; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #9aa7b5; font-weight: 600; vertical-align: bottom; }
th.group { border-bottom: 1px solid #9aa7b5; }
td.number { white-space: nowrap; }
tr.ours td { background: var(--ours); }
.interval { color: var(--soft); font-size: .92em; }
.wide .interval { display: block; }
.wide td:nth-child(-n+2) { white-space: nowrap; }
.paper { color: #7a4b00; font-size: .92em; }
.foot { color: var(--soft); font-size: .84rem; margin: 6px 0 0; }
.warning { background: var(--warn); border: 1px solid #e6cf8b; border-radius: 6px; padding: 12px 16px; margin: 12px 0; }
.warning ul { margin: 0; padding-left: 20px; }
figure { margin: 18px 0; }
figure img { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; }
details { margin: 10px 0; }
summary { cursor: pointer; }
pre { background: #f4f6f8; padding: 12px; overflow-x: auto; font-size: .8rem; }
@media print { body { background: #fff; } section { break-inside: avoid-page; border: 0; padding: 0; } }
"""
