"""What the scene holds, as the files that an analysis reads: the image, the cord and the discs.

An analysis works in the image's own frame (its IJK→RAS): parent transforms of the volume are left out, and its results
go below the same transform. Whatever is given with it is brought into that frame from wherever it lies in the world.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.errors import InputError
from U2ADLib.io import write_volume
from U2ADLib.roi.labels import DISC_NAMES, Discs, disc_labels, moved
from U2ADLib.volume import Volume

from .results import CORD_ID, RUN

NEUTRAL_NAME = "volume"  # a node's name often is the patient's


@dataclass(frozen=True)
class Inputs:
    """Files of one analysis; None for what was not given."""

    volume: Path
    cord: Path | None = None
    discs: Path | None = None


def volume_of(volume_node) -> Volume:
    """A scalar volume node as a `Volume` in the node's own frame, with a copy of its voxels and no name.

    :raises InputError: no node, no image, several values per voxel, or a geometry that no image can have.
    """
    if volume_node is None or not volume_node.GetImageData() or not volume_node.GetImageData().GetNumberOfPoints():
        raise InputError(_("There is no image: choose a volume that has been loaded."))
    components = volume_node.GetImageData().GetNumberOfScalarComponents()
    if not volume_node.IsA("vtkMRMLScalarVolumeNode") or volume_node.IsA("vtkMRMLTensorVolumeNode") or components != 1:
        raise InputError(
            _("{name} holds {number} values per voxel: choose a volume of grey values.").format(
                name=volume_node.GetName(), number=components
            )
        )
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    array = slicer.util.arrayFromVolume(volume_node).transpose().copy()
    return Volume(array, slicer.util.arrayFromVTKMatrix(matrix), NEUTRAL_NAME)


def write_inputs(volume_node, folder: Path | str, cord=None, discs=None, segment_id: str | None = None) -> Inputs:
    """Write volume.nrrd, and cord.nrrd and discs.nrrd where they are given, to an existing folder.

    :param cord: segmentation node, written on the volume's grid, or label map volume node, written on its own.
    :param discs: markups node with one point per disc (see `discs_from_markups`), or label map volume node.
    :param segment_id: of the cord in a segmentation. Without it, it is the only segment or the one with "cord" in its
        name.
    :raises InputError: one of them cannot be used.
    """
    folder = Path(folder)
    volume = volume_of(volume_node)
    labels = {}
    if cord is not None:
        labels["cord"] = cord_of(cord, volume_node, volume, segment_id)
    if discs is not None:
        labels["discs"] = _discs(discs, volume_node, volume)
    paths = {name: folder / f"{name}.nrrd" for name in ("volume", *labels)}
    for name, written in {"volume": volume, **labels}.items():
        write_volume(paths[name], written)
    return Inputs(**paths)


def discs_from_markups(node, volume_node) -> Discs:
    """Control points of a markups node as discs, in RAS mm of the volume's own frame.

    Points are named C2/3, C2-3, C2/C3 or 3 (number of the Spinal Cord Toolbox) to C7/T1; those without a position are
    left out.

    :raises InputError: a point has another name, two have the same, none has a position, or they are out of order.
    """
    points: dict[int, np.ndarray] = {}
    to_volume = _transform(None, volume_node)
    for name, world in _placed_points(node):
        number = disc_number(name)
        if number is None:
            raise InputError(
                _('The point "{name}" in {node} names no disc: rename it to one of {known}, or delete it.').format(
                    name=name, node=node.GetName(), known=", ".join(DISC_NAMES.values())
                )
            )
        if number in points:
            raise InputError(
                _("The disc {disc} is marked twice in {node}: delete or rename one of the points.").format(
                    disc=DISC_NAMES[number], node=node.GetName()
                )
            )
        points[number] = np.array(to_volume.TransformPoint(world))
    if not points:
        raise InputError(_("{node} holds no point: place one on each disc.").format(node=node.GetName()))
    return moved(Discs({}, "sct"), points)


def disc_number(name: str) -> int | None:
    """Spinal Cord Toolbox number of a disc by its name: "C2/3", "C2-C3", "c7/t1", "3"; None where it is no name of one
    from C2/3 to C7/T1."""
    plain = re.sub(r"[\s_–/-]+", "-", name.strip().upper())
    plain = re.sub(r"-C(\d)$", r"-\1", plain)  # "C2-C3" is "C2-3"
    known = {disc.upper(): number for number, disc in SEGMENT_NAMES.items()}
    known |= {str(number): number for number in SEGMENT_NAMES}
    return known.get(plain)


# --- cord ---


def cord_of(node, volume_node, volume: Volume, segment_id: str | None = None) -> Volume:
    """The cord in a segmentation (0 and 1, on the grid of `volume`, which is that of the volume node) or a label map
    (its own values and grid). :raises InputError: it cannot be used.
    """
    if not node.IsA("vtkMRMLSegmentationNode"):
        return _label_map(node, volume_node)
    segment_id = segment_id or _cord_segment(node)
    try:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node)
    except (RuntimeError, AttributeError):  # the latter where the export made no image at all
        array = None
    if array is None or not array.any():
        raise InputError(
            _("The cord in {node} is empty, or lies outside {volume}.").format(
                node=node.GetName(), volume=volume_node.GetName()
            )
        )
    return volume.with_array((array.transpose() > 0).astype(np.uint8))


def _cord_segment(node):
    """Id of the only segment, or of the one with "cord" in its name; of results their cord's, whatever its name."""
    segmentation = node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    if node.GetAttribute(RUN) and CORD_ID in ids:
        return CORD_ID
    if not ids:
        raise InputError(_("{node} has no segments: draw the cord, or choose none.").format(node=node.GetName()))
    cords = [i for i in ids if "cord" in segmentation.GetSegment(i).GetName().lower()]
    chosen = ids if len(ids) == 1 else cords
    if len(chosen) != 1:
        message = (
            _('Several segments in {node} have "cord" in their names: {names}. Leave it in the name of one only.')
            if chosen
            else _('None of the segments in {node} has "cord" in its name: {names}. Rename the one of the cord.')
        )
        names = ", ".join(segmentation.GetSegment(i).GetName() for i in chosen or ids)
        raise InputError(message.format(node=node.GetName(), names=names))
    return chosen[0]


