"""The button "Edit outline…", and what becomes of a corrected cord. The Segment Editor itself is not on the bench."""

import json
import types

import numpy as np
import pytest
import slicer
import slicer.util
from made_scene import made_analysis, volume_node

from slicer_bench.application import shaped_like
from slicer_bench.fixtures import click, settle
from U2ADLib.io import read_volume
from U2ADLib.roi.region import region_from_labels
from U2ADScene import inputs, job, results

NOTE = "The cord's outline was changed: Apply analyses with it."


@shaped_like("qMRMLSegmentEditorWidget")
class Editor:
    """Writes to the real parameter node, as Slicer's widget does; the volume needs a segmentation, and another
    segmentation takes the segment and the volume with it."""

    def __init__(self):
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag("SegmentEditor")
        self._node = slicer.mrmlScene.AddNode(node)

    def mrmlSegmentEditorNode(self):
        return self._node

    def setSegmentationNode(self, node):
        if node is not self._node.GetSegmentationNode():
            self._node.SetAndObserveSegmentationNode(node)
            self._node.SetAndObserveSourceVolumeNode(None)
            self._node.SetSelectedSegmentID(None)

    def setSourceVolumeNode(self, node):
        assert self._node.GetSegmentationNode(), "failed: need to set segment editor and segmentation nodes first"
        self._node.SetAndObserveSourceVolumeNode(node)

    def setCurrentSegmentID(self, segmentID):
        self._node.SetSelectedSegmentID(segmentID)


@shaped_like("qSlicerScriptedLoadableModuleWidget")
class Representation:
    def __init__(self, widget):
        self._widget = widget

    def self(self):
        return self._widget


@pytest.fixture
def editor(opened, monkeypatch):
    """Slicer's module Segment Editor: entered instead of the panel by `slicer.util.selectModule`. Its list `entered`
    has the modules that were selected."""
    editor, entered = Editor(), []
    slicer.modules.segmenteditor = types.SimpleNamespace(
        widgetRepresentation=lambda: Representation(types.SimpleNamespace(editor=editor))
    )

    def select(module):
        opened.exit()
        entered.append(module)
        if editor.mrmlSegmentEditorNode().GetSegmentationNode() is None:  # it takes the first there is
            editor.setSegmentationNode(slicer.mrmlScene.GetFirstNode(None, "vtkMRMLSegmentationNode"))

    monkeypatch.setattr(slicer.util, "selectModule", select)
    editor._entered = entered
    return editor


@pytest.fixture
def two(opened, monkeypatch):
    """Two volumes with results, the second one chosen."""
    analysis = made_analysis(monkeypatch)
    found = [results.show(analysis, volume_node(analysis.volume, name)) for name in ("first", "second")]
    for nodes in found:
        opened.ui.inputSelector.setCurrentNode(nodes.input)
    return found


def cord_of(nodes):
    return slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, "cord", nodes.input).copy()


def paint(nodes, grow=1):
    """Widen the cord to the front and cut off its upper end, as with brush and eraser; returns it, (K, J, I)."""
    cord = cord_of(nodes)
    changed = cord.copy()
    for axis in (0, 1):
        changed |= np.roll(cord, grow, axis)
    changed[:, ::7] &= cord[:, ::7]
    assert (changed != cord).any()
    slicer.util.updateSegmentBinaryLabelmapFromArray(changed, nodes.segmentation, "cord", nodes.input)
    return changed


def test_the_editor_gets_the_cord_of_the_shown_results(opened, two, editor):
    _first, second = two
    shown = second.segmentation.GetDisplayNode()
    shown.SetVisibility(False)
    shown.SetSegmentVisibility("cord", False)
    click(opened.ui.editOutlineButton)
    node = editor.mrmlSegmentEditorNode()
    assert editor._entered == ["SegmentEditor"]
    assert node.GetSegmentationNode() is second.segmentation
    assert node.GetSourceVolumeNode() is second.input
    assert node.GetSelectedSegmentID() == "cord"
    assert shown.GetVisibility()
    assert shown.GetSegmentVisibility("cord")


def test_levels_are_left_whole_while_the_cord_is_painted_and_the_editor_is_given_back_as_it_was(opened, two, editor):
    node = editor.mrmlSegmentEditorNode()
    for before, after in (
        (node.OverwriteVisibleSegments, node.OverwriteVisibleSegments),
        (node.OverwriteNone, node.OverwriteNone),
    ):
        node.SetOverwriteMode(before)
        click(opened.ui.editOutlineButton)
        assert node.GetOverwriteMode() == node.OverwriteNone
        opened.enter()
        assert node.GetOverwriteMode() == after
    node.SetOverwriteMode(node.OverwriteVisibleSegments)
    click(opened.ui.editOutlineButton)
    node.SetOverwriteMode(node.OverwriteAllSegments)  # by the user, in the editor
    opened.enter()
    assert node.GetOverwriteMode() == node.OverwriteAllSegments
    node.SetOverwriteMode(node.OverwriteNone)  # by the user, elsewhere
    opened.enter()
    assert node.GetOverwriteMode() == node.OverwriteNone


