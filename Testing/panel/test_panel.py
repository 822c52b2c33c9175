"""The panel, as a user works with it: real clicks, a real scene, the real worker."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import slicer.util
from made_scene import made_analysis, volume_node

from slicer_bench.fixtures import click, settle, without_default_score
from U2ADLib.batch import SUMMARY
from U2ADLib.errors import InputError
from U2ADLib.package import find_model, read_card
from U2ADLib.resources import resource
from U2ADScene import dependencies, display, job, panel_model, results, runs
from U2ADScene.adapting import UNSET_FOLDERS

LEFT = qt.Qt.LeftButton


def nodes_in_scene():
    return sorted(node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode"))


def program(tmp_path, code):
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{code}\n")
    path.chmod(0o755)
    return str(path)


def rows(table):
    return [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]


def test_a_fresh_panel_needs_a_volume_and_no_torch(opened):
    ui = opened.ui
    assert not ui.applyButton.enabled
    assert ui.applyButton.toolTip == "Choose a volume first."
    assert not ui.exportButton.enabled
    assert not ui.segmentsTable.visible
    assert "u2ad-t2w" in ui.modelSelector.currentText
    assert "Thresholds" in ui.modelCard.text
    assert not ui.removeModelButton.enabled  # a bundled one
    click(ui.sampleButton)
    assert ui.applyButton.enabled


OPENING = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from slicer_bench import fixtures
from slicer_bench.application import install
from slicer_bench.scene import Host
import qt, slicer
host = Host(Path({folder!r}))
install(host, Path({folder!r}))
for name in ("torch", "skimage", "PIL", "safetensors"):
    sys.modules[name] = None  # as if it were not installed; the bench has what it needs by now
parent = slicer.qMRMLWidget()
parent.setLayout(qt.QVBoxLayout())
parent.setMRMLScene(slicer.mrmlScene)
widget = fixtures._load_scripted_module(host, fixtures.MODULE_FOLDER / "U2AD.py").U2ADWidget(parent)
widget.setup()
widget.enter()
widget.logic.loadSample()
assert widget.ui.inputSelector.currentNode()
widget.ui.applyButton.click()
assert "PythonSlicer was not found" in widget.ui.statusLabel.text  # told, and nothing broke
widget.cleanup()
host.close()
print("opened")
"""


def test_it_opens_before_any_package_is_installed(tmp_path):
    """Neither what Apply installs nor what comes with it (Pillow) is needed to open the panel."""
    code = OPENING.format(path=sys.path, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "opened" in done.stdout, done.stderr


def test_from_a_click_to_flagged_segments(analysed):
    ui = analysed.ui
    assert "Flagged: C4-5, C6-7" in ui.verdictLabel.text
    shown = rows(ui.segmentsTable)
    assert [row[0] for row in shown] == ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1", "whole cord"]
    assert [row[0] for row in shown if row[3] == "flagged"][:2] == ["C4-5", "C6-7"]
    assert ui.applyButton.text == "Apply"
    assert not ui.progressBar.visible
    volume = opened_volume(analysed)
    (nodes,) = results.find(volume)
    yellow = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceCompositeNode")
    assert yellow.GetForegroundVolumeID() == nodes["anomaly"].GetID()
    assert not list(Path(slicer.app.temporaryPath).glob("U2AD-*"))


def opened_volume(widget):
    return widget.ui.inputSelector.currentNode()


def test_progress_runs_to_the_end_and_apply_is_cancel_meanwhile(opened):
    click(opened.ui.sampleButton)
    seen, stages = [], set()
    click(opened.ui.applyButton)
    assert opened.ui.applyButton.text == "Cancel"
    while opened.running:
        slicer.app.processEvents()
        seen.append(opened.ui.progressBar.value)
        stages.add(opened.ui.statusLabel.text.split(",")[0])
    assert seen == sorted(seen)
    assert seen[-1] == 1000
    assert "Reconstruction" in stages


def test_cancel_leaves_the_scene_as_it_was(opened, tmp_path):
    click(opened.ui.sampleButton)
    before = nodes_in_scene()
    click(opened.ui.applyButton)
    while opened._run.state == job.STARTING:
        slicer.app.processEvents()
    click(opened.ui.applyButton)
    settle(opened)
    assert opened.ui.statusLabel.text == "Cancelled. Nothing was changed."
    assert nodes_in_scene() == before
    assert opened.ui.applyButton.enabled
    assert opened.ui.applyButton.text == "Apply"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('MemoryError', file=sys.stderr); sys.exit(1)", "memory ran out"),
        ("print('OSError: [Errno 28] No space left on device', file=sys.stderr); sys.exit(1)", "disk is full"),
        ('print(\'{"error": "The cord mask is empty.", "exit_code": 3}\'); sys.exit(3)', "The cord mask is empty."),
        ("sys.exit(9)", "exit code 9"),
    ],
)
def test_errors_stand_in_the_panel(opened, tmp_path, code, said):
    click(opened.ui.sampleButton)
    before = nodes_in_scene()
    opened.use_program(program(tmp_path, code))
    click(opened.ui.applyButton)
    settle(opened)
    assert said in opened.ui.statusLabel.text
    assert opened.ui.applyButton.enabled
    assert nodes_in_scene() == before


