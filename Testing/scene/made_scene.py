"""The made-up analysis of `Testing/core/made_analysis.py` in a scene."""

import sys
from pathlib import Path

import numpy as np
import slicer
import vtk

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))

from made_analysis import LESION, LESION_SLICE, THRESHOLDS, made_analysis, turn

from U2ADLib.volume import Volume


def volume_node(volume: Volume, name: str = "neck", transform: np.ndarray | None = None):
    """A volume as the node Slicer would make of its file; `transform` (4, 4) becomes a parent transform."""
    matrix = slicer.util.vtkMatrixFromArray(volume.affine)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(matrix)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.array.transpose()))
    node.CreateDefaultDisplayNodes()
    if transform is not None:
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(transform))
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def node_volume(node) -> Volume:
    """A volume node as a `Volume` in its own RAS, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    array = slicer.util.arrayFromVolume(node).transpose()
    return Volume(array, slicer.util.arrayFromVTKMatrix(matrix), node.GetName())


__all__ = ["LESION", "LESION_SLICE", "THRESHOLDS", "made_analysis", "node_volume", "turn", "volume_node"]
