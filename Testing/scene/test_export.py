import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_scene import THRESHOLDS, made_analysis

from U2ADLib import qc_page, report
from U2ADLib.analysis import with_thresholds
from U2ADLib.errors import InputError, U2ADError
from U2ADScene.export import export_report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def analysis():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return made_analysis(monkeypatch)


def contents(folder):
    """Path below the folder → bytes; folders end with a slash."""
    return {
        f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": path.is_dir() or path.read_bytes()
        for path in folder.rglob("*")
    }


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_report_and_page_are_written(analysis, tmp_path):
    folder = tmp_path / "patients" / "one"
    written = export_report(analysis, folder)
    report.write_results(analysis, tmp_path / "plain")
    assert {p.name for p in written} == {p.name for p in folder.iterdir()}
    assert all(p.parent == folder for p in written)
    expected = contents(tmp_path / "plain") | {"qc.html": qc_page.qc_page(analysis).encode()}
    assert contents(folder) == expected
    assert {p.name for p in tmp_path.iterdir()} == {"patients", "plain"}
    read = report.read_results(folder, analysis.volume)
    assert read.flagged == analysis.flagged == ("C4-5",)


def test_earlier_results_are_replaced_only_where_asked(analysis, tmp_path):
    export_report(analysis, tmp_path / "out")
    (tmp_path / "out" / "qc.json").write_text("mine")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="holds results already"):
        export_report(analysis, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    other = with_thresholds(analysis, 2 * THRESHOLDS.segment, 0.9)
    export_report(other, tmp_path / "out", overwrite=True)
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys()
    assert after["qc.json"] == b"mine"
    assert after["qc.html"] == qc_page.qc_page(other).encode() != before["qc.html"]
    assert after["segments.csv"] != before["segments.csv"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_peoples_folders_are_left_alone(analysis, tmp_path, overwrite):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        export_report(analysis, tmp_path, overwrite)
    with pytest.raises(InputError, match="is a file"):
        export_report(analysis, tmp_path / "letter.txt", overwrite)
    assert contents(tmp_path) == {"letter.txt": b"dear"}


def test_a_page_that_cannot_be_drawn_leaves_nothing(analysis, tmp_path, monkeypatch):
    monkeypatch.setattr(qc_page, "draw_blink_pair", fail)
    with pytest.raises(U2ADError, match="No space left on device"):
        export_report(analysis, tmp_path / "deep" / "out")
    assert contents(tmp_path) == {}


def test_a_report_that_cannot_be_written_leaves_nothing(analysis, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "anocurve_picture", fail)
    with pytest.raises(U2ADError, match="No space left on device"):
        export_report(analysis, tmp_path / "deep" / "out")
    assert contents(tmp_path) == {}


def test_a_page_that_cannot_take_its_place_takes_the_report_with_it(analysis, tmp_path, monkeypatch):
    replace = os.replace

    def replace_all_but_the_page(source, target):
        return fail() if Path(target) == tmp_path / "out" / "qc.html" else replace(source, target)

    monkeypatch.setattr(os, "replace", replace_all_but_the_page)
    with pytest.raises(U2ADError, match=r"could not be written to .*out: No space left on device"):
        export_report(analysis, tmp_path / "out")
    assert contents(tmp_path) == {}


def test_a_folder_in_the_pages_place_is_not_touched(analysis, tmp_path):
    export_report(analysis, tmp_path / "out")
    (tmp_path / "out" / "qc.html").unlink()
    (tmp_path / "out" / "qc.html").mkdir()
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"qc\.html in out is a folder"):
        export_report(analysis, tmp_path / "out", overwrite=True)
    assert contents(tmp_path) == before


def test_pillow_is_not_needed_to_load_the_module():
    code = (
        "import sys; sys.path[:0] = ['Testing', 'U2AD', '.']\n"
        "from slicer_bench import fixtures\n"
        "for name in [n for n in sys.modules if n.split('.')[0] in ('PIL', 'U2ADLib')]:\n"
        "    del sys.modules[name]\n"
        "from U2ADScene import export\n"
        "assert not {'PIL', 'torch', 'skimage'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
