"""An analysis as nodes of the scene, and back.

The nodes of one run are linked by node references of its record node (role "U2AD.<role>") and carry its id in the
attribute "U2AD.run"; nothing is found by name. The record holds `analysis.json`, the state the maps of the standard
slices: with the input volume they give the `Analysis` back after the scene was saved and loaded.

Nodes lie on the input's own grid and below its parent transform. The input is never changed.
"""

import base64
import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from U2ADLib.errors import InputError
from U2ADLib.volume import Volume, reorient, volume_hash

from . import chart, display, findings

if TYPE_CHECKING:
    from U2ADLib.analysis import Analysis
    from U2ADLib.roi.labels import Discs

RUN = "U2AD.run"  # node attribute: id of the run
ROLE = "U2AD."  # prefix of the record's node references
INPUT = ROLE + "input"

MAPS = ("anomaly", "error", "uncertainty", "reconstruction")
_CLASSES = {
    "record": "vtkMRMLTextNode",
    "state": "vtkMRMLTextNode",
    **dict.fromkeys(display.COLOUR_ROLES, "vtkMRMLColorTableNode"),
    **dict.fromkeys(MAPS, "vtkMRMLScalarVolumeNode"),
    "segmentation": "vtkMRMLSegmentationNode",
    "discs": "vtkMRMLMarkupsFiducialNode",
    "segments": "vtkMRMLTableNode",
    "findings": "vtkMRMLTableNode",
    "curve": "vtkMRMLTableNode",
    **dict.fromkeys(chart.TABLE_ROLES, "vtkMRMLTableNode"),
    **dict.fromkeys(chart.SERIES_ROLES, "vtkMRMLPlotSeriesNode"),
    "chart": "vtkMRMLPlotChartNode",
}
# Of no use to a person in a list of nodes.
_HIDDEN = {"record", "state", *display.COLOUR_ROLES, *chart.TABLE_ROLES, *chart.SERIES_ROLES}

