"""The AnoCurve as a plot, and the links between plot and slice views.

| series | what it shows |
|---|---|
| segments | borders of the segments and their names, drawn as lines: a plot of Slicer has no text of its own |
| thresholds | of the segments (over the segments) and of the patient (over all that counts for it) |
| curve | the highest AnoCurve over the slices |
| flagged | the curve and the name of flagged segments, in the warm colour |
| marker | where the axial view cuts the cord |

x is mm along the cord from its upper end, y the anomaly across the cord by the score in use, 0–1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from . import display

if TYPE_CHECKING:
    from U2ADLib.analysis import Analysis

    from .results import ResultNodes

LINES, MARKER = "chart.lines", "chart.marker"
TABLE_ROLES = (LINES, MARKER)
_ORDER = ("segments", "segment_threshold", "patient_threshold", "curve", "flagged", "marker")  # later ones on top
SERIES_ROLES = tuple(f"series.{name}" for name in _ORDER)

HEADROOM = 1.25  # of the highest value: above it stand the names of the segments
_NAME_AT = (0.91, 0.97)  # lower and upper end of the names, shares of the y axis
_MARKER_TO = 0.88  # upper end of the marker, below the names
_LETTER_SHARE, _GAP_SHARE = 0.11, 0.05  # of a segment's length: a letter's width and the gap after it
_SMALLEST_MOVE_MM = 0.02


def fill(nodes: "ResultNodes", analysis: "Analysis") -> None:
    """Put an analysis into the run's tables, series and chart. The marker stays where it is."""
    top = HEADROOM * _highest(analysis)
    lines = _lines(analysis, top)
    if nodes.curve_table:
        set_columns(nodes.curve_table, _curve_columns(analysis))
    if nodes[LINES]:
        set_columns(
            nodes[LINES], {f"{name} {axis}": xy[k] for name, xy in lines.items() for k, axis in enumerate("xy")}
        )
    if nodes[MARKER]:
        old = nodes[MARKER].GetTable().GetColumnByName("marker x")
        _write_marker(nodes, old.GetValue(0) if old else np.nan, top)
    _fill_series(nodes, analysis)
    _fill_chart(nodes, analysis, lines, top)


def set_columns(node, columns: Mapping[str, Sequence]) -> None:
    """Replace a table node's content at once. Columns of text stay text, all others become doubles."""
    table = vtk.vtkTable()
    for name, values in columns.items():
        values = list(values)
        if values and isinstance(values[0], str):
            array = vtk.vtkStringArray()
            for value in values:
                array.InsertNextValue(value)
        else:
            array = numpy_to_vtk(np.array(values, float), deep=True)
        array.SetName(name)
        table.AddColumn(array)
    node.SetAndObserveTable(table)


def set_marker(nodes: "ResultNodes", s_mm: float | None) -> None:
    """Move the marker to a position in mm, or hide it."""
    if nodes[MARKER] is None:
        return
    top = nodes.chart.GetYAxisRange()[1] if nodes.chart else 1.0
    _write_marker(nodes, np.nan if s_mm is None else float(s_mm), top)


def position_at(series_node, index: int) -> tuple[float, int | None] | None:
    """What a point of a series stands for: position in mm, and its slice where it is a point of the curve."""
    table = series_node.GetTableNode().GetTable() if series_node and series_node.GetTableNode() else None
    column = table.GetColumnByName(series_node.GetXColumnName()) if table else None
    if column is None or not 0 <= index < column.GetNumberOfTuples() or not np.isfinite(column.GetValue(index)):
        return None
    slices = table.GetColumnByName("slice_of_maximum")
    number = slices.GetValue(index) if slices else np.nan
    return float(column.GetValue(index)), int(number) if np.isfinite(number) else None


# --- content ---


def _highest(analysis):
    limits = [analysis.thresholds.segment, analysis.thresholds.patient] if analysis.thresholds else []
    return float(np.nanmax([np.nanmax(analysis.curve.maximum), *limits])) or 1.0


