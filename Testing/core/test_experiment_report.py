"""Tables as HTML, CSV and LaTeX, the report around them, and what its summary says."""

import csv
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from U2ADLib.evaluation.experiments import pictures
from U2ADLib.evaluation.experiments.config import ExperimentConfig
from U2ADLib.evaluation.experiments.figures import Figure
from U2ADLib.evaluation.experiments.report import Report, page, write_report
from U2ADLib.evaluation.experiments.sets import SetConfig
from U2ADLib.evaluation.experiments.tables import common, paper
from U2ADLib.evaluation.experiments.tables import standing as standings
from U2ADLib.evaluation.experiments.tables.result import (
    SPREAD,
    Picture,
    Result,
    Table,
    Value,
    latex_text,
    to_csv,
    to_latex,
)
from U2ADLib.evaluation.experiments.tables.standing import Standing, standing
from U2ADLib.evaluation.experiments.training import Entry

TABLE = Table(
    "trial",
    "A & B: 50 % of x_1",
    ("Method", "F1", "Specificity", "F1"),
    (
        ("VAE", Value(0.5, 0.4, 0.6), Value(0.25), Value(0.9, 0.8, 1.0, SPREAD, paper="0.7 ± 0.1")),
        ("U²AD", Value(0.75, 0.7, 0.8), Value(0.5), Value(np.nan)),
        ("τ_1", Value(0.75, 0.6, 0.9), Value(np.nan), Value(0.1)),
    ),
    (0, 1, -1, 1),
    ("A note, 10 % & more.",),
    (("", 1), ("Patient", 2), ("Segment", 1)),
    (1,),
)


# --------------------------------------------------------------------------------------------------------------- tables


def test_values_read_as_in_a_paper():
    assert Value(0.774, 0.7616, 0.7864, SPREAD).text == "0.774 ± 0.012"
    assert Value(0.774, 0.701, 0.833).text == "0.774 (0.70 to 0.83)"
    assert Value(0.5).text == "0.500"
    assert Value(np.nan, 0, 1).text == "–"
    assert Value.of(None).text == "–"
    assert Value.of(Figure(0.25, 0.2, 0.3), digits=2).text == "0.25 (0.2 to 0.3)"


def test_the_best_of_a_column_is_found_with_ties_and_signs():
    assert TABLE.best() == {(1, 1), (2, 1), (0, 2), (0, 3)}
    alone = replace(TABLE, rows=TABLE.rows[:1])
    assert alone.best() == set()


def test_csv_holds_the_numbers_of_the_table():
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == [
        "Method", "Patient: F1", "Patient: F1 low", "Patient: F1 high", "Patient: Specificity",
        "Segment: F1", "Segment: F1 − SD", "Segment: F1 + SD", "Segment: F1 (paper)",
    ]  # fmt: skip
    assert rows[1] == ["VAE", "0.5", "0.4", "0.6", "0.25", "0.9", "0.8", "1", "0.7 ± 0.1"]
    assert rows[2] == ["U²AD", "0.75", "0.7", "0.8", "0.5", "", "", "", ""]
    assert [len(row) for row in rows] == [9] * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % of a_b & c", r"50 \% of a\_b \& c"),
        (r"\cmd{x}", r"\textbackslash{}cmd\{x\}"),
        ("U²AD ± τ", r"U$^2$AD $\pm$ $\tau$"),
        ("$5 #1 ~ ^ <|>", r"\$5 \#1 \textasciitilde{} \textasciicircum{} \textless{}\textbar{}\textgreater{}"),
    ],
)
def test_latex_escapes(text, expected):
    assert latex_text(text) == expected


def test_latex_is_a_booktabs_table():
    text = to_latex(TABLE)
    lines = text.splitlines()
    assert r"\caption{A \& B: 50 \% of x\_1}" in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in lines
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert [line.count(" & ") for line in body] == [3, 3, 3]
    assert body[1] == r"U$^2$AD & \textbf{0.750 (0.70 to 0.80)} & 0.500 & -- \\"
    assert r"\textbf{0.900 $\pm$ 0.100} [0.7 $\pm$ 0.1]" in body[0]
    assert text.count("{") == text.count("}")


