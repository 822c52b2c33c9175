"""Stand-ins for `slicer.app`, its layout manager and its file manager, over the real scene and storage nodes."""

import tempfile
from pathlib import Path

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from .facts import python_names
from .plots import save_chart
from .scene import Host, SliceView


def shaped_like(real: str):
    """Class decorator: refuse public names that the real class does not have."""

    def check(cls):
        known = python_names(real) | set(dir(QtWidgets.QApplication)) | set(dir(QtWidgets.QWidget))
        invented = [name for name in vars(cls) if not name.startswith("_") and name not in known]
        if invented:
            raise TypeError(f"the stand-in of {real} has names that the real class lacks: {invented}")
        return cls

    return check


@shaped_like("qSlicerCoreIOManager")
class FileManager:
    def loadNodes(self, fileType, properties, loadedNodes, userMessages=None):
        path = properties["fileName"]
        if fileType == "SceneFile":
            return self._load_scene(path)
        if not Path(path).is_file():
            return False
        name = properties.get("name") or Path(path).name.split(".")[0]
        if fileType == "VolumeFile":
            labelmap = 1 if properties.get("labelmap") else 0
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, labelmap)
        else:
            node = self._load_node(_NODE_OF_FILE[fileType], path, name)
        if node:
            loadedNodes.AddItem(node)
        return bool(node)

    def _load_scene(self, path):
        if path.endswith(".mrb"):
            return bool(slicer.mrmlScene.ReadFromMRB(path))
        slicer.mrmlScene.SetURL(path)
        return bool(slicer.mrmlScene.Connect())

    def _load_node(self, cls, path, name):
        node = slicer.mrmlScene.AddNewNodeByClass(cls, name)
        storage = self._storage(node)
        storage.SetFileName(path)
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            return None
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        return node

    def _storage(self, node):
        if not node.GetStorageNode():
            storage = node.CreateDefaultStorageNode()
            slicer.mrmlScene.AddNode(storage)
            node.SetAndObserveStorageNodeID(storage.GetID())
            storage.UnRegister(None)
        return node.GetStorageNode()

    def saveNodes(self, fileType, parameters, userMessages=None):
        path = parameters["fileName"]
        if fileType == "SceneFile":
            scene = slicer.mrmlScene
            return bool(scene.WriteToMRB(path) if path.endswith(".mrb") else scene.Commit(path))
        node = slicer.mrmlScene.GetNodeByID(parameters["nodeID"])
        storage = self._storage(node)
        storage.SetFileName(path)
        storage.SetUseCompression(parameters.get("useCompression", 1))
        return bool(storage.WriteData(node))

    def fileWriterFileType(self, node):
        known = {cls: kind for kind, cls in _NODE_OF_FILE.items()}
        return known.get(node.GetClassName(), "VolumeFile" if node.IsA("vtkMRMLVolumeNode") else "NodeFile")


_NODE_OF_FILE = {
    "VolumeFile": "vtkMRMLScalarVolumeNode",
    "SegmentationFile": "vtkMRMLSegmentationNode",
    "TableFile": "vtkMRMLTableNode",
    "ColorTableFile": "vtkMRMLColorTableNode",
    "TransformFile": "vtkMRMLTransformNode",
    "MarkupsFile": "vtkMRMLMarkupsFiducialNode",
    "TextFile": "vtkMRMLTextNode",
    "ModelFile": "vtkMRMLModelNode",
}


@shaped_like("qMRMLSliceView")
class _SliceViewOfWidget(QtCore.QObject):
    def __init__(self, view: SliceView):
        super().__init__()
        self._view = view

    def forceRender(self):
        self._view.render()

    def scheduleRender(self):
        """Nothing is on a screen: drawn when a picture is asked for."""

    def renderWindow(self):
        return self._view.window()


@shaped_like("qMRMLSliceControllerWidget")
class _SliceController(QtCore.QObject):
    def __init__(self, view: SliceView):
        super().__init__()
        self._view = view

    def fitSliceToBackground(self):
        self._view.logic.FitSliceToAll()

    def setSliceOffsetValue(self, offset):
        self._view.logic.SetSliceOffset(offset)

    def mrmlSliceCompositeNode(self):
        return self._view.composite_node()


@shaped_like("qMRMLSliceWidget")
class _SliceWidget(QtCore.QObject):
    def __init__(self, view: SliceView):
        super().__init__()
        self._view, self._shown, self._controller = view, _SliceViewOfWidget(view), _SliceController(view)

    def sliceLogic(self):
        return self._view.logic

    def mrmlSliceNode(self):
        return self._view.node

    def sliceController(self):
        return self._controller

    def sliceView(self):
        return self._shown

    def grab(self):
        with tempfile.TemporaryDirectory() as folder:
            self._view.save_picture(f"{folder}/view.png")
            return QtGui.QPixmap(f"{folder}/view.png")