CORD_ID = "cord"  # of the segment; the others' ids are the names of the cord's segments
# Both codes are in DICOM's list of segmentation types (PS3.16, CID 7150 and 7153). What "C2-3" is has no code of its
# own: it is the stretch of cord behind a disc, not the neurological segment.
TERMINOLOGY = (
    "Segmentation category and type - DICOM master list"
    "~SCT^123037004^Anatomical Structure~SCT^2748008^Spinal cord~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class ResultNodes:
    """Every node of one run; None for what the user deleted.

    :ivar folder_item: of the subject hierarchy; its invalid item's id where there is no folder.
    :ivar by_role: "anomaly", "segmentation", … → node.
    """

    run: str
    folder_item: int
    by_role: dict = field(repr=False)

    def __getitem__(self, role: str):
        """The node of a role; None where there is none, or no longer one in the scene."""
        node = self.by_role.get(role)
        return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None

    def __iter__(self) -> Iterator:
        """All nodes that are in the scene."""
        return (self[role] for role in self.by_role if self[role] is not None)

    @property
    def input(self):
        """The volume node that was analysed, None after it was deleted."""
        return self.record.GetNodeReference(INPUT) if self.record else None

    @property
    def maps(self) -> dict:
        """ "anomaly", "error", "uncertainty" and "reconstruction" → volume node or None."""
        return {name: self[name] for name in MAPS}

    segmentation = property(lambda self: self["segmentation"])
    discs = property(lambda self: self["discs"])
    segments_table = property(lambda self: self["segments"])
    findings_table = property(lambda self: self["findings"])
    curve_table = property(lambda self: self["curve"])
    chart = property(lambda self: self["chart"])
    record = property(lambda self: self["record"])
    state = property(lambda self: self["state"])


@dataclass(frozen=True)
class _Content:
    """All that the nodes of a run hold, made before the scene is touched."""

    maps: dict  # name → (I, J, K) float32
    cord: np.ndarray  # (I, J, K) uint8
    segments: np.ndarray  # (I, J, K) uint8, see `Analysis.on_input`
    record: str
    state: str


def show(analysis: "Analysis", volume_node, into: ResultNodes | None = None, keep_cord: bool = False) -> ResultNodes:
    """Make the nodes of a run, or update those of the run `into`, whose deleted ones are made again.

    :param volume_node: what was analysed; the analysis must lie on its grid, and `into` must be a run of it.
    :param keep_cord: leave the cord's segment as it is, where there is one: the user may have corrected it.
    :raises InputError: it does not. On any error no new node stays in the scene.
    """
    if into and into.input not in (None, volume_node):
        raise ValueError(f"The run {into.run} is not one of {volume_node.GetName()}.")
    _check_grid(analysis.volume, volume_node)
    content = _content(analysis)
    run = into.run if into else secrets.token_hex(8)
    nodes = {role: into[role] if into else None for role in _CLASSES}
    made = []
    try:
        for role, kind in _CLASSES.items():
            if nodes[role] is None:
                nodes[role] = _new_node(kind, role, run, volume_node)
                made.append(nodes[role])
        record = nodes["record"]
        record.SetNodeReferenceID(INPUT, volume_node.GetID())
        for role, node in nodes.items():
            if node is not record:
                record.SetNodeReferenceID(ROLE + role, node.GetID())
        result = ResultNodes(run, _file_into_folder(nodes, run, volume_node), nodes)
        _fill(result, analysis, content, volume_node, made, keep_cord)
    except BaseException:
        folder = _folder(run, nodes)
        for node in made:
            _remove_node(node)
        _remove_folder_if_empty(folder)
        raise
    return result


def update_flags(nodes: ResultNodes, analysis: "Analysis") -> None:
    """Show other thresholds of the same run: table, colours, the chart's lines and the record; the maps stay."""
    _fill_tables(nodes, analysis)
    _colour_segments(nodes.segmentation, analysis)
    display.set_colour_range(nodes, analysis)
    chart.fill(nodes, analysis)
    if nodes.record:
        old = json.loads(nodes.record.GetText())
        nodes.record.SetText(_record_text(analysis, old["state_sha256"]))


def find(volume_node) -> list[ResultNodes]:
    """The runs of a volume that are in the scene, the newest last."""
    return [nodes for nodes in every_run() if nodes.input is volume_node]


def keep_corrections(nodes: ResultNodes, analysis: "Analysis", volume_node) -> list:
    """Copy what the user corrected in the segments and the discs of a run, before `analysis` takes their place.

    A part is copied that is neither as the run made it nor as the new analysis has it. What was only taken away from
    the segment of a level is not copied: that happens when the cord is painted.

    :returns: the new nodes, named "… corrected".
    """
    analyses = [analysis]
    with suppress(InputError):  # where the old run cannot be read, only what the new one has is known
        analyses.append(restore(nodes, volume_node))
    kept = [_keep_segments(nodes, analyses, volume_node), _keep_discs(nodes, analyses)]
    kept = [node for node in kept if node]
    hierarchy = _hierarchy()
    if nodes.folder_item != hierarchy.GetInvalidItemID():
        for node in kept:
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), nodes.folder_item)
    return kept


def moved_discs(nodes: ResultNodes, analysis: "Analysis") -> "Discs | None":
    """The discs of an analysis with those points that were moved, added or deleted in the scene since; None where none
    is known in either. :raises InputError: the points in the scene cannot be used.
    """
    from U2ADLib.roi.labels import Discs, moved

    from .inputs import discs_from_markups

    points = _disc_points(analysis)
    discs = Discs(points, analysis.region.disc_convention)
    if nodes.discs is None or not nodes.discs.GetNumberOfControlPoints():
        return discs if points else None
    placed = discs_from_markups(nodes.discs, nodes.input).points
    changed = {n: point for n, point in placed.items() if n not in points or not _is_same_place(point, points[n])}
    left = {n: point for n, point in points.items() if n in placed}
    return moved(Discs(left, discs.convention or "sct"), changed)


def corrected_cord(nodes: ResultNodes, analysis: "Analysis") -> np.ndarray | None:
    """(I, J, K) bool: the cord's segment of a run, where it is not the cord that was analysed.

    None where it is, and where the segment was deleted or emptied: then there is no cord to analyse with.
    """
    there = _voxels(nodes.segmentation, CORD_ID, nodes.input) if nodes.segmentation and nodes.input else None
    return None if there is None or np.array_equal(there, analysis.on_input("cord") > 0) else there


