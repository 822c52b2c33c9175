"""Adapting a model in the panel, by clicks: with the real worker, and with a quick stand-in for it."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import slicer.util

from slicer_bench.adapting_worker import write_program
from slicer_bench.fixtures import click, without_default_score
from U2ADLib.errors import U2ADError
from U2ADLib.package import find_model, read_card, update_card
from U2ADLib.resources import resource
from U2ADScene import adapting, results

LEFT = qt.Qt.LeftButton
SAMPLE = "sample_T2w.nii.gz"


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        slicer.app.processEvents()


def settle(widget):
    until(lambda: not widget.running and not widget.adapt.adaptation)


@pytest.fixture
def opened(panel, app, tmp_path, monkeypatch):
    """The panel with the section open, no models of the user's, and the stand-in for the worker."""
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(adapting, "LOOK_EVERY_S", 0.0)
    widget = panel()
    widget.use_program(write_program(tmp_path / "python"))
    widget.parent.resize(460, 1500)
    widget.parent.show()
    widget.ui.adaptSection.collapsed = False
    qt.QApplication.processEvents()
    return widget


@pytest.fixture
def bare(tmp_path):
    """A model of the user's without the default score, which the real worker adapts in seconds. It flags everything."""
    folder = without_default_score(find_model(), tmp_path / "models" / "bare")
    low = [one | {"segment": 0.001, "patient": 0.001} for one in read_card(folder)["thresholds"]]
    update_card(folder, thresholds=low)
    return folder