@shaped_like("qMRMLPlotView")
class _PlotView(QtCore.QObject):
    """A click on a point is `view.dataSelected.emit(ids, selections)`, with vtkStringArray and vtkCollection."""

    dataSelected = Signal(object, object)

    def __init__(self, node):
        super().__init__()
        self._node, self._chart = node, vtk.vtkChartXY()

    def chart(self):
        """The VTK chart; it gets the node's contents when a picture is taken."""
        return self._chart

    def fitToContent(self):
        pass

    def RemovePlotSelections(self):
        pass

    def grab(self):
        with tempfile.TemporaryDirectory() as folder:
            save_chart(self._node.GetPlotChartNode(), f"{folder}/chart.png", chart=self._chart)
            return QtGui.QPixmap(f"{folder}/chart.png")


@shaped_like("qMRMLPlotWidget")
class _PlotWidget(QtCore.QObject):
    def __init__(self, node):
        super().__init__()
        self._node, self._view = node, _PlotView(node)

    def mrmlPlotViewNode(self):
        return self._node

    def plotView(self):
        return self._view


@shaped_like("qSlicerLayoutManager")
class LayoutManager(QtCore.QObject):
    """Slicer's real layout logic decides which views exist; the widgets are stand-ins."""

    layoutChanged = Signal(int)

    def __init__(self, host: Host):
        super().__init__()
        self._host = host
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(host.scene)
        self._slices = {name: _SliceWidget(view) for name, view in host.views.items()}
        self._plots: dict[str, _PlotWidget] = {}

    def layoutLogic(self):
        return self._logic

    def _node(self):
        return self._logic.GetLayoutNode()

    def setLayout(self, layout):
        self._node().SetViewArrangement(layout)
        self.layoutChanged.emit(layout)

    layout = Property(int, lambda self: self._node().GetViewArrangement(), setLayout)

    def sliceViewNames(self):
        return tuple(self._slices)

    def sliceWidget(self, name):
        return self._slices.get(name)

    def mrmlSliceLogics(self):
        return self._host.applicationLogic.GetSliceLogics()

    def resetSliceViews(self):
        for view in self._host.views.values():
            view.logic.FitSliceToAll()

    def _plot_nodes(self):
        nodes = self._logic.GetViewNodes()
        views = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())]
        return [node for node in views if node.IsA("vtkMRMLPlotViewNode")]

    plotViewCount = Property(int, lambda self: len(self._plot_nodes()))
    threeDViewCount = Property(int, lambda self: 0)
    tableViewCount = Property(int, lambda self: 0)

    def plotWidget(self, index):
        node = self._plot_nodes()[index]
        if node.GetID() not in self._plots:
            self._plots[node.GetID()] = _PlotWidget(node)
        return self._plots[node.GetID()]

    def resetThreeDViews(self):
        pass

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass


class _ModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = Signal(str)

    def moduleNames(self):
        return tuple(m.name for m in vars(slicer.modules).values() if hasattr(m, "logic"))


@shaped_like("qSlicerApplication")
class Application(QtCore.QObject):
    startupCompleted = Signal()
    aboutToQuit = Signal()
    applicationName = "Slicer"
    applicationVersion = "bench"

    def __init__(self, host: Host, folder: Path):
        super().__init__()
        self._host, self._layouts, self._files = host, LayoutManager(host), FileManager()
        self._settings = QtCore.QSettings(str(folder / "settings.ini"), QtCore.QSettings.Format.IniFormat)
        self._modules = _ModuleManager()
        self._folder = folder

    temporaryPath = Property(str, lambda self: str(self._folder))

    def moduleManager(self):
        return self._modules

    def layoutManager(self):
        return self._layouts

    def coreIOManager(self):
        return self._files

    ioManager = coreIOManager

    def applicationLogic(self):
        return self._host.applicationLogic

    def mrmlScene(self):
        return self._host.scene

    def settings(self):
        return self._settings

    userSettings = revisionUserSettings = settings

    def testingEnabled(self):
        """True in Slicer while its tests run: nothing may ask the user. Tests of dialogs replace this function."""
        return True

    def processEvents(self, *args):
        QtWidgets.QApplication.processEvents()

    def translate(self, context, text):
        return text

    def topLevelWidgets(self):
        return QtWidgets.QApplication.topLevelWidgets()

    def setOverrideCursor(self, cursor):
        pass

    def restoreOverrideCursor(self):
        pass

    def pauseRender(self):
        pass

    def resumeRender(self):
        pass


def install(host: Host, folder: Path) -> Application:
    """Make a fresh `slicer.app`. :param folder: for settings and temporary files."""
    slicer.app = Application(host, folder)
    slicer.selfTests = {}
    return slicer.app