def test_a_defect_while_results_are_shown_ends_the_run(opened, monkeypatch):
    click(opened.ui.sampleButton)
    before = nodes_in_scene()
    monkeypatch.setattr(results, "show", lambda *args: 1 / 0)
    click(opened.ui.applyButton)
    settle(opened)
    assert "division by zero" in opened.ui.statusLabel.text
    assert opened.ui.applyButton.text == "Apply"
    assert nodes_in_scene() == before


def test_what_is_no_neck_is_refused(opened):
    noise = np.random.default_rng(0).integers(0, 500, (15, 128, 128)).astype(np.int16)
    affine = np.array([[0, 0, -3.3, 20], [1, 0, 0, -60], [0, -1, 0, 60], [0, 0, 0, 1.0]])
    node = slicer.util.addVolumeFromArray(noise, ijkToRAS=affine, name="noise")
    opened.ui.inputSelector.setCurrentNode(node)
    click(opened.ui.applyButton)
    settle(opened)
    assert "No spinal cord was found" in opened.ui.statusLabel.text
    assert not results.find(node)


def test_devices_are_looked_for_when_the_section_is_opened(opened):
    selector = opened.ui.deviceSelector
    assert [selector.itemData(k) for k in range(selector.count)] == ["auto", "cpu"]
    opened.ui.modelSection.collapsed = False
    while not opened.model.job.ended:
        slicer.app.processEvents()
    assert "threads" in selector.itemText(selector.count - 1)
    assert opened.model.settings.device == "auto"


def test_devices_are_looked_for_again_where_none_were_found(opened, tmp_path):
    """The section may have been opened before torch was installed."""
    section = opened.ui.modelSection
    opened.use_program(program(tmp_path, "sys.exit(1)"))
    section.collapsed = False
    opened.model.job.wait()
    assert opened.model.job.state == job.FAILED
    opened.use_program(sys.executable)
    section.collapsed = True
    section.collapsed = False
    assert opened.model.job.wait() == job.DONE
    found = opened.model.job
    section.collapsed = True
    section.collapsed = False
    assert opened.model.job is found  # once is enough
    selector = opened.ui.deviceSelector
    assert "threads" in selector.itemText(selector.count - 1)


