import hashlib
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import slicer.util
import vtk

from slicer_bench.fixtures import screenshot


@pytest.fixture
def volume(host):
    """20 × 30 × 40 voxels of 2 mm, dark, with a bright block of 5 voxels' side; its corner at RAS (0, 0, 0)."""
    values = np.zeros((40, 30, 20), np.int16)
    values[20:25, 15:20, 10:15] = 100
    to_ras = np.diag([2.0, 2.0, 2.0, 1.0])
    to_ras[:3, 3] = (-20, -30, -40)
    return slicer.util.addVolumeFromArray(values, ijkToRAS=to_ras, name="block")


def test_volume_round_trip(host, volume, tmp_path):
    values = slicer.util.arrayFromVolume(volume)
    assert slicer.util.saveNode(volume, str(tmp_path / "block.nrrd"))
    again = slicer.util.loadVolume(str(tmp_path / "block.nrrd"))
    assert np.array_equal(slicer.util.arrayFromVolume(again), values)
    matrices = []
    for node in (volume, again):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        matrices.append(slicer.util.arrayFromVTKMatrix(matrix))
    assert np.allclose(*matrices)


def test_overlay_is_drawn_where_it_lies(host, app, volume):
    overlay = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(volume).copy(), name="overlay")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    overlay.SetIJKToRASMatrix(matrix)
    overlay.CreateDefaultDisplayNodes()
    display = overlay.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeRed")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 100)
    display.SetThreshold(50, 100)
    display.ApplyThresholdOn()
    slicer.util.setSliceViewerLayers(background=volume, foreground=overlay, foregroundOpacity=1.0, fit=True)
    for name in app.layoutManager().sliceViewNames():
        view = host.views[name]
        view.node.JumpSlice(4, 4, 4)
        picture = view.picture().astype(int)
        inside, outside = picture[view.pixel_of((4, 4, 4))], picture[view.pixel_of((-12, -12, -12))]
        assert inside[0] > 200
        assert inside[1:].max() < 50
        assert outside.max() < 50
    assert np.array_equal(view.picture(), view.picture())


def test_subject_hierarchy_follows_the_scene(host, volume):
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volume)
    assert item
    assert hierarchy.GetItemParent(item) == hierarchy.GetSceneItemID()
    hidden = slicer.vtkMRMLTableNode()
    hidden.SetHideFromEditors(True)
    assert not hierarchy.GetItemByDataNode(slicer.mrmlScene.AddNode(hidden))
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "folder")
    hierarchy.SetItemParent(item, folder)
    slicer.mrmlScene.RemoveNode(volume)
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(folder, children)
    assert children.GetNumberOfIds() == 0


def test_scene_file_round_trip(host, app, volume, tmp_path):
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "folder")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), folder)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    again = slicer.util.getNode("block")
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    assert hierarchy.GetItemName(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(again))) == "folder"
    assert slicer.util.arrayFromVolume(again).max() == 100


def test_what_slicer_lacks_is_refused(host, app):
    button = qt.QPushButton("Apply")
    button.enabled = False
    assert button.text == "Apply"
    with pytest.raises(AttributeError, match="colour"):
        button.colour = "red"
    with pytest.raises(TypeError, match="not callable"):
        button.text()
    with pytest.raises(RuntimeError, match="no signal"):
        button.connect("pressedTwice()", print)
    with pytest.raises(AttributeError):
        slicer.qMRMLNodeComboBox().selectedNode  # noqa: B018
    with pytest.raises(NotImplementedError, match="exists in Slicer"):
        slicer.qMRMLNodeComboBox().sortFilterProxyModel()


def test_signals_by_signature(host):
    heard = []
    box = qt.QComboBox()
    box.addItems(["a", "b"])
    box.connect("currentIndexChanged(int)", heard.append)
    box.currentIndex = 1
    button = qt.QPushButton()
    button.connect("clicked()", lambda: heard.append("clicked"))
    button.click()
    assert heard == [1, "clicked"]


TOY_UI = """<ui version="4.0"><class>Toy</class><widget class="qMRMLWidget" name="Toy">
<layout class="QFormLayout" name="rows">
 <item row="0" column="0"><widget class="qMRMLNodeComboBox" name="volume">
  <property name="noneEnabled"><bool>true</bool></property>
  <property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
 <item row="1" column="0"><widget class="ctkSliderWidget" name="threshold">
  <property name="SlicerParameterName" stdset="0"><string>threshold</string></property></widget></item>
 <item row="2" column="0"><widget class="QComboBox" name="which">
  <property name="SlicerParameterName" stdset="0"><string>which</string></property></widget></item>
 <item row="3" column="0"><widget class="QPushButton" name="applyButton"><property name="text">
  <string>Find it, ² and °</string></property></widget></item>
</layout></widget><connections><connection>
 <sender>Toy</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>volume</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot>
</connection></connections></ui>"""

