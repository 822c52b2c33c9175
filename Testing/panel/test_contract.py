from pathlib import Path

from slicer_bench.contract import check_module

MODULE = Path(__file__).resolve().parents[2] / "U2AD"

UI = """<ui version="4.0"><class>Toy</class>
<widget class="qMRMLWidget" name="Toy">
 <widget class="ctkSliderWidget" name="slider">
  <property name="decimals"><number>2</number></property>
  <property name="colour"><string>red</string></property>
  <property name="SlicerParameterName" stdset="0"><string>thresold</string></property>
 </widget>
 <widget class="QPushButton" name="applyButton"/>
 <widget class="qMRMLNodeComboBox" name="selector"/>
 <widget class="qMRMLFancyWidget" name="fancy"/>
</widget>
<connections>
 <connection><sender>Toy</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
  <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
 <connection><sender>Toy</sender><signal>sceneChanged(vtkMRMLScene*)</signal>
  <receiver>selector</receiver><slot>setScene(vtkMRMLScene*)</slot></connection>
</connections></ui>"""

GOOD = """
import numpy as np
import qt, slicer, vtk
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer import vtkMRMLScalarVolumeNode

@parameterNodeWrapper
class ToyParameters:
    threshold: float

class ToyWidget:
    def setup(self):
        self.ui.applyButton.connect("clicked()", self.onApply)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.ui.selector.connect("currentNodeChanged(vtkMRMLNode*)", self.onApply)
        self.ui.applyButton.enabled = self.ui.selector.currentNode() is not None
        slicer.util.setSliceViewerLayers(background=None, fit=True)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode").SetText("x")
        self.process = qt.QProcess()
        self.process.connect("readyReadStandardOutput()", self.onApply)

    def onApply(self):
        import torch
"""

BAD = {
    "import torch": "torch is imported at file scope",
    "from slicer.i18n import translated": "slicer.i18n has no translated",
    "slicer.util.setSliceLayers()": "there is no slicer.util.setSliceLayers",
    "slicer.util.setSliceViewerLayers(backgroud=None)": "unexpected keyword argument 'backgroud'",
    "slicer.app.layouts()": "there is no slicer.app.layouts",
    "slicer.vtkMRMLHeatMapNode()": "there is no slicer.vtkMRMLHeatMapNode",
    "slicer.vtkMRMLLayoutNode.SlicerLayoutPlot": "there is no slicer.vtkMRMLLayoutNode.SlicerLayoutPlot",
    "qt.QFancyButton()": "there is no qt.QFancyButton",
    "node.SetColourNodeID('x')": "no MRML or VTK class has SetColourNodeID",
    "process.connect('stopped()', print)": "has the signal stopped()",
    "self.ui.applyButton.setTitle('x')": "QPushButton has no setTitle",
    "self.ui.applyButton.text()": "applyButton.text is a property",
    "self.ui.applyButton.setText = 'x'": "applyButton.setText is a function",
    "self.ui.applyButton.connect('clicked(int)', print)": "signal clicked takes ['', 'bool'], not clicked(int)",
    "self.ui.otherButton.click()": "the .ui file has no widget otherButton",
}


def write_toy(folder: Path, code: str) -> Path:
    (folder / "Toy" / "Resources" / "UI").mkdir(parents=True)
    (folder / "Toy" / "Resources" / "UI" / "Toy.ui").write_text(UI)
    (folder / "Toy" / "Toy.py").write_text(code)
    return folder / "Toy"


def test_the_module_uses_only_what_slicer_has():
    assert check_module(MODULE) == []


def test_what_is_wrong_is_found(tmp_path):
    problems = check_module(write_toy(tmp_path, GOOD + "\n".join(BAD)))
    in_ui = [p for p in problems if p.startswith("Toy.ui")]
    assert in_ui == [
        "Toy.ui: slider: ctkSliderWidget has no property colour",
        "Toy.ui: fancy: there is no widget class qMRMLFancyWidget",
        "Toy.ui: qMRMLWidget has no signal sceneChanged(vtkMRMLScene*)",
        "Toy.ui: selector: qMRMLNodeComboBox has no slot setScene(vtkMRMLScene*)",
        "Toy.ui: slider is connected with the unknown parameter thresold",
    ]
    in_code = [p for p in problems if p.startswith("Toy.py")]
    for line, message in BAD.items():
        number = GOOD.count("\n") + 1 + list(BAD).index(line)
        assert [p for p in in_code if p.startswith(f"Toy.py:{number}:") and message in p], (line, in_code)
    assert len(in_code) == len(BAD)