def test_a_model_that_cannot_be_deleted(opened, tmp_path, monkeypatch):
    """On Windows, a file that something has open."""
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "models"))
    without_default_score(find_model(), tmp_path / "models" / "ours")
    opened.model.choose("ours")
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)

    def locked(name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(panel_model, "remove_model", locked)
    opened.ui.modelSection.collapsed = False
    opened.ui.removeModelButton.click()
    assert "ours could not be deleted: Permission denied" in opened.ui.statusLabel.text
    assert "ours" in [entry.name for entry in opened.model.models]


def test_missing_packages_are_asked_for(opened, monkeypatch):
    click(opened.ui.sampleButton)
    asked = []
    wanted = dependencies.Requirement("torch", "2.2", "200 MB", "the network")
    monkeypatch.setattr(dependencies, "missing", lambda: (wanted,))
    monkeypatch.setattr(dependencies, "install", lambda wanted, confirm: asked.append(wanted) and False)
    click(opened.ui.applyButton)
    assert asked == [(wanted,)]
    assert not opened.running
    assert "packages" in opened.ui.statusLabel.text


def test_thresholds_flag_at_once(analysed, monkeypatch):
    ui = analysed.ui
    monkeypatch.setattr(runs.Run, "start", lambda *args: pytest.fail("computed again"))
    ui.segmentThreshold.value = 0.99
    assert [row[0] for row in rows(ui.segmentsTable) if row[3]] == ["C4-5", "whole cord"]
    ui.segmentThreshold.value = 0.02
    assert "C3-4" in ui.verdictLabel.text
    click(ui.resetThresholdsButton)
    assert "Flagged: C4-5, C6-7" in ui.verdictLabel.text
    thresholds = read_card(find_model())["thresholds"]
    usual = next(one for one in thresholds if (one["score"], one["slices"]) == ("default", "all"))
    assert ui.segmentThreshold.value == pytest.approx(usual["segment"], abs=2e-3)


def test_levels_can_be_shifted_and_discs_moved(analysed):
    ui = analysed.ui
    click(ui.levelDownButton)
    assert "Flagged: C5-6, C7-T1" in ui.verdictLabel.text
    click(ui.levelUpButton)
    assert "Flagged: C4-5, C6-7" in ui.verdictLabel.text
    (nodes,) = results.find(opened_volume(analysed))
    markups = nodes.discs
    for k in range(markups.GetNumberOfControlPoints()):
        markups.SetNthControlPointLabel(k, "moved?")
    click(ui.useDiscsButton)
    assert "moved?" in ui.statusLabel.text  # said what is wrong, and nothing was lost
    assert "Flagged: C4-5" in ui.verdictLabel.text


def test_a_click_on_a_segment_shows_it(analysed):
    ui = analysed.ui
    analysis = analysed.logic.analyses.of(analysed.results.nodes)
    item = ui.segmentsTable.item(4, 0)
    qt.QTest.mouseClick(
        ui.segmentsTable.viewport(), LEFT, qt.Qt.NoModifier, ui.segmentsTable.visualItemRect(item).center()
    )
    segment = analysis.segments[4]
    row, column = (float(v[0]) for v in analysis.region.centreline.at([segment.peak_mm])[0].T)
    ras = analysis.stack.grid.stack_to_ras(np.array([segment.peak_slice, row, column]))
    offset = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceNode").GetSliceToRAS()
    normal = np.array([offset.GetElement(k, 2) for k in range(3)])
    origin = np.array([offset.GetElement(k, 3) for k in range(3)])
    assert abs((ras - origin) @ normal) < 0.5


def test_what_is_shown_can_be_chosen(analysed):
    ui = analysed.ui
    composite = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceCompositeNode")
    for index, name in enumerate(("anomaly", "error", "uncertainty", "reconstruction")):
        ui.overlaySelector.setCurrentIndex(index)
        assert composite.GetForegroundVolumeID() == analysed.results.nodes[name].GetID()
    ui.overlaySelector.setCurrentIndex(4)
    assert composite.GetForegroundVolumeID() is None
    ui.overlaySelector.setCurrentIndex(0)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(analysed.results.nodes["anomaly"])
    assert legend.GetVisibility()
    click(ui.legendCheckBox)
    assert not legend.GetVisibility()
    ui.opacitySlider.value = 0.4
    assert not legend.GetVisibility()
    assert composite.GetForegroundOpacity() == pytest.approx(0.4)


@pytest.mark.parametrize("update", [True, False])
def test_a_second_run_replaces_or_adds(analysed, update):
    ui = analysed.ui
    first = analysed.results.nodes
    if ui.updateCheckBox.checked != update:
        click(ui.updateCheckBox)
    click(ui.applyButton)
    settle(analysed)
    found = results.find(opened_volume(analysed))
    assert len(found) == (1 if update else 2)
    assert found[0].run == first.run
    assert analysed.results.nodes.run == found[-1].run


def test_what_was_painted_outlives_the_next_run(analysed):
    (nodes,) = results.find(opened_volume(analysed))
    cord = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, "cord", nodes.input).copy()
    cord[:, :2] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(cord, nodes.segmentation, "cord", nodes.input)
    click(analysed.ui.applyButton)
    settle(analysed)
    kept = slicer.mrmlScene.GetFirstNodeByName("U2ADNeckPhantom segmentation corrected")
    assert (slicer.util.arrayFromSegmentBinaryLabelmap(kept, "cord", nodes.input) == cord).all()
    assert f"kept: {kept.GetName()}." in analysed.ui.statusLabel.text
    assert slicer.util.getNodes("* corrected*") == {kept.GetName(): kept}