def cord_was_given(nodes: ResultNodes) -> bool:
    """Whether the cord of a run was given to it, and not found by a model; False where its record does not say."""
    from U2ADLib.roi.locate import FOUND

    try:
        convention = json.loads(nodes.record.GetText())["provenance"]["configuration"]["cord_convention"]
    except (AttributeError, ValueError, KeyError, TypeError):
        return False
    return convention != FOUND


def restore(nodes: ResultNodes, volume_node) -> "Analysis":
    """The analysis that is shown in the nodes of a run, also after the scene was saved and loaded.

    :raises InputError: the volume was changed since, or what is needed was deleted or damaged.
    """
    from U2ADLib.saved import STATE, read_state

    if nodes.record is None or nodes.state is None:
        raise InputError(_("The saved state of this run was deleted from the scene: analyse the volume again."))
    try:
        record = json.loads(nodes.record.GetText())
        state = base64.b64decode(nodes.state.GetText(), validate=True)
        source = record["provenance"]["input"]
        grid = Volume(np.empty(record["scene"]["shape"], record["scene"]["type"]), record["scene"]["affine"])
    except (ValueError, TypeError, KeyError):
        raise InputError(_("The saved state of this run cannot be read: analyse the volume again.")) from None
    volume = _as_analysed(volume_node, grid, source)
    here = record | {"provenance": record["provenance"] | {"input": source | {"sha256": volume_hash(volume)}}}
    with tempfile.TemporaryDirectory(prefix="U2AD-") as folder:
        (Path(folder) / STATE).write_bytes(state)
        return replace(read_state(Path(folder), here, volume), provenance=record["provenance"])


def _as_analysed(volume_node, grid, source):
    """The node's volume, after making sure that it is the one that was analysed on the grid `grid`.

    Neither exact numbers nor left-handed axes survive a file: affines are rounded in the last digit, and Slicer flips
    an axis of a left-handed volume when it loads it. Voxels and places must be the same.
    """
    array = slicer.util.arrayFromVolume(volume_node).transpose().astype(grid.array.dtype, copy=False)
    volume = Volume(array, _affine(volume_node), source["name"])
    standing, change = reorient(volume, grid.axis_codes)
    if standing.same_grid(grid) and volume_hash(grid.with_array(standing.array)) == source["sha256"]:
        flipped = any(change.flips) or change.axes != (0, 1, 2)
        return volume if flipped else Volume(array, grid.affine, source["name"])
    raise InputError(
        _("The results are those of another image than {name}: analyse it again.").format(name=volume_node.GetName())
    )


def remove(nodes: ResultNodes) -> None:
    """Delete every node of a run, and its folder where nothing of the user's is left in it."""
    folder = _folder(nodes.run, nodes.by_role)
    for node in list(nodes):
        _remove_node(node)
    _remove_folder_if_empty(folder)


# --- content ---


def _check_grid(volume, volume_node):
    """:raises InputError: the volume does not lie on the node's grid."""
    image = volume_node.GetImageData()
    shape = image.GetDimensions() if image else (0, 0, 0)
    if tuple(shape) != volume.array.shape or not volume.same_grid(Volume(np.empty(shape), _affine(volume_node))):
        raise InputError(
            _("{name} is not the volume that was analysed: its grid is another. Analyse it again.").format(
                name=volume_node.GetName()
            )
        )