def _curve_columns(analysis):
    curve = analysis.curve
    segment = np.full(len(curve.s_mm), "", object)
    for s in analysis.segments:
        inside = (curve.s_mm >= s.start_mm) & (curve.s_mm < s.stop_mm)
        segment[inside] = s.name
    number = np.where(curve.slice_of_maximum < 0, np.nan, curve.slice_of_maximum)
    return {
        "position_mm": curve.s_mm,
        "segment": segment,
        "maximum": curve.maximum,
        "slice_of_maximum": number,
        **{f"slice_{k}": values for k, values in zip(curve.slices, curve.values, strict=True)},
    }


def _lines(analysis, top):
    """Polylines as x and y, broken where both are NaN; all of the same length."""
    end = float(analysis.curve.s_mm[-1])
    quiet, warm = [], []
    name_y = [top * share for share in _NAME_AT]
    for border in sorted({s for segment in analysis.segments for s in (segment.start_mm, segment.stop_mm)}):
        if 0 <= border <= end:
            quiet += [(border, 0.0), (border, top), (np.nan, np.nan)]
    for segment in analysis.segments:
        if segment.flagged:
            warm += _part(analysis.curve, segment.start_mm, segment.stop_mm)
        (warm if segment.flagged else quiet).extend(_written(segment, name_y))
    warm += _part(analysis.curve, *_elsewhere(analysis))
    inside, everywhere = [], []
    if analysis.thresholds:
        everywhere = [(x, analysis.thresholds.patient) for x in analysis.curve.counted_mm]
        if analysis.segments:
            ends = np.clip([analysis.segments[0].start_mm, analysis.segments[-1].stop_mm], 0, end)
            inside = [(x, analysis.thresholds.segment) for x in ends]
    lines = {"segments": quiet, "flagged": warm, "segment_threshold": inside, "patient_threshold": everywhere}
    longest = max(map(len, lines.values()), default=0)
    padded = {k: np.array(v + [(np.nan, np.nan)] * (longest - len(v))).reshape(-1, 2) for k, v in lines.items()}
    return {name: (points[:, 0], points[:, 1]) for name, points in padded.items()}


# Letters as strokes in a box of width and height 1, lower left corner (0, 0).
_LETTERS = {
    "C": (((1, 0.8), (0.75, 1), (0.25, 1), (0, 0.8), (0, 0.2), (0.25, 0), (0.75, 0), (1, 0.2)),),
    "T": (((0, 1), (1, 1)), ((0.5, 1), (0.5, 0))),
    "-": (((0.15, 0.5), (0.85, 0.5)),),
    "1": (((0.2, 0.8), (0.6, 1), (0.6, 0)),),
    "2": (((0, 0.8), (0.25, 1), (0.75, 1), (1, 0.8), (1, 0.6), (0, 0), (1, 0)),),
    "3": (((0, 1), (1, 1), (0.5, 0.6), (1, 0.4), (1, 0.2), (0.75, 0), (0.25, 0), (0, 0.2)),),
    "4": (((0.75, 0), (0.75, 1), (0, 0.3), (1, 0.3)),),
    "5": (((1, 1), (0.1, 1), (0, 0.55), (0.75, 0.6), (1, 0.4), (1, 0.2), (0.75, 0), (0.25, 0), (0, 0.15)),),
    "6": (((0.8, 1), (0.25, 0.75), (0, 0.3), (0.25, 0), (0.75, 0), (1, 0.3), (0.75, 0.55), (0.1, 0.5)),),
    "7": (((0, 1), (1, 1), (0.35, 0)),),
}


def _part(curve, start_mm, stop_mm):
    """Points of the curve's maximum from start to stop."""
    inside = (curve.s_mm >= start_mm) & (curve.s_mm < stop_mm)
    return [*zip(curve.s_mm[inside], curve.maximum[inside], strict=True), (np.nan, np.nan)]


def _elsewhere(analysis):
    """From where to where the curve exceeds the patient's threshold around a finding outside the flagged segments."""
    from U2ADLib.pictures.analysis import strongest_elsewhere

    finding = strongest_elsewhere(analysis)
    if finding is None:
        return 0.0, 0.0
    s = analysis.curve.s_mm
    low = s[~(analysis.curve.counted & (analysis.curve.maximum > analysis.thresholds.patient))]
    return low[low < finding[0]].max(initial=s[0]), low[low > finding[0]].min(initial=np.inf)