def _label_map(node, volume_node):
    """A label map on its own grid, moved to where it lies in the volume's frame."""
    labels = volume_of(node)
    between = _transform(node, volume_node)
    linear = vtk.vtkTransform()
    if not slicer.vtkMRMLTransformNode.IsGeneralTransformLinear(between, linear):
        raise InputError(
            _("{node} lies below a transform that bends it: harden the transform first.").format(node=node.GetName())
        )
    moved_by = slicer.util.arrayFromVTKMatrix(linear.GetMatrix())
    return Volume(labels.array, moved_by @ labels.affine, labels.name)


# --- discs ---


def _discs(node, volume_node, volume):
    """Disc labels as a volume."""
    if not node.IsA("vtkMRMLMarkupsNode"):
        return _label_map(node, volume_node)
    points = discs_from_markups(node, volume_node).points
    array = disc_labels(volume, points)
    if outside := [DISC_NAMES[number] for number in points if not (array == number).any()]:
        raise InputError(
            _("{discs} in {node} lie outside {volume}: move or delete them.").format(
                discs=", ".join(outside), node=node.GetName(), volume=volume_node.GetName()
            )
        )
    return volume.with_array(array)


def _placed_points(node) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Name and position in the world of each control point that has a position."""
    world = [0.0, 0.0, 0.0]
    for k in range(node.GetNumberOfControlPoints()):
        if node.GetNthControlPointPositionStatus(k) == node.PositionDefined:
            node.GetNthControlPointPositionWorld(k, world)
            yield node.GetNthControlPointLabel(k), tuple(world)


def _transform(source, target):
    """From the frame of a node (None: the world) to that of another."""
    transform = vtk.vtkGeneralTransform()
    frames = (node.GetParentTransformNode() if node is not None else None for node in (source, target))
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*frames, transform)
    return transform