def _affine(volume_node):
    """(4, 4) voxel index → RAS mm of a volume node, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _content(analysis):
    from U2ADLib.saved import STATE, write_state

    with tempfile.TemporaryDirectory(prefix="U2AD-") as folder:
        path = Path(folder) / STATE
        write_state(path, analysis)
        state = path.read_bytes()
    return _Content(
        maps={name: analysis.on_input(name) for name in MAPS},
        cord=analysis.on_input("cord"),
        segments=analysis.on_input("segments"),
        record=_record_text(analysis, sha256(state).hexdigest()),
        state=base64.b64encode(state).decode("ascii"),
    )


def _record_text(analysis, state_sha256):
    """`analysis.json` as it is written beside results, and the exact geometry, see `restore`."""
    from U2ADLib.report import analysis_record

    volume = analysis.volume
    geometry = {"affine": volume.affine.tolist(), "shape": volume.array.shape, "type": volume.array.dtype.str}
    record = analysis_record(analysis) | {"state_sha256": state_sha256, "scene": geometry}
    return json.dumps(record)


# --- corrections ---


def _keep_segments(nodes, analyses, volume_node):
    """A segmentation with the corrected segments of a run; None where there are none."""
    from U2ADLib.config import SEGMENT_NAMES

    node = nodes.segmentation
    if node is None:
        return None
    numbers = {name: number for number, name in SEGMENT_NAMES.items()}
    cords = [one.on_input("cord") > 0 for one in analyses]
    levels = [one.on_input("segments") for one in analyses]
    corrected = []
    for key in (CORD_ID, *numbers):
        there = _voxels(node, key, volume_node)
        if there is None:
            continue
        if key == CORD_ID:
            is_known = any(np.array_equal(there, cord) for cord in cords)
        else:
            is_known = any(not (there & (level != numbers[key])).any() for level in levels)
        if not is_known:
            corrected.append(key)
    if not corrected:
        return None
    copy = _corrected(node)
    copy.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    for key in corrected:
        copy.GetSegmentation().CopySegmentFromSegmentation(node.GetSegmentation(), key)
    copy.CreateDefaultDisplayNodes()
    copy.GetDisplayNode().SetVisibility(False)
    return copy


def _voxels(node, key, volume_node):
    """(I, J, K) bool of a segment on the volume's grid; None where it is empty or not there."""
    if node.GetSegmentation().GetSegment(key) is None:
        return None
    try:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, key, volume_node)
    except (RuntimeError, AttributeError):  # the latter where the export made no image at all
        return None
    return array.transpose() > 0 if array is not None and array.any() else None


def _keep_discs(nodes, analyses):
    """Markups with the discs as they lie in the scene; None where an analysis has them so."""
    from U2ADLib.roi.labels import DISC_NAMES

    node = nodes.discs
    if node is None or not node.GetNumberOfControlPoints():
        return None
    lie = [(node.GetNthControlPointLabel(k), node.GetNthControlPointPosition(k)) for k in _control_points(node)]
    for one in analyses:
        points = [(DISC_NAMES[n], point) for n, point in _disc_points(one).items()]
        if len(points) == len(lie) and all(
            name == known and _is_same_place(point, place)
            for (name, point), (known, place) in zip(lie, points, strict=True)
        ):
            return None
    copy = _corrected(node)
    for name, point in lie:
        copy.AddControlPoint(vtk.vtkVector3d(*point), name)
    copy.CreateDefaultDisplayNodes()
    copy.GetDisplayNode().SetVisibility(False)
    return copy


def _control_points(node):
    """Numbers of the points that have been placed."""
    every = range(node.GetNumberOfControlPoints())
    return [k for k in every if node.GetNthControlPointPositionStatus(k) == node.PositionDefined]


def _disc_points(analysis):
    """Number → RAS mm (3,) of the discs of an analysis."""
    grid, discs = analysis.stack.grid, analysis.region.discs or {}
    return {n: grid.stack_to_ras(np.reshape(point, (1, 3)))[0] for n, point in discs.items()}


def _is_same_place(point, other):
    return np.abs(np.asarray(point) - other).max() <= _SAME_PLACE_MM


def _corrected(node):
    """A new node of the same class, below the same transform."""
    name = slicer.mrmlScene.GenerateUniqueName(_("{name} corrected").format(name=node.GetName()))
    copy = slicer.mrmlScene.AddNewNodeByClass(node.GetClassName(), name)
    copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    return copy


# --- nodes ---