def _written(segment, y):
    """Points of a segment's name in its middle, in the height `y` (lower, upper)."""
    length = segment.stop_mm - segment.start_mm
    width, advance = length * _LETTER_SHARE, length * (_LETTER_SHARE + _GAP_SHARE)
    left = (segment.start_mm + segment.stop_mm - len(segment.name) * advance + length * _GAP_SHARE) / 2
    points = []
    for k, letter in enumerate(segment.name):
        for stroke in _LETTERS[letter]:
            points += [(left + k * advance + width * u, y[0] + (y[1] - y[0]) * v) for u, v in stroke]
            points.append((np.nan, np.nan))
    return points


def _write_marker(nodes, x, top):
    set_columns(nodes[MARKER], {"marker x": [x, x], "marker y": [0.0, top * _MARKER_TO]})


def _fill_series(nodes, analysis):
    from U2ADLib.pictures.canvas import BLUE, DARK, GREEN, GREY, VERMILION

    kind = slicer.vtkMRMLPlotSeriesNode
    thresholds = analysis.thresholds
    count = len(analysis.slices)
    curve_name = _("highest of {count} slices").format(count=count) if count > 1 else _("AnoCurve")
    looks = {  # name, table, colour, width, line
        "segments": (_("segments"), LINES, GREY, 1.5, kind.LineStyleSolid),
        "segment_threshold": (
            _("segment threshold {value:.3f}").format(value=thresholds.segment if thresholds else np.nan),
            LINES, DARK, 2, kind.LineStyleDash,
        ),
        "patient_threshold": (
            _("patient threshold {value:.3f}").format(value=thresholds.patient if thresholds else np.nan),
            LINES, DARK, 2, kind.LineStyleDot,
        ),
        "curve": (curve_name, "curve", BLUE, 2.5, kind.LineStyleSolid),
        "flagged": (_("flagged"), LINES, VERMILION, 3, kind.LineStyleSolid),
        "marker": (_("axial view"), MARKER, GREEN, 2, kind.LineStyleSolid),
    }  # fmt: skip
    for name, (title, table, colour, width, line) in looks.items():
        series = nodes[f"series.{name}"]
        if series is None:
            continue
        changing = series.StartModify()
        series.SetName(title)  # the legend shows it
        series.SetPlotType(kind.PlotTypeScatter)
        series.SetMarkerStyle(kind.MarkerStyleNone)
        series.SetXColumnName("position_mm" if table == "curve" else f"{name} x")
        series.SetYColumnName("maximum" if table == "curve" else f"{name} y")
        series.SetLabelColumnName("segment" if table == "curve" else "")
        series.SetColor(*(channel / 255 for channel in colour))
        series.SetLineWidth(width)
        series.SetLineStyle(line)
        if nodes[table]:
            series.SetAndObserveTableNodeID(nodes[table].GetID())
        series.EndModify(changing)


def _title(analysis):
    """The verdict, the score in use, and what the lines mean."""
    from U2ADLib.pictures.analysis import verdict

    lines = display.score_title(analysis.score)
    if analysis.thresholds:
        lines += "; " + _("thresholds: {segment:.3f} segments, {patient:.3f} patient (dotted)").format(
            segment=analysis.thresholds.segment, patient=analysis.thresholds.patient
        )
    return f"{verdict(analysis)}\n{lines}"


def _y_title(analysis):
    """What the curve is, by the settings of the score in use."""
    settings = analysis.provenance["configuration"]["score_settings"]
    return {
        ("error", "mean"): _("Mean anomaly across the cord (0-1)"),
        ("error", "max"): _("Highest anomaly across the cord (0-1)"),
        ("discriminator", "mean"): _("Mean probability across the cord (0-1)"),
        ("discriminator", "max"): _("Highest probability across the cord (0-1)"),
    }[settings["evidence"], settings["across"]]