def test_a_changed_cord_is_chosen_and_said_and_an_unchanged_one_is_not(opened, two, editor):
    ui, (first, second) = opened.ui, two
    click(ui.editOutlineButton)
    opened.enter()
    assert ui.statusLabel.text == ""
    assert (ui.cordSelector.currentNode(), ui.discSelector.currentNode()) == (None, None)
    before = cord_of(second)
    paint(second)
    opened.enter()
    assert ui.statusLabel.text == NOTE
    assert (ui.cordSelector.currentNode(), ui.discSelector.currentNode()) == (second.segmentation, second.discs)
    ui.inputSelector.setCurrentNode(first.input)  # whose own cord is as it was
    assert ui.statusLabel.text == ""
    assert ui.cordSelector.currentNode() is None
    ui.inputSelector.setCurrentNode(second.input)
    assert ui.statusLabel.text == NOTE
    assert ui.cordSelector.currentNode() is second.segmentation
    paint(second)
    opened.enter()
    slicer.util.updateSegmentBinaryLabelmapFromArray(before, second.segmentation, "cord", second.input)  # undone
    opened.enter()
    assert ui.statusLabel.text == ""
    assert (ui.cordSelector.currentNode(), ui.discSelector.currentNode()) == (None, None)


def test_what_the_user_chose_instead_stays_chosen(opened, two):
    ui, (_first, nodes) = opened.ui, two
    paint(nodes)
    opened.enter()
    assert ui.statusLabel.text == NOTE
    ui.cordSelector.setCurrentNode(None)  # find it
    assert ui.statusLabel.text == ""
    opened.enter()
    assert ui.cordSelector.currentNode() is None
    assert ui.statusLabel.text == ""
    paint(nodes)
    opened.enter()
    assert ui.cordSelector.currentNode() is nodes.segmentation
    assert ui.statusLabel.text == NOTE


def test_corrected_discs_stay_in_use_unless_others_were_chosen_since(opened, two):
    ui, (_first, nodes) = opened.ui, two
    given, newer = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in "ab")
    opened.outline.analysed(nodes, given, [])
    for chosen, expected in ((given, nodes.discs), (newer, newer), (two[0].discs, nodes.discs)):
        ui.discSelector.setCurrentNode(chosen)
        paint(nodes)
        opened.enter()
        assert ui.discSelector.currentNode() is expected
    results.show(made_up_without_discs(opened, nodes), nodes.input, nodes)
    ui.discSelector.setCurrentNode(None)
    paint(nodes)
    opened.enter()
    assert ui.statusLabel.text == NOTE
    assert ui.discSelector.currentNode() is None  # there are none to keep


def made_up_without_discs(opened, nodes):
    from dataclasses import replace

    analysis = opened.logic.analyses.of(nodes)
    bare = replace(analysis, region=replace(analysis.region, discs={}))
    opened.logic.analyses.keep(nodes, bare)
    return bare


def test_a_scene_saved_in_between_knows_that_the_cord_was_changed(opened, two, editor, tmp_path):
    click(opened.ui.editOutlineButton)
    changed = paint(two[1])
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert not opened.ui.editOutlineButton.enabled
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    nodes = opened.results.nodes
    assert nodes.input.GetName() == "second"
    assert opened.ui.statusLabel.text == NOTE
    assert opened.ui.cordSelector.currentNode() is nodes.segmentation
    assert opened.ui.editOutlineButton.enabled
    np.testing.assert_array_equal(cord_of(nodes), changed)


def test_where_there_is_no_outline_the_button_says_why(opened, two, monkeypatch):
    ui, (first, second) = opened.ui, two
    button = ui.editOutlineButton
    assert button.enabled
    assert "Segment Editor" in button.toolTip
    monkeypatch.setattr(opened, "_run", types.SimpleNamespace(state=job.RUNNING))
    opened._refresh_apply()
    assert (button.enabled, button.toolTip) == (False, "Wait until the analysis has ended.")
    paint(second)
    opened.enter()  # nothing is chosen meanwhile
    assert ui.cordSelector.currentNode() is None
    monkeypatch.setattr(opened, "_run", None)
    opened._refresh_apply()
    assert button.enabled
    slicer.mrmlScene.RemoveNode(second.segmentation)
    assert not button.enabled
    assert "was deleted" in button.toolTip
    opened.enter()
    assert not button.enabled
    ui.inputSelector.setCurrentNode(first.input)
    assert button.enabled
    first.segmentation.GetSegmentation().RemoveSegment("cord")  # in another module
    opened.enter()
    assert not button.enabled
    assert "was deleted" in button.toolTip
    ui.inputSelector.setCurrentNode(slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16)))
    assert (button.enabled, button.toolTip) == (False, "Nothing has been analysed yet: press Apply first.")


