"""How the nodes of a run look in the slice views: colours, legend, layers, layout, and where the views are.

Everything is done on MRML nodes and logics; without views, layout manager or main window there is just nothing to show.
Positions are mm along the cord from its upper end; points are RAS mm, in the world where a parent transform applies.
"""

from typing import TYPE_CHECKING

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from U2ADLib.analysis import Analysis

    from .results import ResultNodes

SCORE = "U2AD.score"  # attribute of an anomaly map: name of the score that it shows
HIDDEN = "U2AD.hidden"  # attribute of what was hidden because another run is shown, and not by the user


def score_title(name: str) -> str:
    """A score in words: "default score"."""
    return {"default": _("default score"), "paper": _("paper's score")}.get(name, name)


# --- colours ---

HEAT, VIOLET_GREEN = "colours.heat", "colours.uncertainty"
COLOUR_ROLES = (HEAT, VIOLET_GREEN)
_COLOUR_OF = {"anomaly": HEAT, "error": HEAT, "uncertainty": VIOLET_GREEN}
# Perceptually uniform, in steps of 1/8, after "viridis" of van der Walt and Smith (CC0).
_VIRIDIS = np.array([
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140), (40, 174, 128), (94, 201, 98),
    (173, 220, 48), (253, 231, 37),
]) / 255  # fmt: skip
_STEPS = 256
_QUIET_SEGMENT = (150 / 255, 176 / 255, 203 / 255)


def fill_colours(nodes: "ResultNodes") -> None:
    """The colour tables of a run: as in the pictures of a report, the weaker the more transparent."""
    from U2ADLib.pictures.analysis import MOST_OPAQUE, OPAQUE_FROM, heat_colours

    steps = np.linspace(0, 1, _STEPS)
    at = steps * (len(_VIRIDIS) - 1)
    viridis = np.stack([np.interp(at, np.arange(len(_VIRIDIS)), _VIRIDIS[:, c]) for c in range(3)], axis=-1)
    opacity = MOST_OPAQUE * np.clip(steps / OPAQUE_FROM, 0, 1)
    for role, colours in ((HEAT, heat_colours(steps)), (VIOLET_GREEN, viridis)):
        node = nodes[role]
        if node.GetNumberOfColors() == _STEPS:
            continue  # they never change
        changing = node.StartModify()
        node.SetTypeToUser()
        node.SetNumberOfColors(_STEPS)
        node.GetLookupTable().SetTableRange(0, _STEPS - 1)
        for k in range(_STEPS):
            node.SetColor(k, f"{k}", *colours[k], opacity[k])
        node.EndModify(changing)


def cord_colour() -> tuple[float, float, float]:
    """Outline of the cord, RGB 0–1."""
    from U2ADLib.pictures.canvas import SKY

    return _unit(SKY)


def segment_colour(flagged: bool) -> tuple[float, float, float]:
    """Of a segment, RGB 0–1: warm where it is flagged, quiet otherwise."""
    from U2ADLib.pictures.canvas import ORANGE

    return _unit(ORANGE) if flagged else _QUIET_SEGMENT


def _unit(colour):
    return tuple(channel / 255 for channel in colour)


# --- looks of new nodes ---


def style_map(nodes: "ResultNodes", name: str) -> None:
    """Display of a new map; `set_colour_range` sets what depends on the analysis."""
    node = nodes[name]
    node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    shown.AutoWindowLevelOff()
    shown.SetInterpolate(False)  # a voxel is shown as what was computed for it
    if name in _COLOUR_OF:
        shown.SetAndObserveColorNodeID(nodes[_COLOUR_OF[name]].GetID())
    else:
        shown.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")