@pytest.fixture
def two(opened, monkeypatch):
    """Two volumes with results, the first one chosen."""
    analysis = made_analysis(monkeypatch)
    found = [results.show(analysis, volume_node(analysis.volume, name)) for name in ("first", "second")]
    for nodes in found[::-1]:
        opened.ui.inputSelector.setCurrentNode(nodes.input)
    return found


def layers(name="Yellow"):
    composite = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceCompositeNode")
    return composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()


def shown_chart():
    return slicer.app.applicationLogic().GetSelectionNode().GetActivePlotChartID()


def test_the_views_follow_the_chosen_volume(opened, two):
    for shown, hidden in (two[::-1], two):
        opened.ui.inputSelector.setCurrentNode(shown.input)
        assert opened.results.nodes.run == shown.run
        assert layers() == (shown.input.GetID(), shown["anomaly"].GetID())
        assert shown_chart() == shown.chart.GetID()
        visible = [nodes.segmentation.GetDisplayNode().GetVisibility() for nodes in (shown, hidden)]
        assert visible == [1, 0]
    click(opened.ui.sampleButton)
    assert layers() == (opened_volume(opened).GetID(), None)
    assert not two[0].segmentation.GetDisplayNode().GetVisibility()


def test_results_can_be_shown_in_the_views_again(opened, two):
    layout = slicer.app.layoutManager()
    layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.app.applicationLogic().GetSelectionNode().SetActivePlotChartID(None)
    click(opened.ui.showButton)
    assert layout.layout == display.LAYOUT
    assert shown_chart() == two[0].chart.GetID()
    assert opened.results.link.connected
    opened.ui.inputSelector.setCurrentNode(slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16)))
    assert not opened.ui.showButton.enabled


def test_a_cord_and_discs_are_those_of_their_volume(opened):
    ui = opened.ui
    volumes = [slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=name) for name in "ab"]
    cord = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "cord of a")
    discs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "discs of a")
    ui.inputSelector.setCurrentNode(volumes[0])
    ui.cordSelector.setCurrentNode(cord)
    ui.discSelector.setCurrentNode(discs)
    ui.inputSelector.setCurrentNode(volumes[1])
    assert (ui.cordSelector.currentNode(), ui.discSelector.currentNode()) == (None, None)
    assert opened._chosen_cords() == {volumes[0].GetID(): cord.GetID()}
    ui.inputSelector.setCurrentNode(volumes[0])
    assert (ui.cordSelector.currentNode(), ui.discSelector.currentNode()) == (cord, discs)
    slicer.mrmlScene.RemoveNode(cord)
    assert opened._chosen_cords() == {}


class MadeRun:
    """In place of a `Run`: keeps what it was given, and ends when it is told to."""

    made, kept = (), ()
    state = job.RUNNING

    def __init__(self, volume, settings, *, cord, discs, into, on_progress, on_state):
        self.given = volume, settings, cord, discs, into
        self.end = lambda: on_state(job.DONE)
        MadeRun.made += (self,)

    def start(self, program):
        pass