def _fill_chart(nodes, analysis, lines, top):
    node = nodes.chart
    if node is None:
        return
    changing = node.StartModify()
    node.SetTitle(_title(analysis))
    node.SetXAxisTitle(_("mm along the cord, head to feet (green: axial view)"))
    node.SetYAxisTitle(_y_title(analysis))
    node.SetLegendVisibility(False)  # it would cover the curve; the title says what the lines are
    node.SetGridVisibility(False)
    node.SetTitleFontSize(16)
    node.SetAxisTitleFontSize(14)
    node.SetAxisLabelFontSize(12)
    node.SetXAxisRangeAuto(False)
    node.SetXAxisRange(0.0, float(analysis.curve.s_mm[-1]))
    node.SetYAxisRangeAuto(False)
    node.SetYAxisRange(0.0, top)
    empty = {name for name, (x, _y) in lines.items() if not np.isfinite(x).any()}
    wanted = [nodes[f"series.{name}"] for name in _ORDER if name not in empty]
    wanted = [series.GetID() for series in wanted if series]
    if [node.GetNthPlotSeriesNodeID(k) for k in range(node.GetNumberOfPlotSeriesNodes())] != wanted:
        node.RemoveAllPlotSeriesNodeIDs()
        for series_id in wanted:
            node.AddAndObservePlotSeriesNodeID(series_id)
    node.EndModify(changing)


# --- links ---


class Link:
    """Click on the curve → slice views jump; axial view moves → marker on the curve.

    Disconnects itself when the scene is closed or the chart is deleted. May be connected again.

    :param on_position: called with (s_mm, slice) after a click on the curve, for a table that follows.
    """

    _SIGNAL = "dataSelected(vtkStringArray*, vtkCollection*)"

    def __init__(
        self, nodes: "ResultNodes", analysis: "Analysis", on_position: Callable[[float, int | None], None] | None = None
    ):
        self.nodes, self.analysis, self._on_position = nodes, analysis, on_position
        self._observed, self._plot_views = [], []
        self._marked = None
        self._slot = self._selected  # one object: connected and disconnected as the same

    @property
    def connected(self) -> bool:
        return bool(self._observed)

    def connect(self, plot_views: Sequence | None = None) -> None:
        """Follow all slice views and plot views, those of the layout where none are given."""
        self.disconnect()
        self._observe(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._scene_goes)
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            self._observe(view, vtk.vtkCommand.ModifiedEvent, self._view_moved)
        for plot_view in _plot_views_in_layout() if plot_views is None else plot_views:
            # Slicer's plot selects points in a rectangle only; a click is more natural.
            plot_view.chart().SetClickActionToButton(vtk.vtkChart.SELECT, vtk.vtkContextMouseEvent.LEFT_BUTTON)
            plot_view.connect(self._SIGNAL, self._slot)
            self._plot_views.append(plot_view)

    def disconnect(self) -> None:
        """Follow nothing any more."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        for plot_view in self._plot_views:
            plot_view.disconnect(self._SIGNAL, self._slot)
        self._observed, self._plot_views = [], []

    def _observe(self, node, event, method):
        self._observed.append((node, node.AddObserver(event, method)))

    def _scene_goes(self, caller, event):
        self.disconnect()

    def _view_moved(self, view, event):
        if self.nodes.chart is None or self.nodes.input is None:
            self.disconnect()
            return
        s_mm = display.position_of_view(self.nodes, self.analysis, view)
        if s_mm is not None and (self._marked is None or abs(s_mm - self._marked) > _SMALLEST_MOVE_MM):
            self._marked = s_mm
            set_marker(self.nodes, s_mm)

    def _selected(self, series_ids, selections):
        """A click: go to the first selected point that stands for a place."""
        if self.nodes.chart is None:
            self.disconnect()
            return
        place = self._place(series_ids, selections)
        if place is None:
            return
        for plot_view in self._plot_views:
            plot_view.RemovePlotSelections()  # or the next click beside the curve would come back to this point
        display.jump(self.nodes, self.analysis, *place)
        if self._on_position:
            self._on_position(*place)

    def _place(self, series_ids, selections):
        ours = {self.nodes[role].GetID(): self.nodes[role] for role in SERIES_ROLES if self.nodes[role]}
        for k in range(series_ids.GetNumberOfValues()):
            series, points = ours.get(series_ids.GetValue(k)), selections.GetItemAsObject(k)
            if series and points.GetNumberOfValues() and (place := position_at(series, points.GetValue(0))):
                return place
        return None


def _plot_views_in_layout():
    manager = slicer.app.layoutManager() if getattr(slicer, "app", None) else None
    return [manager.plotWidget(k).plotView() for k in range(manager.plotViewCount)] if manager else []