def set_colour_range(nodes: "ResultNodes", analysis: "Analysis") -> None:
    """Ranges of colours and the lowest values shown, from the thresholds and the values of the analysis."""
    from U2ADLib.pictures.analysis import heat_top

    top = heat_top(analysis)
    lowest = analysis.thresholds.segment if analysis.thresholds else 0.0  # weaker anomaly only where the user asks
    variance = float(analysis.reconstruction.epistemic.max()) or 1.0
    ranges = {"anomaly": (top, lowest), "error": (top, lowest), "uncertainty": (variance, 0.0)}
    for name, (highest, least) in ranges.items():
        if shown := _display_of(nodes[name]):
            changing = shown.StartModify()
            shown.SetWindowLevelMinMax(0.0, highest)
            set_threshold(nodes, name, least)
            shown.EndModify(changing)
    if shown := _display_of(nodes["reconstruction"]):
        if like := _display_of(nodes.input):
            shown.SetWindowLevel(like.GetWindow(), like.GetLevel())
        inside = analysis.reconstruction.mean[analysis.region.cord[list(analysis.slices)]]
        # At the cord's border the values fade to 0, by interpolation alone.
        set_threshold(nodes, "reconstruction", 0.5 * float(analysis.stack.to_intensity(np.median(inside))))


def _display_of(node):
    return node.GetDisplayNode() if node else None


def set_threshold(nodes: "ResultNodes", name: str, lowest: float) -> None:
    """Hide what is not above `lowest` in a map."""
    shown = nodes[name].GetDisplayNode()
    highest = float(np.finfo(np.float32).max)
    shown.AutoThresholdOff()
    shown.SetThreshold(float(np.nextafter(np.float32(lowest), np.float32(1))), highest)
    shown.ApplyThresholdOn()


def style_segmentation(node) -> None:
    """Outlines that leave the image and the map visible."""
    node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    shown.SetPreferredDisplayRepresentationName2D(
        slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    )
    shown.SetSliceIntersectionThickness(1)


def emphasise_segment(node, key: str, flagged: bool) -> None:
    """A flagged segment is filled a little and its outline is opaque; of the others there is a faint outline."""
    shown = node.GetDisplayNode()
    if shown is None:
        return
    changing = shown.StartModify()
    shown.SetSegmentOpacity2DFill(key, 0.08 if flagged else 0.0)
    shown.SetSegmentOpacity2DOutline(key, 1.0 if flagged else 0.45)
    shown.EndModify(changing)


def show_segment(node, key: str) -> None:
    """Make sure that a segment can be seen, whatever the user had hidden."""
    if node.GetDisplayNode() is None:
        style_segmentation(node)
    shown = node.GetDisplayNode()
    changing = shown.StartModify()
    shown.SetVisibility(True)
    shown.SetSegmentVisibility(key, True)
    shown.EndModify(changing)


def style_discs(node) -> None:
    """Small points with names, drawn on every sagittal slice and in no other view."""
    node.CreateDefaultDisplayNodes()
    shown = node.GetDisplayNode()
    changing = shown.StartModify()
    shown.SetGlyphTypeFromString("Circle2D")
    shown.SetUseGlyphScale(True)
    shown.SetGlyphScale(1.2)
    shown.SetTextScale(2.6)
    for set_colour in (shown.SetColor, shown.SetSelectedColor):
        set_colour(0.92, 0.92, 0.92)
    shown.SetSliceProjection(True)
    shown.SetSliceProjectionUseFiducialColor(True)
    shown.SetSliceProjectionOpacity(0.9)
    shown.SetPropertiesLabelVisibility(False)
    shown.GetTextProperty().SetJustificationToRight()
    if view := slice_node(SAGITTAL):
        shown.SetViewNodeIDs([view.GetID()])
    shown.EndModify(changing)


# --- layers and legend ---


def show_map(
    nodes: "ResultNodes", which: str | None = "anomaly", opacity: float | None = None, threshold: float | None = None
) -> None:
    """Lay a map of the run over the image in all slice views.

    :param which: "anomaly", "error", "uncertainty", "reconstruction", or None for the image alone.
    :param opacity: of the layer, 0–1. :param threshold: the map is shown above it. None leaves either as it is.
    """
    node = nodes[which] if which else None
    ours = {one.GetID() for one in nodes.maps.values() if one}
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        changing = composite.StartModify()
        if nodes.input:
            composite.SetBackgroundVolumeID(nodes.input.GetID())
        if node:
            composite.SetForegroundVolumeID(node.GetID())
        elif composite.GetForegroundVolumeID() in ours:
            composite.SetForegroundVolumeID(None)
        if opacity is not None:
            composite.SetForegroundOpacity(opacity)
        composite.EndModify(changing)
    if node and threshold is not None:
        set_threshold(nodes, which, threshold)
    show_legend(nodes, which)