def test_results_are_kept_as_json_and_come_back():
    result = Result([TABLE], [Picture("a.png", "A", "b", True)], ["note"], "Title")
    again = Result.from_record(result.record())
    assert again.record() == result.record()
    assert again.tables[0].best() == TABLE.best()
    assert np.isnan(again.tables[0].rows[1][3].value)


# ------------------------------------------------------------------------------------------------------- paper's values


def test_the_papers_values_are_complete():
    for data in ("renji", "ruijin"):
        for strategy in (1, 2, 3):
            for method in ("vae", "dae", "vae-gan", "f-anogan", "anoddpm", "u2ad"):
                assert len(paper.found("table1", data, method, strategy)) == 6
        for method in ("yolov8", "mask-rcnn", "detr", "z-scoring", "slic", "dbscan", "u2ad"):
            assert len(paper.found("table2", data, method)) == 6
        for method in ("mae", "mae-mc", "eu-guided", "u2ad"):
            assert len(paper.found("table3", data, method)) == 6
        assert paper.found("quality", data, "u2ad").keys() == {"ssim", "psnr", "mse", "variance"}
    assert paper.found("table1", "renji", "u2ad", 3)["patient F1"] == "0.8336 ± 0.0348"
    assert paper.found("table1", "ruijin", "dae", 2)["segment specificity"] == "0.9092 ± 0.0844"
    assert paper.found("table4", "renji", "tau", 10.0)["patient accuracy"] == "0.7608 ± 0.0164"
    assert paper.found("seconds", "renji", "k", 20) == {"seconds": "0.2743"}
    assert sum(len(paper.found("table4", "renji", "k", k)) for k in (3, 5, 10, 15, 20)) == 30


def test_nothing_of_the_paper_stands_beside_other_data():
    for table, key in (("table1", ("u2ad", 3)), ("table2", ("slic",)), ("table4", ("k", 10)), ("quality", ("u2ad",))):
        assert paper.found(table, "", *key) == {}
        assert paper.found(table, "renji", *key)


class FakeContext:
    """Figures of methods that are given."""

    truths = ()

    def __init__(self, figures, paper_data=""):
        methods = {name for name, _ in figures}
        self.given = figures
        self.config = SimpleNamespace(
            methods={name: {} for name in methods},
            paper_data=paper_data,
            known=self._known,
            folds=SimpleNamespace(count=5),
        )
        self.comparison = SimpleNamespace(
            entry=lambda name: Entry(name, name),
            strategies=lambda name: tuple(strategy for method, strategy in figures if method == name),
            best_strategy=lambda name: max(strategy for method, strategy in figures if method == name),
        )

    def _known(self, methods):
        return tuple(name for name in methods if name in self.config.methods)

    def is_there(self, entry, strategy=None):
        return True

    def figures(self, entry, strategy):
        given = self.given[entry.method, strategy]
        return {
            name: value if isinstance(value, Figure) else Figure(value, value - 0.1, value + 0.1)
            for name, value in given.items()
        }

    def seconds(self, entry, strategy):
        return np.array([0.5])

    def folds_told(self):
        return "Folds."

    def difference(self, first, second):
        one, other = (self.figures(*pair) for pair in (first, second))
        return {name: Figure(one[name].value - other[name].value, -0.2, 0.2) for name in one if name in other}

    def title(self, entry):
        return {"u2ad": "U²AD (paper)"}.get(entry.method, entry.method)

    def stated(self):
        return "Configuration trial."

    def doubts(self):
        return []


