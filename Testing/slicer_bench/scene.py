"""A real MRML scene with Slicer's real logics, and slice views drawn off screen; no Qt needed.

`slicer-core` is Slicer's own C++ code without the application: what a volume, a segmentation or a slice view does here
is what it does in Slicer.
"""

import os
import types
from pathlib import Path

os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .subject_hierarchy import SubjectHierarchyFollower

SLICE_DISPLAYERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
LOGICS = {
    "Volumes": "vtkSlicerVolumesLogic",
    "Colors": "vtkSlicerColorLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
}
SLICE_VIEWS = {
    "Red": ("Axial", (0.952, 0.290, 0.2)),
    "Yellow": ("Sagittal", (0.929, 0.835, 0.298)),
    "Green": ("Coronal", (0.431, 0.690, 0.294)),
}


COLOUR_MAPS = ("Cividis", "Inferno", "Magma", "Plasma", "Viridis")


def write_colour_files(folder: Path) -> None:
    """Write the perceptual colour maps that Slicer reads from text files in its home; other such files are not here."""
    import matplotlib

    folder.mkdir(parents=True)
    for name in COLOUR_MAPS:
        colours = (np.array(matplotlib.colormaps[name.lower()].colors) * 255).round().astype(int)
        lines = [f"{index} {name}_{index} {r} {g} {b} 255" for index, (r, g, b) in enumerate(colours)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


class Module:
    """One entry of `slicer.modules`: a loadable module with its real logic, or the scripted module under test."""

    def __init__(self, name: str, logic=None, path: str = ""):
        self.name, self.path, self.title, self._logic = name, path, name, logic

    def logic(self):
        return self._logic


class Host:
    """A fresh scene, set as `slicer.mrmlScene`, with `slicer.modules` and the three slice views Red, Yellow, Green.

    :param folder: a temporary folder, used as Slicer's home and cache.
    :ivar scene: the vtkMRMLScene; :ivar views: slice views by name, drawn only when asked.
    """

    def __init__(self, folder: Path):
        self.scene = slicer.vtkMRMLScene()
        self.applicationLogic = slicer.vtkSlicerApplicationLogic()
        write_colour_files(folder / "share" / "ColorFiles")
        self.applicationLogic.SetHomeDirectory(str(folder))
        self.applicationLogic.SetShareDirectory("share")
        self.applicationLogic.SetMRMLScene(self.scene)
        self._prepare_for_scene_files(folder)
        colours = self.applicationLogic.GetColorLogic()
        colours.SetMRMLScene(self.scene)
        colours.AddDefaultColorNodes()
        self.applicationLogic.SetSliceLogics(vtk.vtkCollection())
        self.applicationLogic.SetViewLogics(vtk.vtkCollection())
        slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(self.applicationLogic)
        slicer.mrmlScene = self.scene
        slicer.modules = types.SimpleNamespace()
        for name, cls in LOGICS.items():
            logic = getattr(slicer, cls)()
            logic.SetMRMLApplicationLogic(self.applicationLogic)
            logic.SetMRMLScene(self.scene)
            self.applicationLogic.SetModuleLogic(name, logic)
            self.add_module(Module(name, logic))
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        self.subject_hierarchy = SubjectHierarchyFollower(self.scene)
        self.views = {name: SliceView(self, name) for name in SLICE_VIEWS}

    def _prepare_for_scene_files(self, folder: Path) -> None:
        """What `.mrb` files need: the application's cache and its reader of remote data."""
        self._cache = slicer.vtkCacheManager()
        self._cache.SetRemoteCacheDirectory(str(folder / "cache"))
        self._data_io = slicer.vtkDataIOManager()
        self._data_io.SetCacheManager(self._cache)
        self.scene.SetCacheManager(self._cache)
        self.scene.SetDataIOManager(self._data_io)

    def add_module(self, module: Module) -> None:
        setattr(slicer.modules, module.name.lower(), module)

    def close(self) -> None:
        """Stop observing and close the windows. The scene itself goes with its last reference (clearing it would
        remove nodes that logics still hold)."""
        self.subject_hierarchy.stop()
        for view in self.views.values():
            view.close()


class SliceView:
    """One slice view, with the displayable managers of Slicer's own, drawn off screen."""

    def __init__(self, host: Host, name: str, size: tuple[int, int] = (400, 400)):
        orientation, colour = SLICE_VIEWS[name]
        self.name, self.size = name, size
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(host.applicationLogic)
        host.applicationLogic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(host.scene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetLayoutLabel(name[0])
        self.node.SetLayoutColor(*colour)
        self.node.SetOrientation(orientation)
        self.node.SetMappedInLayout(1)
        self.logic.ResizeSliceNode(*size)
        self._window = None

    def composite_node(self):
        return self.logic.GetSliceCompositeNode()

    def window(self) -> vtk.vtkRenderWindow:
        """The render window, made on first use: most tests of nodes draw nothing."""
        if self._window is None:
            self._make_window()
        return self._window

    def _make_window(self) -> None:
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetSize(*self.size)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._interactor.Initialize()
        # In Slicer a CTK class shows the blended layers; here a mapper does. It is the first of all that is drawn:
        # segments, markups and legends lie on top of it.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._actor)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        for displayer in SLICE_DISPLAYERS:
            if not factory.IsDisplayableManagerRegistered(displayer):
                factory.RegisterDisplayableManager(displayer)
        self._displayers = slicer.vtkMRMLDisplayableManagerGroup()
        self._displayers.SetRenderer(self._renderer)
        self._displayers.Initialize(factory, self._renderer)
        self._displayers.SetMRMLDisplayableNode(self.node)

    def render(self) -> None:
        window = self.window()
        self.logic.UpdatePipeline()
        connection = self.logic.GetImageDataConnection()
        if connection:
            self._mapper.SetInputConnection(connection)
        else:
            self._mapper.RemoveAllInputConnections(0)
        self._actor.SetVisibility(1 if connection else 0)
        window.Render()

    def _grabbed(self) -> vtk.vtkImageData:
        self.render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window())
        grabber.ReadFrontBufferOff()
        grabber.Update()
        return grabber.GetOutput()

    def picture(self) -> np.ndarray:
        """The view as uint8 (height, width, 3), first row on top."""
        image = self._grabbed()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def save_picture(self, path: str | Path) -> None:
        """Write the view as a PNG file."""
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputData(self._grabbed())
        writer.Write()

    def pixel_of(self, ras) -> tuple[int, int]:
        """(row, column) in `picture()` of a point in RAS mm."""
        to_view = vtk.vtkMatrix4x4()
        to_view.DeepCopy(self.node.GetXYToRAS())
        to_view.Invert()
        x, y, _, _ = to_view.MultiplyPoint((*ras, 1.0))
        return self.size[1] - 1 - round(y), round(x)

    def close(self) -> None:
        if self._window is not None:
            self._displayers.SetMRMLDisplayableNode(None)
            self._window.Finalize()
