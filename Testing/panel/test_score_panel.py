"""The choice of the score and the table of findings, by clicks."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import qt
import slicer
import slicer.util

from slicer_bench.fixtures import click, settle, without_default_score
from U2ADLib.errors import U2ADError
from U2ADLib.package import find_model, read_card
from U2ADScene import display, findings, runs

LEFT = qt.Qt.LeftButton
ALL = {"segment": 0.4, "patient": 0.5, "slices": "all", "origin": "made up", "score": "default"}


def rows(table):
    return [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]


def header(table):
    return [table.horizontalHeaderItem(c).text() for c in range(table.columnCount)]


@pytest.fixture
def two_scores(tmp_path, monkeypatch):
    """Two models of the user's beside the bundled one: "both", whose default score is the paper's with another setting,
    and "bare" without any."""
    folder = tmp_path / "models" / "both"
    shutil.copytree(find_model("u2ad-t2w"), folder)
    card = read_card(folder)
    card["scores"]["default"] = card["scores"]["paper"] | {"erosion_px": 2}
    card["thresholds"] = [one for one in card["thresholds"] if one["score"] == "paper"] + [ALL]
    card["name"] = "both"
    (folder / "model.json").write_text(json.dumps(card))
    without_default_score(find_model("u2ad-t2w"), folder.parent / "bare")
    monkeypatch.setenv("U2AD_MODELS", str(folder.parent))
    return folder


@pytest.fixture
def opened(two_scores, panel, app):
    widget = panel()
    widget.use_program(sys.executable)
    widget.parent.resize(460, 1200)
    widget.parent.show()
    widget.ui.modelSection.collapsed = False
    qt.QApplication.processEvents()
    while not widget.model.job.ended:
        slicer.app.processEvents()
    return widget


def choose_model(widget, name):
    widget.ui.modelSelector.setCurrentIndex(widget.ui.modelSelector.findData(name))


def choose_by_key(selector, key):
    """As a user does who has the box in focus."""
    selector.setFocus()
    qt.QTest.keyClick(selector, key)


def test_only_the_scores_that_the_model_has_can_be_chosen(opened):
    selector = opened.ui.scoreSelector
    assert [selector.itemText(k) for k in range(selector.count)] == ["Default (recommended)", "Paper (AnoMap)"]
    choose_model(opened, "bare")
    assert not selector.model().item(0).isEnabled()
    assert selector.currentData == "paper"
    choose_by_key(selector, qt.Qt.Key_Up)
    assert selector.currentData == "paper"  # what the model has not cannot be reached
    choose_model(opened, "both")
    assert [selector.model().item(k).isEnabled() for k in range(2)] == [True, True]
    assert selector.currentData == "default"
    choose_by_key(selector, qt.Qt.Key_Down)
    assert opened.model.settings.score == "paper"


def test_the_thresholds_follow_score_and_slices(opened):
    ui = opened.ui
    choose_model(opened, "both")
    assert ui.thresholdsLabel.text == "Flagged above: segment 0.400, patient 0.500."
    choose_by_key(ui.sliceSelector, qt.Qt.Key_Down)
    assert "nothing is flagged until thresholds are set" in ui.thresholdsLabel.text  # none for the middle slice
    choose_by_key(ui.scoreSelector, qt.Qt.Key_Down)
    middle = next(t for t in read_card(find_model("both"))["thresholds"] if t["slices"] == "middle")
    assert f"segment {middle['segment']:.3f}" in ui.thresholdsLabel.text


def test_the_score_is_saved_with_the_scene(opened, tmp_path):
    choose_model(opened, "both")
    choose_by_key(opened.ui.scoreSelector, qt.Qt.Key_Down)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert opened.ui.scoreSelector.currentData == "default"  # that of a new scene
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert opened.ui.scoreSelector.currentData == "paper"


def test_a_wish_outlives_a_model_that_cannot_grant_it(opened):
    choose_model(opened, "both")
    choose_by_key(opened.ui.scoreSelector, qt.Qt.Key_Down)
    for name in ("u2ad-t2w", "both"):
        choose_model(opened, name)
    assert opened.ui.scoreSelector.currentData == "paper"


def test_results_name_the_score_in_use(opened):
    ui = opened.ui
    choose_model(opened, "both")
    click(ui.sampleButton)
    for key, name, words in ((None, "default", "default score"), (qt.Qt.Key_Down, "paper", "paper's score")):
        if key:
            choose_by_key(ui.scoreSelector, key)
        click(ui.applyButton)
        settle(opened)
        nodes = opened.results.nodes
        assert opened.logic.analyses.of(nodes).score == name
        assert header(ui.segmentsTable)[1] == f"Score ({name})"
        assert f"Model both, {words}" in ui.notesLabel.text
        assert words in nodes.chart.GetTitle()
        legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(nodes["anomaly"])
        assert words in legend.GetTitleText()
    papers = next(t for t in read_card(find_model("both"))["thresholds"] if t["slices"] == "all")
    assert ui.segmentThreshold.value == pytest.approx(papers["segment"], abs=2e-3)


def test_back_to_the_thresholds_of_this_score(opened):
    ui = opened.ui
    choose_model(opened, "both")
    click(ui.sampleButton)
    click(ui.applyButton)
    settle(opened)
    assert ui.segmentThreshold.value == pytest.approx(0.4)
    ui.segmentThreshold.value = 0.1
    assert len(rows(ui.findingsTable)) > 0
    click(ui.resetThresholdsButton)
    assert ui.segmentThreshold.value == pytest.approx(0.4)


def test_the_console_takes_a_score(opened):
    volume = opened.logic.loadSample()
    nodes = opened.logic.process(volume, model="both", score="paper", program=sys.executable)
    assert opened.logic.analyses.of(nodes).score == "paper"
    nodes = opened.logic.process(volume, model="both", program=sys.executable)
    assert opened.logic.analyses.of(nodes).score == "default"
    old = shutil.copytree(find_model("both"), find_model("both").parent / "old")
    card = read_card(old)
    del card["scores"]["default"]
    (old / "model.json").write_text(json.dumps(card))
    with pytest.raises(U2ADError, match="no score 'default'"):
        opened.logic.process(volume, model="old", score="default", program=sys.executable)


def test_folders_take_the_score_too(opened, monkeypatch):
    """The batch of the panel, and that of the console."""
    from U2ADScene import job

    calls = []
    monkeypatch.setattr(job.Job, "start", lambda self, arguments, program=None: calls.append(arguments))
    choose_model(opened, "both")
    choose_by_key(opened.ui.scoreSelector, qt.Qt.Key_Down)
    opened.ui.batchSection.collapsed = False
    opened.ui.batchInput.directory, opened.ui.batchOutput.directory = "/in", "/out"
    opened.ui.batchButton.click()
    opened.logic.startFolder("/in", "/out", runs.Settings(score=None))
    opened.batch.job = None
    assert calls[0][calls[0].index("--score") + 1] == "paper"
    assert "--score" not in calls[1]  # the model's own choice


# --- findings


def show_lesions(widget, *changes):
    """Show the results with other figures of the findings."""
    nodes = widget.results.nodes
    analysis = widget.logic.analyses.of(nodes)
    lesions = [lesion | change for lesion, change in zip(analysis.lesions, changes, strict=True)]
    widget.logic.analyses.keep(nodes, replace(analysis, lesions=lesions))
    widget.results.show(nodes)


def test_findings_are_listed_and_explained(analysed):
    ui = analysed.ui
    assert ui.findingsTable.visible
    assert header(ui.findingsTable) == [title for title, _explanation in findings.columns()]
    shown = rows(ui.findingsTable)
    assert [row[0] for row in shown] == ["C4-5", "C6-7"]
    analysis = analysed.logic.analyses.of(analysed.results.nodes)
    for row, lesion in zip(shown, analysis.lesions, strict=True):
        assert row[1] == f"{lesion['peak_score []']:.3f}"
        assert row[2] == f"{lesion['peak_score_smaller_mask []']:.3f}"
        assert row[3] == f"{lesion['uncertainty []']:.3f}"
        assert row[4] == f"{100 * lesion['local_gain []']:+.0f} %"
        assert row[5] == ""
    for c in range(ui.findingsTable.columnCount):
        tips = {ui.findingsTable.horizontalHeaderItem(c).toolTip(), ui.findingsTable.item(0, c).toolTip()}
        assert tips == {findings.columns()[c][1]}


def test_what_may_be_csf_is_marked(analysed):
    show_lesions(analysed, {"peak_score_smaller_mask []": 0.05}, {})
    table = analysed.ui.findingsTable
    assert [row[5] for row in rows(table)] == ["may be CSF at the border", ""]
    first, second = (table.item(r, 2).background().color().name() for r in range(2))
    assert first != second


def test_a_click_on_a_finding_goes_there(analysed):
    table = analysed.ui.findingsTable
    analysis = analysed.logic.analyses.of(analysed.results.nodes)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    display.jump(analysed.results.nodes, analysis, 10.0, centre=True)
    found = findings.findings_of(analysis)[1]
    qt.QTest.mouseClick(table.viewport(), LEFT, qt.Qt.NoModifier, table.visualItemRect(table.item(1, 0)).center())
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").GetCrosshairRAS()
    expected = display.point_at(analysed.results.nodes, analysis, found.s_mm, found.slice_number)
    np.testing.assert_allclose(crosshair, expected, atol=1e-3)


def test_no_findings_no_table(analysed):
    analysed.ui.segmentThreshold.value = analysed.ui.segmentThreshold.maximum
    analysed.ui.patientThreshold.value = analysed.ui.patientThreshold.maximum
    assert not analysed.ui.findingsTable.visible
    analysed.ui.segmentThreshold.value = 0.15
    assert analysed.ui.findingsTable.visible