def _new_node(kind, role, run, volume_node):
    names = {
        "record": _("record"),
        "state": _("state"),
        "anomaly": _("anomaly"),
        "error": _("error"),
        "uncertainty": _("uncertainty"),
        "reconstruction": _("reconstruction"),
        "segmentation": _("segmentation"),
        "discs": _("discs"),
        "segments": _("segments"),
        "findings": _("findings"),
        "curve": _("AnoCurve table"),
        "chart": _("AnoCurve"),
    }
    node = slicer.mrmlScene.CreateNodeByClass(kind)
    node.UnRegister(None)
    node.SetAttribute(RUN, run)
    node.SetHideFromEditors(role in _HIDDEN)
    name = f"{volume_node.GetName()} {names.get(role, role)}"
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    return slicer.mrmlScene.AddNode(node)


def _remove_node(node):
    """Remove a node with its display and storage nodes."""
    scene = slicer.mrmlScene
    owned = []
    if node.IsA("vtkMRMLDisplayableNode"):
        owned += [node.GetNthDisplayNode(k) for k in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        owned += [node.GetNthStorageNode(k) for k in range(node.GetNumberOfStorageNodes())]
    for one in (node, *owned):
        if one is not None and scene.IsNodePresent(one):
            scene.RemoveNode(one)


def every_run() -> Iterator[ResultNodes]:
    """The runs of the scene, whatever volume they belong to."""
    for record in slicer.util.getNodesByClass("vtkMRMLTextNode"):
        run = record.GetAttribute(RUN)
        if run and record.GetNodeReferenceID(INPUT):
            by_role = {role: record.GetNodeReference(ROLE + role) for role in _CLASSES} | {"record": record}
            yield ResultNodes(run, _folder(run, by_role), by_role)


# --- subject hierarchy ---


def _hierarchy():
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def _folder(run, by_role):
    """The item of the folder that holds a run's nodes; the invalid item where there is none.

    Not any folder with the run's id: a scene may be loaded twice.
    """
    hierarchy = _hierarchy()
    for node in by_role.values():
        item = hierarchy.GetItemByDataNode(node) if node else hierarchy.GetInvalidItemID()
        if item != hierarchy.GetInvalidItemID():
            parent = hierarchy.GetItemParent(item)
            if hierarchy.GetItemAttribute(parent, RUN) == run:
                return parent
    return hierarchy.GetInvalidItemID()


def _file_into_folder(nodes, run, volume_node):
    """Put the visible nodes into the run's folder, which is made beside the input where it is missing."""
    hierarchy = _hierarchy()
    folder = _folder(run, nodes)
    if folder == hierarchy.GetInvalidItemID():
        item = hierarchy.GetItemByDataNode(volume_node)
        has_item = item != hierarchy.GetInvalidItemID()
        parent = hierarchy.GetItemParent(item) if has_item else hierarchy.GetSceneItemID()
        folder = hierarchy.CreateFolderItem(parent, f"{volume_node.GetName()} U2AD")
        hierarchy.SetItemAttribute(folder, RUN, run)
    for role, node in nodes.items():
        if role in _HIDDEN:
            continue
        item = hierarchy.GetItemByDataNode(node)
        if item == hierarchy.GetInvalidItemID():
            hierarchy.CreateItem(folder, node)
        else:
            hierarchy.SetItemParent(item, folder)
    return folder


def _remove_folder_if_empty(folder):
    hierarchy = _hierarchy()
    if folder != hierarchy.GetInvalidItemID() and not hierarchy.GetNumberOfItemChildren(folder):
        hierarchy.RemoveItem(folder)


# --- filling ---


def _fill(nodes, analysis, content, volume_node, made, keep_cord):
    """Give every node its content. Only the nodes in `made` get our looks: the user may have changed the others'."""

    def is_new(node):  # or its display was deleted; some new nodes are given one by Slicer's own logics
        return node in made or node.GetDisplayNode() is None

    nodes.record.SetText(content.record)
    nodes.state.SetText(content.state)
    display.fill_colours(nodes)
    for name, array in content.maps.items():
        _fill_map(nodes[name], array, volume_node)
        if is_new(nodes[name]):
            display.style_map(nodes, name)
    nodes["anomaly"].SetAttribute(display.SCORE, analysis.score)
    display.set_colour_range(nodes, analysis)
    _fill_segmentation(nodes.segmentation, analysis, content, volume_node, keep_cord)
    if is_new(nodes.segmentation):
        display.style_segmentation(nodes.segmentation)
    _colour_segments(nodes.segmentation, analysis)
    _fill_discs(nodes.discs, analysis, volume_node)
    if is_new(nodes.discs):
        display.style_discs(nodes.discs)
    _fill_tables(nodes, analysis)
    chart.fill(nodes, analysis)


def _fill_map(node, array, volume_node):
    changing = node.StartModify()
    node.CopyOrientation(volume_node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose()))
    node.EndModify(changing)