def swap(nodes: "ResultNodes", instead_of: "ResultNodes") -> None:
    """Show what belongs to one run and hide what belongs to another one of the same volume: outlines, discs, legend
    and chart; `show_map` lays the map over the image. Both anomaly maps get the same colours, so that they compare: up
    to the higher one's top, and from the higher one's threshold."""
    hide(instead_of)
    _unhide(nodes)
    show_chart(nodes.chart)
    looks = [shown for run in (nodes, instead_of) if (shown := _display_of(run["anomaly"]))]
    highest = max((shown.GetWindowLevelMax() for shown in looks), default=1.0)
    lowest = max((shown.GetLowerThreshold() for shown in looks), default=0.0)
    for shown in looks:
        changing = shown.StartModify()
        shown.SetWindowLevelMinMax(0.0, highest)
        shown.SetThreshold(lowest, float(np.finfo(np.float32).max))
        shown.EndModify(changing)


def show_only(nodes: "ResultNodes | None") -> None:
    """Hide what belongs to any other run of the scene (of every run for None), and show again what was so hidden."""
    from . import results

    for run in results.every_run():
        if nodes is None or run.record is not nodes.record:
            hide(run)
    if nodes:
        _unhide(nodes)


def hide(nodes: "ResultNodes") -> None:
    """Hide a run's outlines, discs and legend, as another run is shown. Layers of the views stay."""
    for node in (nodes.segmentation, nodes.discs):
        if (shown := _display_of(node)) and shown.GetVisibility():
            shown.SetVisibility(False)
            node.SetAttribute(HIDDEN, "1")
    show_legend(nodes, None)


def _unhide(nodes):
    """Show what `hide` has hidden; what the user has hidden stays so."""
    for node in (nodes.segmentation, nodes.discs):
        if (shown := _display_of(node)) and node.GetAttribute(HIDDEN):
            shown.SetVisibility(True)
            node.RemoveAttribute(HIDDEN)


def show_legend(nodes: "ResultNodes", which: str | None) -> None:
    """Only the legend of the map `which`, in the sagittal view; none for the reconstruction, which is an image."""
    titles = {"anomaly": _anomaly_title(nodes), "error": _("Error"), "uncertainty": _("Uncertainty")}
    logic = slicer.modules.colors.logic()
    for name, title in titles.items():
        if nodes[name] is None:
            continue
        legend = logic.GetColorLegendDisplayNode(nodes[name])
        if legend is None and name == which:
            legend = logic.AddDefaultColorLegendDisplayNode(nodes[name])
            _style_legend(legend, title)
        if legend:
            if name == "anomaly" and legend.GetTitleText().startswith(_("Anomaly")):  # else it is the user's own title
                legend.SetTitleText(title)  # a new run may have another score
            legend.SetVisibility(name == which)


def _anomaly_title(nodes):
    """The map's name and that of its score."""
    score = nodes["anomaly"].GetAttribute(SCORE) if nodes["anomaly"] else None
    return _("Anomaly") + (f"\n{score_title(score)}" if score else "")


def _style_legend(legend, title):
    changing = legend.StartModify()
    legend.SetTitleText(title)
    legend.SetLabelFormat("%.2g")
    legend.SetNumberOfLabels(4)
    legend.SetSize(0.1, 0.35)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontSize(12)
    if view := slice_node(SAGITTAL):
        legend.SetViewNodeIDs([view.GetID()])
    legend.EndModify(changing)


# --- views ---

SAGITTAL, AXIAL, CORONAL = "Yellow", "Red", "Green"  # layout names of Slicer's own slice views
# Slices and a plot. One of Slicer's own: a scene saved with any other shows no view at all in a fresh Slicer.
LAYOUT = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView
SAGITTAL_HEIGHT_MM, AXIAL_HEIGHT_MM = 160.0, 80.0  # shown around a finding