def test_runs_stay_with_the_volume_that_they_were_started_for(opened, two, monkeypatch):
    first, second = two
    monkeypatch.setattr(runs, "Run", MadeRun)
    monkeypatch.setattr(MadeRun, "made", ())
    cord = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "cord")
    opened.ui.cordSelector.setCurrentNode(cord)
    settings, ended = [opened.model.settings] * 2, []
    opened._start_several(settings, lambda: ended.append(True))
    opened.ui.inputSelector.setCurrentNode(second.input)
    analysis = opened.logic.analyses.of(first)
    assert not opened.ui.batchButton.enabled
    for k in range(2):
        run = MadeRun.made[k]
        assert run.given == (first.input, settings[k], cord, None, None)
        run.nodes, run.analysis = results.show(analysis, first.input), analysis
        run.end()
        assert not run.nodes.segmentation.GetDisplayNode().GetVisibility()
    assert ended
    assert not opened.running
    assert "Choose first again" in opened.ui.statusLabel.text
    assert opened.results.nodes.run == second.run
    assert layers() == (second.input.GetID(), second["anomaly"].GetID())
    click(opened.ui.applyButton)
    assert MadeRun.made[2].given[4].run == second.run
    opened._run = None
    opened.results.nodes = first  # whatever the panel shows
    opened._apply_or_cancel()
    assert MadeRun.made[3].given[4] is None
    opened._run = None


def test_what_is_no_image_is_not_analysed(opened, two):
    ui = opened.ui
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    offered = [ui.inputSelector.nodeFromIndex(k) for k in range(ui.inputSelector.nodeCount())]
    assert labels not in offered
    ui.inputSelector.setCurrentNode(two[0]["anomaly"])
    assert not ui.applyButton.enabled
    assert "is a result of U2AD" in ui.applyButton.toolTip
    assert ui.statusLabel.text == ui.applyButton.toolTip
    ui.inputSelector.setCurrentNode(two[0].input)
    assert ui.applyButton.enabled
    assert ui.statusLabel.text == ""


def test_the_first_image_is_chosen(panel, app):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    result = slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name="result")
    result.SetAttribute(results.RUN, "1")
    image = slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name="image")
    assert opened_volume(panel()) is image


def test_a_loaded_scene_brings_its_volume(opened, tmp_path):
    for name in ("first", "second"):
        volume = slicer.util.addVolumeFromArray(np.zeros((3, 8, 8), np.int16), name=name)
    opened.ui.inputSelector.setCurrentNode(volume)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert opened_volume(opened).GetName() == "second"


def test_a_node_that_was_left_is_not_written_to(opened):
    node = opened._parameters_node
    opened._set_parameters(None)
    opened.ui.updateCheckBox.checked = False
    assert node.GetParameter("updateResults") == "True"


def contrast(one, other):
    """Of two colours, 1 to 21, as the Web Content Accessibility Guidelines define it."""
    light = []
    for colour in (qt.QColor(one), qt.QColor(other)):
        channels = np.array([colour.redF(), colour.greenF(), colour.blueF()])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        light.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(light) / min(light)


def test_words_can_be_read_in_any_theme(opened, two):
    """Where the background is ours, so is the colour of the text."""
    opened._complain("What went wrong.")
    for label in (opened.ui.verdictLabel, opened.ui.statusLabel):
        style = dict(part.strip().split(":") for part in label.text.split('"')[1].split(";"))
        assert contrast(style["color"], style["background-color"]) > 7
    for table in (opened.ui.segmentsTable, opened.ui.findingsTable):
        cells = [table.item(r, c) for r in range(table.rowCount) for c in range(table.columnCount)]
        coloured = [cell for cell in cells if cell.background().style() != qt.Qt.NoBrush]
        assert all(contrast(cell.foreground().color(), cell.background().color()) > 7 for cell in coloured)
        assert coloured or table is opened.ui.findingsTable


def test_a_deleted_volume_ends_its_run(opened):
    click(opened.ui.sampleButton)
    click(opened.ui.applyButton)
    slicer.mrmlScene.RemoveNode(opened_volume(opened))
    settle(opened)
    assert "The volume was deleted" in opened.ui.statusLabel.text
    assert not slicer.util.getNodesByClass("vtkMRMLTableNode")


def test_a_closed_scene_ends_its_run(opened):
    click(opened.ui.sampleButton)
    click(opened.ui.applyButton)
    slicer.mrmlScene.Clear(0)
    settle(opened)
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert not opened.ui.applyButton.enabled


def test_results_are_shown_again_after_the_panel_was_left(analysed):
    analysed.exit()
    assert analysed.results.link is None
    analysed.enter()
    assert "Flagged: C4-5, C6-7" in analysed.ui.verdictLabel.text
    assert analysed.results.link.connected