@pytest.fixture
def images(tmp_path):
    """A folder with the sample."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "one.nii.gz").write_bytes(resource("Sample", SAMPLE).read_bytes())
    return str(folder)


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def fill_in(widget, images, epochs, name="ours"):
    ui = widget.ui
    ui.adaptFolder.directory = images
    ui.adaptEpochs.value = epochs
    ui.adaptName.text = name
    if not ui.adaptFewCheckBox.checked:
        click(ui.adaptFewCheckBox)


# --- before


def test_a_fresh_section(opened):
    ui = opened.ui
    assert ui.adaptEpochs.value == 200
    assert ui.adaptModelSelector.currentText == "u2ad-t2w"
    assert ui.adaptName.text == "u2ad-t2w-adapted"
    assert ui.adaptFolder.visible
    assert not ui.adaptVolumes.visible
    for widget in (ui.UnfinishedLabel, ui.unfinishedSelector, ui.continueButton, ui.discardButton, ui.adaptProgress):
        assert not widget.visible
    assert not ui.compareButton.visible
    assert not ui.curvesButton.enabled


def test_what_is_missing_is_said_and_nothing_starts(opened, images):
    ui = opened.ui
    fill_in(opened, "/nowhere", 2)
    click(ui.adaptButton)
    assert "/nowhere" in ui.adaptStatus.text
    fill_in(opened, ".", 2)  # as a directory button that nobody has used
    click(ui.adaptButton)
    assert "Choose the folder" in ui.adaptStatus.text
    fill_in(opened, images, 2, name="u2ad-t2w")
    click(ui.adaptButton)
    assert "already" in ui.adaptStatus.text
    ui.adaptInputSelector.setCurrentIndex(1)
    click(ui.adaptButton)
    ui.adaptName.text = "ours"
    click(ui.adaptButton)
    assert "Choose the images" in ui.adaptStatus.text
    assert opened.adapt.adaptation is None
    assert ui.adaptButton.text == "Adapt"


# --- the real worker


def test_from_images_to_a_chosen_model_and_before_and_after(bare, opened, images):
    """The whole way, with the real worker: adapt, be chosen, analyse with both, switch."""
    ui = opened.ui
    opened.use_program(sys.executable)
    ui.adaptModelSelector.setCurrentIndex(ui.adaptModelSelector.findData("bare"))
    fill_in(opened, images, 2)
    click(ui.adaptButton)
    assert ui.adaptButton.text == "Stop"
    assert ui.adaptProgress.visible
    assert not ui.adaptName.enabled
    settle(opened)
    assert ui.adaptStatus.text == "Done. The model ours is chosen above."
    assert ui.modelSelector.currentData == "ours"
    assert "Adapted from bare to 3 slices of 1 people." in ui.modelCard.text
    assert "nothing is flagged until thresholds are set" in ui.thresholdsLabel.text
    assert ui.adaptButton.text == "Adapt"
    assert ui.adaptName.text == "bare-adapted"  # free again

    click(ui.sampleButton)
    click(ui.compareButton)
    settle(opened)
    volume = ui.inputSelector.currentNode()
    before, after = results.find(volume)
    made = [opened.logic.analyses.of(one).provenance["model"]["name"] for one in (before, after)]
    assert made == ["bare", "ours"]
    assert ui.afterButton.text == "Shown: after"
    assert ui.afterButton.checked
    assert "Nothing is flagged" in ui.verdictLabel.text
    assert "no thresholds" in ui.notesLabel.text
    assert [ui.segmentsTable.item(r, 2).text() for r in range(7)] == 7 * [""]
    assert float(ui.segmentsTable.item(2, 1).text()) > 0  # but there are scores
    yellow = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceCompositeNode")
    view = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceNode")
    place = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    for shown, other, text, words in (
        (before, after, "Shown: before", "Flagged: C2-3, C3-4, C4-5, C5-6, C6-7, C7-T1"),
        (after, before, "Shown: after", "Nothing is flagged"),
    ):
        click(ui.afterButton)
        assert ui.afterButton.text == text
        assert words in ui.verdictLabel.text
        assert yellow.GetForegroundVolumeID() == shown["anomaly"].GetID()
        assert shown.segmentation.GetDisplayNode().GetVisibility()
        assert not other.segmentation.GetDisplayNode().GetVisibility()
        np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()), place)
    click(ui.afterButton)
    opened.parent.hide()  # as for another module
    opened.exit()
    opened.enter()
    opened.parent.show()
    assert ui.afterButton.text == "Shown: before"  # what was shown is shown again
    assert not ui.afterButton.checked
    click(ui.compareButton)  # nothing is computed again
    assert not opened.running
    assert ui.afterButton.text == "Shown: after"
    assert len(results.find(volume)) == 2


def test_the_real_worker_is_stopped_and_continued(bare, opened, images, tmp_path):
    ui = opened.ui
    opened.use_program(sys.executable)
    ui.adaptModelSelector.setCurrentIndex(ui.adaptModelSelector.findData("bare"))
    fill_in(opened, images, 30)
    click(ui.adaptButton)
    until(lambda: any((one.epoch or 0) >= 1 for one in adapting.unfinished()))
    click(ui.adaptButton)
    assert ui.adaptStatus.text == "Stopping…"
    assert not ui.adaptButton.enabled
    settle(opened)
    assert "of 30 is kept: it can be continued" in ui.adaptStatus.text
    (left,) = adapting.unfinished()
    assert ui.unfinishedSelector.currentText == f"ours ({left.epoch} of 30 epochs)"
    click(ui.continueButton)
    until(lambda: opened.adapt.curves.columns["epoch"][-1] > left.epoch)
    assert opened.adapt.curves.columns["epoch"] == list(range(int(opened.adapt.curves.columns["epoch"][-1]) + 1))
    click(ui.adaptButton)
    settle(opened)


# --- the stand-in


def test_progress_and_curves(opened, images, monkeypatch):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    ui, bar, said, points = opened.ui, [], set(), set()
    fill_in(opened, images, 12)
    click(ui.adaptButton)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActivePlotChartID() == opened.adapt.curves.node.GetID()
    assert "no epoch is done yet" in opened.adapt.curves.node.GetTitle()
    while opened.adapt.adaptation:
        slicer.app.processEvents()
        bar.append(ui.adaptProgress.value)
        said.add(ui.adaptStatus.text)
        points.add(len(opened.adapt.curves.columns.get("epoch", ())))
    assert bar == sorted(bar)
    assert bar[-1] >= 990
    assert any("EU stage" in text and "%" in text and "left" in text for text in said)
    assert any("AU stage" in text for text in said)
    assert len(points) > 3  # it grew while it ran
    assert "no epoch" not in opened.adapt.curves.node.GetTitle()
    ui.curvesSelector.setCurrentIndex(2)
    assert "SSIM" in opened.adapt.curves.node.GetYAxisTitle()


def test_it_goes_on_while_the_panel_is_left_and_the_scene_closed(opened, images, monkeypatch):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    fill_in(opened, images, 12)
    click(opened.ui.adaptButton)
    opened.exit()
    until(lambda: len(opened.adapt.curves.columns.get("epoch", ())) > 2)
    slicer.mrmlScene.Clear(0)
    opened.enter()
    assert opened.adapt.adaptation is not None
    click(opened.ui.curvesButton)  # the chart went with the scene
    assert opened.adapt.curves.node is not None
    settle(opened)
    assert opened.ui.modelSelector.currentData == "ours"


def test_an_analysis_can_be_made_meanwhile(opened, images, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.2")
    ui = opened.ui
    fill_in(opened, images, 1000)
    click(ui.adaptButton)
    opened.use_program(sys.executable)
    click(ui.sampleButton)
    click(ui.applyButton)
    until(lambda: not opened.running)
    assert "Flagged: C4-5, C6-7" in ui.verdictLabel.text
    assert opened.adapt.adaptation is not None
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActivePlotChartID() == opened.results.nodes.chart.GetID()
    click(ui.curvesButton)
    assert selection.GetActivePlotChartID() == opened.adapt.curves.node.GetID()
    click(ui.adaptButton)
    settle(opened)


def test_volumes_of_the_scene(opened, tmp_path):
    ui = opened.ui
    ui.adaptInputSelector.setCurrentIndex(1)
    for k in range(3):
        slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=f"volume {k}")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    opened.adapt.fill_volumes()
    names = [ui.adaptVolumes.item(k).text() for k in range(ui.adaptVolumes.count)]
    assert names == ["volume 0", "volume 1", "volume 2"]
    for k in (0, 2):
        where = ui.adaptVolumes.visualItemRect(ui.adaptVolumes.item(k))
        where = qt.QPoint(where.left() + 10, where.center().y())  # the box to tick
        qt.QTest.mouseClick(ui.adaptVolumes.viewport(), LEFT, qt.Qt.NoModifier, where)
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByName("volume 1"))
    assert len(opened.adapt.ticked()) == 2  # the ticks stay with their volumes
    ui.adaptEpochs.value, ui.adaptName.text = 2, "ours"
    click(ui.adaptButton)
    settle(opened)
    (call,) = calls(tmp_path)
    assert [name for name, _size in call["images"]] == ["volume-001.nrrd", "volume-002.nrrd"]
    assert not list(Path(slicer.app.temporaryPath).glob("U2AD-*"))
    assert ui.modelSelector.currentData == "ours"
    assert "21 slices of 3 people" in ui.modelCard.text  # older cards give the number as "people"


def test_the_cord_that_is_chosen_goes_with_the_volume(opened):
    """… that is chosen above, whatever else is ticked; the console takes cords by volume."""
    volumes = [slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=f"volume {k}") for k in range(2)]
    drawn = np.zeros((3, 8, 8), np.uint8)
    drawn[1, 2:6, 3:5] = 1
    cord = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    cord.SetReferenceImageGeometryParameterFromVolumeNode(volumes[0])
    segment = cord.GetSegmentation().AddEmptySegment("cord", "cord")
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, cord, segment, volumes[0])
    ui, chosen = opened.ui, {volumes[0].GetID(): cord.GetID()}
    ui.inputSelector.setCurrentNode(volumes[0])
    ui.cordSelector.setCurrentNode(cord)
    ui.adaptInputSelector.setCurrentIndex(1)
    opened.adapt._tick([node.GetID() for node in volumes])
    ui.adaptEpochs.value, ui.adaptName.text = 2, "ours"
    click(ui.adaptButton)
    assert opened.adapt.adaptation.request.cords == chosen
    settle(opened)
    assert ui.modelSelector.currentData == "ours"
    adaptation = opened.logic.adapt(
        volumes, name="again", epochs=2, program=opened.adapt.program, wait=False, cords={volumes[0]: cord}
    )
    assert adaptation.request.cords == chosen
    adaptation.wait()


def test_errors_stand_in_the_section(opened, images, monkeypatch):
    monkeypatch.setenv("STAND_IN_ERROR", "6 slices of 2 people can be used.")
    fill_in(opened, images, 2)
    click(opened.ui.adaptButton)
    settle(opened)
    assert "6 slices of 2 people can be used." in opened.ui.adaptStatus.text
    assert "<b" in opened.ui.adaptStatus.text
    assert opened.ui.adaptName.enabled
    assert not opened.ui.continueButton.visible


def stopped(widget, images, monkeypatch, name="ours"):
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    fill_in(widget, images, 40, name)
    click(widget.ui.adaptButton)
    until(lambda: any(one.name == name and (one.epoch or 0) >= 2 for one in adapting.unfinished()))
    click(widget.ui.adaptButton)
    settle(widget)


def test_the_next_session_offers_what_was_left(opened, panel, images, monkeypatch, tmp_path):
    stopped(opened, images, monkeypatch)
    later = panel()  # as after a restart of Slicer
    later.use_program(opened.adapt.program)
    later.parent.resize(460, 1500)
    later.parent.show()
    later.ui.adaptSection.collapsed = False
    qt.QApplication.processEvents()
    assert later.ui.unfinishedSelector.currentData == "ours"
    assert later.ui.adaptEpochs.value == 200
    assert later.ui.adaptFolder.directory == images
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0")
    click(later.ui.continueButton)
    assert later.ui.adaptEpochs.value == 40
    settle(later)
    assert later.ui.modelSelector.currentData == "ours"
    first, second = calls(tmp_path)
    assert first == second


def test_volumes_are_continued_with_the_same_ones(opened, monkeypatch, tmp_path):
    ui = opened.ui
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    ui.adaptInputSelector.setCurrentIndex(1)
    for k in range(2):
        slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=f"volume {k}")
    opened.adapt.fill_volumes()
    ui.adaptVolumes.item(1).setCheckState(qt.Qt.Checked)
    ui.adaptEpochs.value, ui.adaptName.text = 40, "ours"
    click(ui.adaptButton)
    until(lambda: any((one.epoch or 0) >= 2 for one in adapting.unfinished()))
    click(ui.adaptButton)
    settle(opened)
    ui.adaptVolumes.item(0).setCheckState(qt.Qt.Checked)  # something else was prepared
    ui.adaptVolumes.item(1).setCheckState(qt.Qt.Unchecked)
    ui.adaptInputSelector.setCurrentIndex(0)
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0")
    click(ui.continueButton)
    settle(opened)
    first, second = calls(tmp_path)
    assert first == second
    assert ui.modelSelector.currentData == "ours"


def test_cords_are_continued_with_the_same_ones(opened, monkeypatch):
    """… whatever is chosen above by then; those that the worker refuses are not kept."""
    ui = opened.ui
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.05")
    volumes = [slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=f"volume {k}") for k in range(2)]
    cord = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    cord.SetReferenceImageGeometryParameterFromVolumeNode(volumes[0])
    segment = cord.GetSegmentation().AddEmptySegment("cord", "cord")
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones((3, 8, 8), np.uint8), cord, segment, volumes[0])
    ui.inputSelector.setCurrentNode(volumes[0])
    ui.cordSelector.setCurrentNode(cord)
    ui.adaptInputSelector.setCurrentIndex(1)
    opened.adapt._tick([node.GetID() for node in volumes])
    ui.adaptEpochs.value, ui.adaptName.text = 40, "ours"
    click(ui.adaptButton)
    until(lambda: any((one.epoch or 0) >= 2 for one in adapting.unfinished()))
    click(ui.adaptButton)
    settle(opened)
    ui.cordSelector.setCurrentNode(None)
    chosen = {volumes[0].GetID(): cord.GetID(), volumes[1].GetID(): ""}
    refused = "/x holds the state of a training with other data or settings: choose another --out folder."
    for said, cords in (("No room.", chosen), (refused, chosen), (refused, {})):
        monkeypatch.setenv("STAND_IN_ERROR", said)
        click(ui.continueButton)
        assert opened.adapt.adaptation.request.cords == cords
        settle(opened)
    assert "the same volumes and cords" in ui.adaptStatus.text


def test_what_was_left_out_is_told_in_the_end(opened, images):
    """A line each, with all that is no markup."""
    program = Path(opened.adapt.program)
    notes = [f"image-{k}.nii.gz is left out: <empty> & dark." for k in range(12)]
    told = "".join(f"say(message={note!r}, level='note')\n" for note in notes)
    program.write_text(program.read_text().replace("write(done)\n", told + "write(done)\n", 1))
    fill_in(opened, images, 2)
    click(opened.ui.adaptButton)
    settle(opened)
    lines = opened.ui.adaptStatus.text.split("<br>")
    assert lines[:2] == ["Done. The model ours is chosen above.", "Images that were left out: 12."]
    assert lines[2] == "image-0.nii.gz: &lt;empty&gt; &amp; dark."
    assert lines[-1] == "And 2 more."
    assert len(lines) == 13


def test_one_of_several_is_chosen_with_its_settings_and_curves(opened, images, monkeypatch, tmp_path):
    ui = opened.ui
    stopped(opened, images, monkeypatch, "first")
    stopped(opened, images, monkeypatch, "second")
    ui.adaptEpochs.value = 7
    ui.unfinishedSelector.setCurrentIndex(ui.unfinishedSelector.findData("first"))
    assert ui.adaptEpochs.value == 40
    assert opened.adapt.curves.columns == adapting.read_curves(tmp_path / "models" / "first")
    ui.adaptName.text = "first"
    click(ui.adaptButton)
    assert "unfinished adaptation first" in ui.adaptStatus.text  # not begun again by mistake
    asked = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *more: asked.append(text) or True)
    click(ui.discardButton)
    assert "first" in asked[0]
    assert [one.name for one in adapting.unfinished()] == ["second"]
    assert ui.unfinishedSelector.count == 1


def test_a_folder_that_was_moved(opened, images, monkeypatch, tmp_path):
    stopped(opened, images, monkeypatch)
    moved = tmp_path / "elsewhere"
    Path(images).rename(moved)
    ui = opened.ui
    click(ui.continueButton)
    assert images in ui.adaptStatus.text
    ui.adaptFolder.directory = str(moved)
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0")
    click(ui.continueButton)
    settle(opened)
    assert ui.modelSelector.currentData == "ours"


def test_started_in_a_shell_and_continued_here(opened, images, tmp_path):
    """What it was started with is not known; the number of epochs is."""
    training = tmp_path / "models" / "ours" / "training"
    training.mkdir(parents=True)
    record = {"epoch": 1, "recipe": {"source": "x", "config": {"epochs": 3}}}
    (training / "state.json").write_text(json.dumps(record))
    opened.enter()
    fill_in(opened, images, 200, name="another")
    click(opened.ui.continueButton)
    settle(opened)
    (call,) = calls(tmp_path)
    assert (call["--epochs"], call["--model"]) == ("3", "u2ad-t2w")
    assert opened.ui.modelSelector.currentData == "ours"


def test_without_the_source_model_there_is_no_before(opened, images, monkeypatch, tmp_path):
    ui = opened.ui
    fill_in(opened, images, 1)
    click(ui.adaptButton)
    settle(opened)
    click(ui.sampleButton)
    assert ui.compareButton.enabled
    card = read_card(tmp_path / "models" / "ours")
    card["lineage"][-1]["name"] = "gone"
    (tmp_path / "models" / "ours" / "model.json").write_text(json.dumps(card))
    opened.model.choose("ours")
    assert not ui.compareButton.enabled
    assert "gone" in ui.compareButton.toolTip
    opened.model.choose("u2ad-t2w")
    assert not ui.compareButton.visible


def test_cancel_ends_both_runs_of_before_and_after(opened, images):
    ui = opened.ui
    fill_in(opened, images, 1)
    click(ui.adaptButton)
    settle(opened)
    opened.use_program(sys.executable)
    click(ui.sampleButton)
    click(ui.compareButton)
    assert ui.applyButton.text == "Cancel"
    assert not ui.compareButton.enabled
    click(ui.applyButton)
    settle(opened)
    assert "Cancelled" in ui.statusLabel.text
    assert results.find(ui.inputSelector.currentNode()) == []
    assert ui.compareButton.enabled
    assert not ui.afterButton.visible


def test_missing_packages_are_asked_for(opened, images, monkeypatch):
    from U2ADScene import dependencies

    wanted = dependencies.Requirement("torch", "2.2", "200 MB", "the network")
    monkeypatch.setattr(dependencies, "missing", lambda: (wanted,))
    monkeypatch.setattr(dependencies, "install", lambda wanted, confirm: False)
    fill_in(opened, images, 1)
    click(opened.ui.adaptButton)
    assert opened.adapt.adaptation is None
    assert opened.ui.adaptButton.text == "Adapt"


def test_the_window_stays_usable(opened, images, monkeypatch):
    """No turn of Slicer's event loop takes long while it runs."""
    monkeypatch.setenv("STAND_IN_EPOCH_S", "0.01")
    fill_in(opened, images, 60)
    click(opened.ui.adaptButton)
    turns = []
    while opened.adapt.adaptation:
        begun = time.thread_time()  # what other processes take is not ours
        slicer.app.processEvents()
        turns.append(time.thread_time() - begun)
    assert sorted(turns)[-3] < 0.1  # the last one reads the list of models


def test_the_console(opened, images, tmp_path):
    logic, program, stages = opened.logic, opened.adapt.program, []
    name = logic.adapt(
        images, name="ours", epochs=2, few=True, program=program, progress=lambda *now: stages.append(now[0])
    )
    assert name == "ours"
    assert read_card(tmp_path / "models" / "ours")["lineage"]
    assert stages[-2:] == ["Adapting, AU stage", "Adapting, score"]
    volume = logic.loadSample()
    adaptation = logic.adapt([volume], epochs=2, program=program, wait=False)
    assert adaptation.wait() == "u2ad-t2w-adapted"
    with pytest.raises(U2ADError, match="already"):
        logic.adapt(volume, name="ours")
