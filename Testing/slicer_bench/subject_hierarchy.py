"""Keeps the subject hierarchy in step with the scene, as Slicer's plugin logic (Qt code, not in `slicer-core`) does.

The vtkMRMLSubjectHierarchyNode itself is the real one. Left out: plugins of other extensions, the DICOM plugin's
patients and studies, and the choice of an owner plugin.
"""

import slicer
import vtk

# What the plugins that come with Slicer take in.
SHOWN = (
    "vtkMRMLVolumeNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLModelNode",
    "vtkMRMLTableNode",
    "vtkMRMLTextNode",
    "vtkMRMLPlotChartNode",
    "vtkMRMLPlotSeriesNode",
    "vtkMRMLTransformNode",
    "vtkMRMLSequenceNode",
)
EXCLUDED = slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyExcludeFromTreeAttributeName()


def _is_shown(node) -> bool:
    hidden = node.GetHideFromEditors() or node.GetAttribute(EXCLUDED) is not None
    return not hidden and any(node.IsA(cls) for cls in SHOWN)


class SubjectHierarchyFollower:
    """Gives every shown node an item below the scene when it is added, and takes it away when the node goes."""

    def __init__(self, scene):
        self._scene = scene
        self._tags = [
            scene.AddObserver(scene.NodeAddedEvent, self._added),
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._removed),
            scene.AddObserver(scene.EndImportEvent, self._imported),
            scene.AddObserver(scene.EndCloseEvent, self._closed),
        ]

    def _node(self):
        """The one hierarchy node; asking for it merges what a scene file brought."""
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)

    def _add(self, node) -> None:
        hierarchy = self._node()
        if not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _added(self, scene, event, node):
        if node.IsA("vtkMRMLSubjectHierarchyNode"):
            self._node()
        elif not scene.IsImporting() and _is_shown(node):
            self._add(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _removed(self, scene, event, node):
        if scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        hierarchy = self._node()
        if item := hierarchy.GetItemByDataNode(node):
            hierarchy.RemoveItem(item, False, False)

    def _imported(self, scene, event):
        self._node()
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")):
            node = scene.GetNthNodeByClass(index, "vtkMRMLStorableNode")
            if _is_shown(node):
                self._add(node)

    def _closed(self, scene, event):
        self._node()

    def stop(self) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