def test_another_volume_has_its_own_results(analysed):
    other = slicer.util.addVolumeFromArray(np.zeros((5, 40, 40), np.int16), name="other")
    analysed.ui.inputSelector.setCurrentNode(other)
    assert "Nothing has been analysed" in analysed.ui.verdictLabel.text
    first = slicer.mrmlScene.GetFirstNodeByName("U2ADNeckPhantom")
    analysed.ui.inputSelector.setCurrentNode(first)
    assert "Flagged: C4-5, C6-7" in analysed.ui.verdictLabel.text


def test_the_report(analysed, tmp_path, monkeypatch):
    (tmp_path / "report").mkdir()
    analysed.ui.exportSection.collapsed = False
    analysed.ui.exportFolder.directory = str(tmp_path / "report")
    click(analysed.ui.exportButton)
    (folder,) = (tmp_path / "report").iterdir()
    assert {"analysis.json", "qc.html", "overlay.png"} <= {path.name for path in folder.iterdir()}
    asked = []
    for answer in (False, True):
        (folder / "qc.html").write_text("earlier")
        monkeypatch.setattr(
            slicer.util, "confirmOkCancelDisplay", lambda text, answer=answer: asked.append(text) or answer
        )
        click(analysed.ui.exportButton)
        assert ((folder / "qc.html").read_text() == "earlier") != answer
    assert len(asked) == 2
    assert str(folder) in asked[0]


def test_a_folder_of_images(opened, tmp_path):
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    (given / "a.nii.gz").write_bytes(resource("Sample", "sample_T2w.nii.gz").read_bytes())
    (given / "broken.nii.gz").write_bytes(b"no image")
    opened.ui.batchSection.collapsed = False
    opened.ui.batchInput.directory, opened.ui.batchOutput.directory = str(given), str(out)
    opened.ui.batchButton.click()
    assert opened.ui.batchButton.text == "Cancel"
    settle(opened)
    assert [row[:3] for row in rows(opened.ui.batchTable)] == [["a", "done", "C4-5 C6-7"], ["broken", "refused", ""]]
    assert (out / SUMMARY).is_file()
    assert "1 of 2 cases done" in opened.ui.statusLabel.text


def test_folders_of_a_batch_have_to_be_chosen(opened, tmp_path):
    """An untouched button tells the current folder, whatever that is."""
    ui = opened.ui
    ui.batchSection.collapsed = False
    for given, out in ((".", "."), (str(tmp_path), "."), (".", str(tmp_path)), ("", str(tmp_path))):
        ui.batchInput.directory, ui.batchOutput.directory = given, out
        ui.batchButton.click()
        assert "Choose two folders" in ui.statusLabel.text
        assert opened.batch.job is None


def test_the_next_session_knows_the_folders_of_a_batch(opened, panel, tmp_path):
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    opened.ui.batchInput.directory, opened.ui.batchOutput.directory = str(given), str(out)
    opened.ui.batchButton.click()
    settle(opened)
    given.rmdir()
    later = panel()
    assert later.ui.batchOutput.directory == str(out)
    assert later.ui.batchInput.directory in UNSET_FOLDERS  # it is gone


def test_analyse_all_waits_for_what_runs(opened, monkeypatch):
    busy = []
    monkeypatch.setattr(opened.batch, "_is_busy", lambda: bool(busy))
    opened.batch.refresh()
    assert opened.ui.batchButton.enabled
    busy.append(1)
    opened.batch.refresh()
    assert not opened.ui.batchButton.enabled
    monkeypatch.setattr(opened.batch, "job", object())  # its own: the button is Cancel then
    opened.batch.refresh()
    assert opened.ui.batchButton.enabled
    monkeypatch.setattr(opened.batch, "job", None)


def test_the_console(load_module, app):
    logic = load_module().U2ADLogic()
    volume = logic.loadSample()
    stages = []
    nodes = logic.process(volume, program=sys.executable, progress=lambda stage, *now: stages.append(stage))
    assert logic.analyses.of(nodes).flagged == ("C4-5", "C6-7")
    assert stages[-1] == "Writing"
    run = logic.process(volume, program=sys.executable, wait=False)
    run.job.wait()
    assert run.nodes.run != nodes.run
    with pytest.raises(InputError, match="no image"):
        logic.process(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"), program=sys.executable)