@pytest.mark.parametrize(("data", "shown"), [("", False), ("renji", True)])
def test_the_papers_value_stands_beside_ours_only_on_its_own_data(data, shown):
    figures = {name: 0.5 for _, name in common.PROTOCOL}
    context = FakeContext({("vae", 1): figures, ("u2ad", 3): figures}, data)
    rows = common.rows_of(context, ("vae", "u2ad"))
    table = common.protocol_table(context, "table1-protocol", "Table 1", rows, "table1")
    assert [row[:2] for row in table.rows] == [("1", "vae"), ("3", "U²AD (paper)")]
    papers = [cell.paper for row in table.rows for cell in row if isinstance(cell, Value)]
    assert any(papers) == shown
    # Figures that the paper does not have stay without one.
    assert [cell.paper for cell in table.rows[0][-2:]] == ["", ""]
    if shown:
        assert table.rows[0][2].paper == "0.6320 ± 0.0531"
        assert table.rows[1][5].paper == "0.7345 ± 0.0547"  # segment F1, which the paper judges as an oracle
    assert "Configuration trial." in table.notes


def test_means_of_fewer_folds_are_named():
    figures = {name: Figure(0.5, 0.4, 0.6, 5) for _, name in common.PROTOCOL}
    context = FakeContext({("u2ad", 3): figures, ("vae", 1): figures | {"segment F1": Figure(1.0, n=2)}})
    table = common.protocol_table(context, "t", "T", common.rows_of(context, ("u2ad", "vae")), "table1")
    assert "Means of fewer folds, because the others are undefined: segment F1 of 2: vae, strategy 1." in table.notes


def test_lesions_stand_in_the_tables_by_kind_and_pixels_too():
    kinds = {f"lesions found at 1 false mark per image: {kind}": Figure(0.5, 0.4, 0.6, 7) for kind in ("A1", "h25")}
    lesions = {"lesions found at 1 false mark per image": 0.4, "pixel AP (oracle)": 0.3, "pixel Dice (oracle)": 0.2}
    plain = {"patient AUROC": 0.8, "segment AUROC": 0.9}
    context = FakeContext({("vae", 1): plain | lesions | kinds, ("maximum-intensity", 0): plain | lesions | kinds})
    tables = {one.name: one for one in common.detection_tables(context, "t", "T", common.rows_of(context, ("vae",)))}
    assert set(tables) == {"t-protocol", "t-calls", "t", "t-kinds"}  # one group only, and no U²AD
    assert [row[1] for row in tables["t"].rows] == ["vae", "maximum-intensity"]
    assert tables["t"].columns[-4:-1] == ("Lesions found at 1 false mark per image", "Pixel AP", "Pixel Dice (oracle)")
    assert [cell.value for cell in tables["t"].rows[0][-4:]] == [0.4, 0.3, 0.2, 0.5]
    assert tables["t"].groups[-2:] == (("Planted lesions", 3), ("", 1))
    assert tables["t-kinds"].columns == ("Strategy", "Method", "A1 (n = 7)", "h25 (n = 7)")
    bare = FakeContext({("vae", 1): plain})
    assert common.kinds_table(bare, "k", "K", common.rows_of(bare, ("vae",))) is None


# ---------------------------------------------------------------------------------------------------------- the summary