def slice_node(name: str):
    """The slice view of a layout name; None where there is no such view."""
    return slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")


def set_layout() -> None:
    """Slice views and the plot. Nothing happens where there is no layout."""
    if layout := slicer.mrmlScene.GetSingletonNode("vtkMRMLLayoutNode", "vtkMRMLLayoutNode"):
        layout.SetViewArrangement(LAYOUT)


def show_chart(chart_node) -> None:
    """Show a chart in the plot views."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    if chart_node is None or selection is None:
        return
    selection.SetActivePlotChartID(chart_node.GetID())
    slicer.app.applicationLogic().PropagatePlotChartSelection()


def present(nodes: "ResultNodes", analysis: "Analysis", in_layout: bool = True) -> None:
    """All there is to see of a run, and of no other: image, anomaly, chart, and the views at the worst finding.

    :param in_layout: in the layout that has the plot; else in whatever layout there is.
    """
    if in_layout:
        set_layout()
    show_only(nodes)
    show_map(nodes, "anomaly", opacity=1.0)
    show_chart(nodes.chart)
    align_views(nodes, analysis)
    s_mm, number = worst(analysis)
    jump(nodes, analysis, s_mm, number, centre=True)


def align_views(nodes: "ResultNodes", analysis: "Analysis") -> None:
    """Turn the sagittal view into the acquired slices, head up, and the others across them, front and head up.

    Also where the input lies askew; Slicer's own way (RotateToVolumePlane) takes the axis nearest to the view's, and a
    parent transform may make that another one.
    """
    to_left, to_feet, to_back = _directions(nodes, analysis)
    # Columns as in Slicer's presets: to the right of the screen, up, and where the slice offset grows.
    for name, axes, height in (
        (SAGITTAL, (to_back, -to_feet, to_left), SAGITTAL_HEIGHT_MM),
        (AXIAL, (to_left, -to_back, -to_feet), AXIAL_HEIGHT_MM),
        (CORONAL, (to_left, -to_feet, -to_back), SAGITTAL_HEIGHT_MM),
    ):
        view = slice_node(name)
        if view is None:
            continue
        changing = view.StartModify()
        matrix = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
        matrix[:3, :3] = np.column_stack(axes)
        view.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(matrix))
        view.UpdateMatrices()
        width, rows, _depth = view.GetDimensions()
        if rows:
            view.SetFieldOfView(height * width / rows, height, view.GetFieldOfView()[2])
        view.EndModify(changing)


def _directions(nodes, analysis):
    """Unit vectors in the world of the stack's axes: to the left, to the feet, to the back; at right angles."""
    grid, line = analysis.stack.grid, analysis.region.centreline
    middle = np.append(slice_at(analysis, line.length / 2), line.at(line.length / 2)[0])
    ends = to_world(nodes, grid.stack_to_ras(middle + np.vstack([np.zeros(3), np.eye(3)])))
    # The nearest rotation: a parent transform may scale, shear or bend.
    left, _stretch, right = np.linalg.svd((ends[1:] - ends[0]).T / np.linalg.norm(ends[1:] - ends[0], axis=1))
    return (left @ right).T


# --- places ---


def worst(analysis: "Analysis") -> tuple[float, int]:
    """Position in mm and slice of the strongest finding; of the highest score where nothing is flagged."""
    from U2ADLib.curve import patient_peak
    from U2ADLib.pictures.analysis import findings

    found = findings(analysis)
    if found:
        s_mm, number, _score = max(found, key=lambda one: one[2])
        return s_mm, number
    at = patient_peak(analysis.curve)
    return float(analysis.curve.s_mm[at]), int(analysis.curve.slice_of_maximum[at])


def slice_at(analysis: "Analysis", s_mm: float) -> int:
    """The slice that has the highest AnoCurve at a position; the middle one where no slice has a value."""
    from U2ADLib.roi.region import middle_slice

    number = int(analysis.curve.slice_of_maximum[np.abs(analysis.curve.s_mm - s_mm).argmin()])
    return number if number >= 0 else middle_slice(analysis.region.cord)