TOY = """
from typing import Annotated
import slicer
from slicer.ScriptedLoadableModule import *
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer import vtkMRMLScalarVolumeNode


@parameterNodeWrapper
class ToyParameters:
    volume: vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(0, 1)] = 0.25
    which: Annotated[str, Choice(["anomaly", "error"])] = "error"


class Toy(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        parent.title = _("Toy")


class ToyLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return ToyParameters(super().getParameterNode())


class ToyWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        super().setup()
        contents = slicer.util.loadUI(self.resourcePath("UI/Toy.ui"))
        self.layout.addWidget(contents)
        self.ui = slicer.util.childWidgetVariables(contents)
        contents.setMRMLScene(slicer.mrmlScene)
        self.parameters = ToyLogic().getParameterNode()
        widgets = {name: getattr(self.ui, name) for name in ("volume", "threshold", "which")}
        self.tag = self.parameters.connectParametersToGui(widgets)

    def cleanup(self):
        self.parameters.disconnectGui(self.tag)
"""


@pytest.fixture
def toy(panel, tmp_path):
    """The panel of a small scripted module."""
    (tmp_path / "Toy" / "Resources" / "UI").mkdir(parents=True)
    (tmp_path / "Toy" / "Resources" / "UI" / "Toy.ui").write_text(TOY_UI, encoding="utf-8")
    (tmp_path / "Toy" / "Toy.py").write_text(TOY, encoding="utf-8")
    return panel(tmp_path / "Toy" / "Toy.py")


def test_parameters_and_widgets_follow_each_other(toy, volume):
    ui, parameters = toy.ui, toy.parameters
    assert (ui.volume.currentNode(), ui.threshold.value, ui.which.currentText) == (None, 0.25, "error")
    ui.threshold.value = 0.75
    ui.volume.setCurrentNode(volume)
    assert (parameters.threshold, parameters.volume) == (0.75, volume)
    assert parameters.parameterNode.GetParameter("threshold") == "0.75"
    parameters.which = "anomaly"
    assert ui.which.currentText == "anomaly"
    slicer.mrmlScene.RemoveNode(volume)
    assert (parameters.volume, ui.volume.currentNode()) == (None, None)
    with pytest.raises(ValueError, match="within range"):
        parameters.threshold = 2
    with pytest.raises(TypeError, match="must be str"):
        parameters.which = 1


def test_disconnected_widgets_change_nothing(toy):
    toy.parameters.disconnectGui(toy.tag)
    toy.ui.threshold.value = 0.5
    assert toy.parameters.threshold == 0.25


def test_connecting_by_property_gives_no_tag(toy):
    """As in Slicer: what is connected so cannot be disconnected."""
    assert toy.parameters.connectGui(toy.ui) is None


def test_screenshot_shows_text(toy, tmp_path):
    """Every character has its own shape: a missing font would draw the same box for all."""
    screenshot(toy, tmp_path / "panel.png", (300, 200))
    assert qt.QPixmap(str(tmp_path / "panel.png")).width() == 300
    font = qt.QFontMetrics(toy.ui.applyButton.font)
    assert font.horizontalAdvance("iii") < font.horizontalAdvance("mmm")
    assert all(font.inFontUcs4(ord(character)) for character in toy.ui.applyButton.text)


def test_plot_in_the_layout(app):
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[0.0, 0.0], [1.0, 1.0]]), ["s", "score"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("s")
    series.SetYColumnName("score")
    series.SetPlotType(series.PlotTypeScatter)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    layouts = app.layoutManager()
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert layouts.plotViewCount == 0
    layouts.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    assert layouts.plotViewCount == 1
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    view = layouts.plotWidget(0).plotView()
    assert layouts.plotWidget(0).mrmlPlotViewNode().GetPlotChartNode() is chart
    assert not view.grab().isNull()
    assert view.chart().GetNumberOfPlots() == 1


def test_sample_data_and_packages(host, app, monkeypatch):
    import SampleData

    from slicer_bench.python_modules import asked_to_install

    sample = Path(__file__).resolve().parents[2] / "Resources" / "Sample" / "sample_T2w_label-SC_seg.nii.gz"
    logic = SampleData.SampleDataLogic()
    logic.registerCustomSampleDataSource(
        sampleName="Cord", uris=sample.as_uri(), nodeNames="Cord", fileNames=sample.name, checksums="SHA256:0"
    )
    with pytest.raises(ValueError, match="checksum"):
        logic.downloadSample("Cord")
    logic.sourceForSampleName("Cord").checksums = [f"SHA256:{hashlib.sha256(sample.read_bytes()).hexdigest()}"]
    assert logic.downloadSample("Cord").GetName() == "Cord"

    assert slicer.packaging.pip_check("numpy>=1.26")
    assert not slicer.packaging.pip_check("numpy>=1000")
    slicer.packaging.pip_ensure(["numpy>=1.26", "no-such-package>=1"])
    assert asked_to_install == []  # Slicer installs nothing while it is being tested
    monkeypatch.setattr(type(app), "testingEnabled", lambda self: False)
    slicer.packaging.pip_ensure(["numpy>=1.26", "no-such-package>=1"])
    assert asked_to_install == [["no-such-package>=1"]]