def test_phantoms_and_people_stand_apart():
    context = FakeContext({("vae", 1): {"patient AUROC": 0.5}})
    context.truths = [SimpleNamespace(group=group, person=str(n // 2)) for n, group in enumerate("abbb")]
    values = {"a": 0.25, "b": 0.75}
    context.figures_of_group = lambda entry, strategy, group: {
        "patient AUROC": Figure(values[group]),
        "segment AUROC": Figure(0.5),
    }
    table = common.groups_table(context, "groups", "Groups", common.rows_of(context, ("vae",)))
    assert table.groups == (("", 2), ("a", 2), ("b", 2))
    assert [cell.value for cell in table.rows[0][2:]] == [0.25, 0.5, 0.75, 0.5]
    assert table.notes[0].startswith("a: 1 images of 1 people, b: 3 images of 2 people.")
    context.truths = context.truths[1:]
    assert common.groups_table(context, "groups", "Groups", []) is None


def test_the_summary_says_where_u2ad_is_not_first():
    figures = {
        ("u2ad", 3): {"patient AUROC": 0.8, "segment AUROC": 0.9, "patient F1": 0.4},
        ("u2ad", 1): {"patient AUROC": 0.95, "segment AUROC": 0.95},  # not all that it has learnt
        ("vae", 1): {"patient AUROC": 0.85, "segment AUROC": 0.7},
        ("vae", 3): {"patient AUROC": 0.6, "segment AUROC": 0.6, "patient F1": 0.5},
        ("maximum-intensity", 0): {"patient AUROC": 0.8, "segment AUROC": 0.5},
    }
    found = standing(FakeContext(figures))
    assert found.takes_part
    assert found.sentences[0].startswith("First at patient level: U²AD (paper), strategy 1, patient AUROC 0.950")
    behind = " ".join(found.not_first)
    assert "In patient AUROC U²AD (paper), strategy 3 is behind the paper's methods: 0.800" in behind
    assert "vae, strategy 1 0.850" in behind
    assert "which is no clear difference" in behind
    assert "level with the simple rules" in behind
    assert "segment AUROC" not in behind
    assert (
        "U²AD (paper), strategy 3 is not ahead of the paper's methods in patient F1 of the paper's protocol (0.400; "
        in behind
    )
    row = next(row for row in found.table.rows if row[0] == "patient AUROC")
    assert "3 of 5 (0.800)" in row


def test_the_summary_is_short_where_u2ad_is_first():
    figures = {
        ("u2ad", 3): {"patient AUROC": 0.9, "segment AUROC": 0.9},
        ("vae", 3): {"patient AUROC": 0.8, "segment AUROC": 0.8},
        ("all-positive", 0): {"patient AUROC": 0.5, "segment AUROC": np.nan},
    }
    found = standing(FakeContext(figures))
    assert found.not_first == []
    assert sum("ahead of" in one for one in found.sentences) == 3
    # An ablation that is ahead, or a figure that U²AD lacks, is not passed over.
    figures["mae-mc-signed", 3] = {"patient AUROC": 0.95, "segment AUROC": 0.5}
    figures["vae", 3]["patient F1"] = 0.5
    behind = " ".join(standing(FakeContext(figures)).not_first)
    assert "In patient AUROC U²AD (paper), strategy 3 is behind the ablation: 0.900" in behind
    assert "U²AD (paper), strategy 3 has no value in patient F1 of the paper's protocol." in behind
    without = standing(FakeContext({("vae", 3): {"patient AUROC": 0.8}}))
    assert not without.takes_part
    assert "U²AD does not take part." in without.sentences


def test_measures_of_the_summary_are_figures_that_exist():
    rng = np.random.default_rng(0)
    from U2ADLib.evaluation.experiments.contracts import CaseScores
    from U2ADLib.evaluation.experiments.figures import all_figures
    from U2ADLib.evaluation.experiments.scores import Truth

    names = ("C2-3", "C3-4")
    truths = [Truth(f"{n}", f"p{n}", "phantom", n % 2 == 0, {"C2-3": n % 2 == 0, "C3-4": False}) for n in range(12)]
    scores = {}
    for truth in truths:
        segments = dict(zip(names, rng.random(2).tolist(), strict=True))
        scores[truth.id] = CaseScores(truth.id, max(segments.values()), segments, max(segments, key=segments.get))
    known = set(all_figures(scores, truths, folds=2, threshold=0.5, resamples=5))
    assert {key for *_, key in standings.MEASURES} <= known
    assert {key for _, key in common.PROTOCOL} <= known
    lesion = {"lesions": (0.5,), "pixel_ap": 0.5, "pixel_dice": 0.5}
    planted = [replace(truth, kinds=("A1",)) for truth in truths]
    known |= set(all_figures({name: replace(one, **lesion) for name, one in scores.items()}, planted, resamples=5))
    assert {key for _, key, _ in common.OURS_COLUMNS} <= known
    assert {key for _, key in common.CALLS} <= known
    assert any(key.startswith(common.KINDS) for key in known)


# ----------------------------------------------------------------------------------------------------------- the report


@pytest.fixture
def report(tmp_path):
    """A report with a picture that may be shown and one that may not."""
    folder = tmp_path / "figures"
    panels = [{"title": "A", "x": "x", "x2": "x²", "lines": {"U²AD": ((0, 1), (1, 2)), "VAE": ((0, 1), (2, np.nan))}}]
    for name in ("shown", "person"):
        pictures.line_panels(folder / f"{name}.png", panels, 1)
    figures = [Picture("shown.png", "Shown <b>", "A caption."), Picture("person.png", "Somebody", "", True)]
    result = Result([TABLE], figures, ["See http <script>."], "Table & more")
    sets = (SetConfig(folder="/home/somebody/data", people=("sub-Miller", "sub-Smith"), healthy=True),)
    config = ExperimentConfig(
        "trial", test=sets, methods={}, notes=("dae is left out: look into /home/somebody/data/dae.txt.",)
    )
    found = Standing(["First: VAE."], ["U²AD is behind."], replace(TABLE, name="standing"))
    return Report(
        config, found, {"table1": result}, "Configuration trial.", "cpu (1 threads)", ["Scoring VAE failed: x"]
    )


def test_the_report_needs_nothing_else(report, tmp_path):
    text = page(report, tmp_path / "figures")
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert any(source.startswith("data:image/png;base64,") for source in sources)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    targets = set(re.findall(r'id="([^"]*)"', text))
    assert {source[1:] for source in sources if source.startswith("#")} <= targets
    assert "/home/somebody" not in text
    assert "dae.txt" in text
    assert "sub-Miller" not in text
    assert "&quot;people&quot;: 2" in text
    assert str(tmp_path) not in text


def test_the_report_says_what_is_missing_and_where_u2ad_is_not_first(report, tmp_path):
    text = page(report, tmp_path / "figures")
    summary = text.partition('<section id="table1">')[0]
    assert "Where U²AD is not first" in summary
    assert "U²AD is behind." in summary
    assert "Scoring VAE failed: x" in summary
    assert "dae is left out" in summary
    first = replace(report, standing=Standing(["First: U²AD."], [], TABLE))
    text = page(first, tmp_path / "figures")
    assert "Where U²AD is not first" not in text
    assert "No other method is level with U²AD" in text
    absent = replace(report, standing=Standing(["U²AD does not take part."], [], TABLE, takes_part=False))
    assert "No other method is level with U²AD" not in page(absent, tmp_path / "figures")


def test_people_are_shown_only_where_the_configuration_says_so(report, tmp_path):
    assert "Somebody" not in page(report, tmp_path / "figures")
    allowed = replace(report, config=replace(report.config, pictures_of="all"))
    assert "Somebody" in page(allowed, tmp_path / "figures")


def test_files_are_written_for_every_table(report, tmp_path):
    path = write_report(tmp_path, report)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {one.name for one in (tmp_path / "tables").iterdir()} == {
        "trial.csv", "trial.tex", "standing.csv", "standing.tex",
    }  # fmt: skip
    assert (tmp_path / "tables" / "trial.csv").read_text(encoding="utf-8") == to_csv(TABLE)
    text = path.read_text(encoding="utf-8")
    for row in TABLE.rows:
        for cell in row:
            shown = cell.text if isinstance(cell, Value) else cell
            assert shown.split(" ")[0] in text
    assert "paper: 0.7 ± 0.1" in text


def test_pictures_of_every_kind_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    figure = Figure(0.5, 0.4, 0.6)
    pictures.bars(
        tmp_path / "bars.png",
        [{"title": "A", "groups": ["x", "y"], "bars": {"1": [figure, None], "2": [figure, figure]}}],
    )
    pictures.boxes(tmp_path / "boxes.png", {"A": {"x": rng.random(5), "y": np.empty(0)}, "B": {"x": np.empty(0)}})
    counts = rng.integers(0, 50, 50)
    pictures.distributions(tmp_path / "distributions.png", counts, counts, counts, {"VAE": counts, "U²AD": counts})
    pictures.domain_shift(tmp_path / "shift.png", {"source": {"cord": counts, "around": counts}})
    image, cord, lesion = rng.random((64, 64)), np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    cord[8:56, 28:36], lesion[20:26, 30:33] = True, True
    pictures.making(tmp_path / "making.png", image, cord, image, lesion)
    for name in ("bars", "boxes", "distributions", "shift", "making"):
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 4000
    assert not list(tmp_path.glob(".*"))