def test_a_slicer_without_segment_editor_or_main_window_is_told(opened, two, monkeypatch):
    click(opened.ui.editOutlineButton)
    assert "no Segment Editor" in opened.ui.statusLabel.text
    monkeypatch.setattr(slicer.modules, "segmenteditor", None, raising=False)

    def refuse(module):
        raise RuntimeError("Could not find moduleSelector in the main window")

    monkeypatch.setattr(slicer.util, "selectModule", refuse)
    click(opened.ui.editOutlineButton)
    assert "could not be opened: Could not find moduleSelector" in opened.ui.statusLabel.text


def test_the_corrected_cord_itself_is_chosen_for_the_next_run(opened, two):
    """Also where another volume was chosen while it was analysed; the outline of another run is left alone."""
    ui, (first, second) = opened.ui, two
    ui.inputSelector.setCurrentNode(first.input)
    paint(first)
    opened.enter()
    (kept,) = results.keep_corrections(first, opened.logic.analyses.of(first), first.input)
    ui.inputSelector.setCurrentNode(second.input)
    opened.outline.analysed(second, None, [kept])
    assert ui.cordSelector.currentNode() is None
    opened.outline.analysed(first, None, [first.discs, kept])
    assert ui.cordSelector.currentNode() is None
    analysed = opened.logic.analyses.of(first).on_input("cord").transpose()
    slicer.util.updateSegmentBinaryLabelmapFromArray(analysed, first.segmentation, "cord", first.input)
    ui.inputSelector.setCurrentNode(first.input)
    assert ui.cordSelector.currentNode() is kept
    assert ui.statusLabel.text == ""


def test_one_press_of_apply_analyses_with_the_corrected_cord_and_discs(analysed, editor, monkeypatch):
    """The real worker. It is given the cord of the editor to the voxel, and the levels that the user shifted."""
    ui, nodes = analysed.ui, analysed.results.nodes
    click(ui.levelDownButton)
    shifted = analysed.logic.analyses.of(nodes)
    places = {n: np.array(point) for n, point in results._disc_points(shifted).items()}
    nodes.segmentation.GetSegmentation().GetSegment("cord").SetName("Rückenmark")  # a Slicer in another language
    click(ui.editOutlineButton)
    changed = paint(nodes)
    analysed.enter()
    assert ui.statusLabel.text == NOTE
    written, write = [], inputs.write_inputs

    def watch(*args):
        written.append(write(*args))
        given = read_volume(written[0].cord)
        np.testing.assert_array_equal(given.array.transpose(), changed)
        return written[0]

    monkeypatch.setattr(inputs, "write_inputs", watch)
    click(ui.applyButton)
    assert not ui.editOutlineButton.enabled
    settle(analysed)
    assert len(written) == 1
    assert "Done in" in ui.statusLabel.text
    assert ui.editOutlineButton.enabled
    analysis = analysed.logic.analyses.of(analysed.results.nodes)
    assert analysed.results.nodes.run == nodes.run
    in_stack = region_from_labels(analysis.stack, changed.transpose() > 0).cord
    np.testing.assert_array_equal(analysis.region.cord, in_stack)
    np.testing.assert_array_equal(cord_of(nodes) > 0, analysis.on_input("cord").transpose() > 0)
    kept = slicer.mrmlScene.GetFirstNodeByName("U2ADNeckPhantom segmentation corrected")
    assert slicer.util.getNodes("* corrected*") == {kept.GetName(): kept}
    assert ui.cordSelector.currentNode() is kept  # the next run gets the very same cord
    again = inputs.cord_of(kept, nodes.input, inputs.volume_of(nodes.input))
    np.testing.assert_array_equal(again.array.transpose(), changed)
    found = results._disc_points(analysis)
    assert list(found) == list(places)
    spacing = np.linalg.norm(analysis.volume.affine[:3, :3], axis=0)
    for number, place in places.items():
        assert np.abs(found[number] - place).max() <= 0.51 * spacing.max()
    assert analysis.missing == shifted.missing == ("C2-3",)
    assert json.loads(nodes.record.GetText())["provenance"]["configuration"]["cord_convention"] == "sct"
    analysed.enter()
    assert ui.statusLabel.text.startswith("Done in")
    assert ui.cordSelector.currentNode() is kept