def point_at(nodes: "ResultNodes", analysis: "Analysis", s_mm: float, number: int | None = None) -> np.ndarray:
    """(3,) world RAS mm of the middle of the cord at a position, in a slice of the stack; see `slice_at` for None."""
    number = slice_at(analysis, s_mm) if number is None or number < 0 else number
    point, _tangent = analysis.region.centreline.at(s_mm)
    return to_world(nodes, analysis.stack.grid.stack_to_ras(np.array([[number, *point]])))[0]


def to_world(nodes: "ResultNodes", points: np.ndarray) -> np.ndarray:
    """Points (N, 3) of the input's own RAS in the world, through its parent transform."""
    return _transformed(nodes, points, "TransformPointToWorld")


def from_world(nodes: "ResultNodes", points: np.ndarray) -> np.ndarray:
    """Inverse of `to_world`."""
    return _transformed(nodes, points, "TransformPointFromWorld")


def _transformed(nodes, points, method):
    volume = nodes.input or nodes["anomaly"]
    if volume is None or volume.GetTransformNodeID() is None:
        return points
    result, out = np.empty((len(points), 3)), [0.0, 0.0, 0.0]
    for k, point in enumerate(points):
        getattr(volume, method)(tuple(map(float, point)), out)
        result[k] = out
    return result


def jump(
    nodes: "ResultNodes", analysis: "Analysis", s_mm: float, number: int | None = None, centre: bool = False
) -> np.ndarray:
    """Move all slice views to a position along the cord, and the crosshair with them.

    :param number: slice of the stack; None: the one with the highest AnoCurve there.
    :param centre: also move the image so that the point is in the middle of the views.
    :returns: (3,) the point in the world.
    """
    point = point_at(nodes, analysis, s_mm, number)
    kind = slicer.vtkMRMLSliceNode
    mode = kind.CenteredJumpSlice if centre else kind.OffsetJumpSlice
    kind.JumpAllSlices(slicer.mrmlScene, *point, mode)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair:
        crosshair.SetCrosshairRAS(*point)
        if crosshair.GetCrosshairMode() == crosshair.NoCrosshair:
            crosshair.SetCrosshairMode(crosshair.ShowSmallBasic)
    return point


def nearest_position(nodes: "ResultNodes", analysis: "Analysis", ras, farthest_mm: float = 15.0) -> float | None:
    """Position along the cord of a point (3,) in the world; None if it is farther from the cord or beyond its ends."""
    local = from_world(nodes, np.reshape(np.asarray(ras, float), (1, 3)))
    stack = analysis.stack.grid.ras_to_stack(local)
    s, distance = (float(value[0]) for value in analysis.region.centreline.project(stack[:, 1:]))
    slices = np.flatnonzero(analysis.region.cord.any(axis=(1, 2)))
    beside = max(slices[0] - stack[0, 0], stack[0, 0] - slices[-1], 0) * analysis.stack.grid.slice_spacing_mm
    if not 0 <= s <= analysis.region.centreline.length or np.hypot(distance, beside) > farthest_mm:
        return None
    return s


def position_of_view(nodes: "ResultNodes", analysis: "Analysis", view) -> float | None:
    """Where the plane of a slice view cuts the cord; None if it does not, or runs rather along the cord than across."""
    from U2ADLib.roi.region import middle_slice

    line = analysis.region.centreline
    rows = np.column_stack([np.full(len(line.points), middle_slice(analysis.region.cord)), line.points])
    points = to_world(nodes, analysis.stack.grid.stack_to_ras(rows))
    plane = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    side = (points - plane[:3, 3]) @ plane[:3, 2]
    step = np.diff(side)
    length = np.linalg.norm(np.diff(points, axis=0), axis=1)
    crossed = (side[:-1] * side[1:] <= 0) & (np.abs(step) > np.cos(np.pi / 4) * length)
    if not crossed.any():
        return None
    at = int(np.flatnonzero(crossed)[0])
    return float(line.s[at] + (line.s[at + 1] - line.s[at]) * side[at] / (side[at] - side[at + 1]))