def _fill_segmentation(node, analysis, content, volume_node, keep_cord):
    """One segment for the cord, one for each covered segment; segments that the user added are kept."""
    changing = node.StartModify()
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    segmentation = node.GetSegmentation()
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segmentation.SetSourceRepresentationName(binary)
    from U2ADLib.config import SEGMENT_NAMES

    keeps_cord = keep_cord and segmentation.GetSegment(CORD_ID) is not None
    for name in SEGMENT_NAMES.values() if keeps_cord else (CORD_ID, *SEGMENT_NAMES.values()):
        if segmentation.GetSegment(name):
            segmentation.RemoveSegment(name)
    parts = [] if keeps_cord else [(CORD_ID, _("Spinal cord"), 1, _oriented(content.cord, volume_node))]
    shared = _oriented(content.segments, volume_node)  # they do not overlap, so they share one image
    parts += [(segment.name, segment.name, segment.number, shared) for segment in analysis.segments]
    for key, name, value, image in parts:
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), TERMINOLOGY)
        segment.SetLabelValue(value)
        segment.AddRepresentation(binary, image)
        segmentation.AddSegment(segment, key)
    node.EndModify(changing)


def _oriented(labels, volume_node):
    """Labels (I, J, K) uint8 as an image with the geometry of the volume, without its parent transform."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(labels.shape)
    scalars = numpy_to_vtk(labels.ravel(order="F"), deep=True)
    image.GetPointData().SetScalars(scalars)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(_affine(volume_node)))
    return image


def _colour_segments(node, analysis):
    """Flagged segments in a warm colour, the others in a quiet one."""
    if node is None:
        return
    flagged = set(analysis.flagged)
    segmentation = node.GetSegmentation()
    colours = {CORD_ID: display.cord_colour()}
    colours |= {s.name: display.segment_colour(s.name in flagged) for s in analysis.segments}
    for key, colour in colours.items():
        if segment := segmentation.GetSegment(key):
            segment.SetColor(*colour)
            display.emphasise_segment(node, key, key in flagged)


def _fill_discs(node, analysis, volume_node):
    """Points at the discs' tips. Those that are where they should be are left alone, as one may be in the user's
    hand."""
    from U2ADLib.roi.labels import DISC_NAMES

    points = {DISC_NAMES[n]: point for n, point in _disc_points(analysis).items()}
    changing = node.StartModify()
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    if [node.GetNthControlPointLabel(k) for k in range(node.GetNumberOfControlPoints())] != list(points):
        node.RemoveAllControlPoints()
        for name, point in points.items():
            node.AddControlPoint(vtk.vtkVector3d(*point), name)
    for k, point in enumerate(points.values()):
        if not _is_same_place(node.GetNthControlPointPosition(k), point):
            node.SetNthControlPointPosition(k, *point)
    node.EndModify(changing)


def _fill_tables(nodes, analysis):
    if nodes.segments_table:
        _fill_segments_table(nodes.segments_table, analysis)
    if nodes.findings_table:
        chart.set_columns(nodes.findings_table, findings.table_columns(analysis))


def _fill_segments_table(node, analysis):
    from U2ADLib.pictures.analysis import slice_label

    segments = analysis.segments
    threshold = analysis.thresholds.segment if analysis.thresholds else np.nan
    words = {True: _("yes"), False: _("no"), None: ""}
    chart.set_columns(
        node,
        {
            "segment": [s.name for s in segments],
            "score": [s.score for s in segments],
            "threshold": [threshold for s in segments],
            "flagged": [words[s.flagged] for s in segments],
            "position_mm": [s.peak_mm for s in segments],
            "slice": [slice_label(analysis, s.peak_slice) for s in segments],
            "score_in_use": [analysis.score for s in segments],
        },
    )
