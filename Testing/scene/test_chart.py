"""The AnoCurve as a plot, and its links with the slice views."""

from dataclasses import replace

import numpy as np
import pytest
import slicer
import vtk
from made_scene import THRESHOLDS, made_analysis, volume_node
from vtk.util.numpy_support import vtk_to_numpy

from slicer_bench.plots import fill_chart, save_chart
from U2ADLib.analysis import with_thresholds
from U2ADLib.pictures.canvas import BLUE, GREEN, VERMILION
from U2ADScene import chart, display, results

SEGMENTS = ["C2-3", "C3-4", "C4-5", "C5-6", "C6-7", "C7-T1"]
# The cord begins in row 10, its upper edge 9.5; the discs in rows 40, 60 … 140 are in the middle of their segments.
BORDERS = [row - 9.5 for row in range(30, 151, 20)]


@pytest.fixture
def analysis(monkeypatch):
    return made_analysis(monkeypatch)


@pytest.fixture
def shown(host, analysis):
    return results.show(analysis, volume_node(analysis.volume))


def column(node, name):
    return vtk_to_numpy(node.GetTable().GetColumnByName(name))


def series_names(nodes):
    node = nodes.chart
    order = [node.GetNthPlotSeriesNode(k) for k in range(node.GetNumberOfPlotSeriesNodes())]
    return [next(role for role in chart.SERIES_ROLES if nodes[role] is one) for one in order]


def drawn(nodes, tmp_path, size=(700, 400)):
    """The chart as (H, W, 3) int, and a function (x, y) → (row, column) in it."""
    made = save_chart(nodes.chart, tmp_path / "chart.png", size)
    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(tmp_path / "chart.png"))
    reader.Update()
    image = reader.GetOutput()
    picture = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[1], size[0], -1)[::-1, :, :3].astype(int)
    corner = np.array(made.GetAxis(vtk.vtkAxis.BOTTOM).GetPoint1())
    far = np.array([made.GetAxis(vtk.vtkAxis.BOTTOM).GetPoint2()[0], made.GetAxis(vtk.vtkAxis.LEFT).GetPoint2()[1]])
    high = np.array([nodes.chart.GetXAxisRange()[1], nodes.chart.GetYAxisRange()[1]])

    def at(x, y):
        to_right, up = corner + np.array([x, y]) / high * (far - corner)
        return size[1] - 1 - round(up), round(to_right)

    return picture, at


def is_near(picture, at, colour, reach=3):
    """Whether a pixel of about that colour lies within `reach` pixels."""
    row, col = at
    around = picture[max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1]
    return bool((np.abs(around - colour).max(axis=2) < 40).any())


# --- content ---


def test_curve_table(analysis, shown):
    table = shown.curve_table
    np.testing.assert_allclose(column(table, "position_mm"), analysis.curve.s_mm)
    np.testing.assert_allclose(column(table, "maximum"), analysis.curve.maximum)
    np.testing.assert_allclose(column(table, "slice_4"), analysis.curve.values[analysis.curve.slices.index(4)])
    names = table.GetTable().GetColumnByName("segment")
    at = int(np.abs(analysis.curve.s_mm - 67).argmin())
    assert (names.GetValue(at), names.GetValue(0)) == ("C4-5", "")
    assert column(table, "slice_of_maximum")[at] == 4


def test_chart_has_all_series_in_drawing_order(shown):
    assert series_names(shown) == [
        "series.segments",
        "series.segment_threshold",
        "series.patient_threshold",
        "series.curve",
        "series.flagged",
        "series.marker",
    ]
    assert shown.chart.GetXAxisRange()[0] == 0
    assert shown.chart.GetXAxisRange()[1] == pytest.approx(180, abs=1)
    assert shown.chart.GetTitle().splitlines() == [
        "Flagged: C4-5",
        "paper's score; thresholds: 0.200 segments, 0.250 patient (dotted)",
    ]
    assert shown.chart.GetYAxisTitle() == "Mean anomaly across the cord (0-1)"


def test_the_chart_says_what_the_score_in_use_measures(host, analysis):
    settings = analysis.provenance["configuration"]["score_settings"] | {"evidence": "discriminator", "across": "max"}
    configuration = analysis.provenance["configuration"] | {"score_settings": settings}
    other = replace(analysis, score="default", provenance=analysis.provenance | {"configuration": configuration})
    nodes = results.show(other, volume_node(analysis.volume))
    assert "default score; thresholds" in nodes.chart.GetTitle()
    assert nodes.chart.GetYAxisTitle() == "Highest probability across the cord (0-1)"


def test_lines_lie_at_borders_and_thresholds(shown):
    lines = shown[chart.LINES]
    x, y = column(lines, "segments x"), column(lines, "segments y")
    upright = np.unique(x[:-1][(x[:-1] == x[1:]) & (y[:-1] == 0)])
    np.testing.assert_allclose(upright, BORDERS, atol=0.3)
    x, y = column(lines, "segment_threshold x"), column(lines, "segment_threshold y")
    np.testing.assert_allclose(x[:2], BORDERS[:: len(BORDERS) - 1], atol=0.3)
    assert (y[:2] == THRESHOLDS.segment).all()
    assert (column(lines, "patient_threshold y")[:2] == THRESHOLDS.patient).all()
    x = column(lines, "flagged x")
    assert (np.nanmin(x), np.nanmax(x)) == (pytest.approx(60.5, abs=0.6), pytest.approx(80.5, abs=0.6))


def test_finding_between_the_segments_is_coloured(host, monkeypatch):
    """Without the discs around the lesion it lies in no segment, but exceeds the patient's threshold."""
    analysis = made_analysis(monkeypatch, discs=(7, 8))
    nodes = results.show(analysis, volume_node(analysis.volume))
    assert analysis.flagged == ()
    x = column(nodes[chart.LINES], "flagged x")
    assert (np.nanmin(x), np.nanmax(x)) == (pytest.approx(65.5, abs=1.5), pytest.approx(70.5, abs=1.5))
    assert "series.flagged" in series_names(nodes)


def test_names_stand_within_their_segments(analysis):
    for segment in analysis.segments:
        points = np.array(chart._written(segment, (0.9, 0.97)))
        assert np.nanmin(points[:, 0]) > segment.start_mm + 1
        assert np.nanmax(points[:, 0]) < segment.stop_mm - 1
        assert (np.nanmin(points[:, 1]), np.nanmax(points[:, 1])) == (0.9, 0.97)
        middle = (np.nanmin(points[:, 0]) + np.nanmax(points[:, 0])) / 2
        assert middle == pytest.approx((segment.start_mm + segment.stop_mm) / 2, abs=0.5)


def test_every_name_can_be_written():
    assert {letter for name in SEGMENTS for letter in name} <= set(chart._LETTERS)


def test_other_thresholds_move_the_lines(analysis, shown):
    chart.set_marker(shown, 42.0)
    results.update_flags(shown, with_thresholds(analysis, 0.9, 0.9))
    assert "series.flagged" not in series_names(shown)
    assert (column(shown[chart.LINES], "segment_threshold y")[:2] == 0.9).all()
    assert shown.chart.GetYAxisRange()[1] == pytest.approx(chart.HEADROOM * 0.9)
    assert column(shown[chart.MARKER], "marker x").tolist() == [42.0, 42.0]
    assert 0.8 < column(shown[chart.MARKER], "marker y")[1] < chart.HEADROOM * 0.9
    results.update_flags(shown, analysis)
    assert "series.flagged" in series_names(shown)


def test_picture(analysis, shown, tmp_path):
    chart.set_marker(shown, 110.0)
    picture, at = drawn(shown, tmp_path)
    peak = float(np.nanmax(analysis.curve.maximum))
    assert is_near(picture, at(67.0, peak), VERMILION)
    assert is_near(picture, at(150.0, 0.0), BLUE)
    assert not is_near(picture, at(150.0, 0.0), VERMILION)
    assert is_near(picture, at(110.0, 0.2), GREEN)
    top = shown.chart.GetYAxisRange()[1]
    name = picture[at(0, 0.98 * top)[0] : at(0, 0.9 * top)[0], at(62, 0)[1] : at(79, 0)[1]]
    assert (np.abs(name - VERMILION).max(axis=2) < 40).sum() > 40  # "C4-5"
    beside = picture[at(0, 0.98 * top)[0] : at(0, 0.9 * top)[0], at(82, 0)[1] : at(99, 0)[1]]
    assert (np.abs(beside - VERMILION).max(axis=2) < 40).sum() == 0
    assert (beside.max(axis=2) < 180).sum() > 40  # "C5-6" in grey


def test_marker_can_be_hidden(shown, tmp_path):
    chart.set_marker(shown, 110.0)
    chart.set_marker(shown, None)
    picture, at = drawn(shown, tmp_path)
    assert not is_near(picture, at(110.0, 0.2), GREEN, reach=8)


def test_position_at(analysis, shown):
    at = int(np.abs(analysis.curve.s_mm - 67).argmin())
    assert chart.position_at(shown["series.curve"], at) == (analysis.curve.s_mm[at], 4)
    s_mm, number = chart.position_at(shown["series.segment_threshold"], 0)
    assert (s_mm, number) == (pytest.approx(BORDERS[0], abs=0.3), None)
    assert chart.position_at(shown["series.segments"], 2) is None  # the gap between two lines
    assert chart.position_at(shown["series.curve"], 10**6) is None
    assert chart.position_at(None, 0) is None


def test_series_of_deleted_tables_are_no_error(analysis, shown):
    for role in (chart.LINES, chart.MARKER, "curve"):
        slicer.mrmlScene.RemoveNode(shown[role])
    assert chart.position_at(shown["series.curve"], 0) is None
    chart.set_marker(shown, 10.0)
    chart.fill(shown, analysis)


# --- links ---


class PlotView:
    """As much of qMRMLPlotView as a link needs, over a real VTK chart with a real mouse."""

    def __init__(self, nodes, size=(700, 400)):
        self.slots, self._nodes, self._size = [], nodes, size
        self._chart, self._view = vtk.vtkChartXY(), vtk.vtkContextView()
        window = self._view.GetRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetSize(*size)
        fill_chart(self._chart, nodes.chart)
        self._view.GetScene().AddItem(self._chart)
        self._mouse = vtk.vtkRenderWindowInteractor()
        window.SetInteractor(self._mouse)
        style = vtk.vtkContextInteractorStyle()
        style.SetScene(self._view.GetScene())
        self._mouse.SetInteractorStyle(style)
        self._mouse.Initialize()
        self._chart.AddObserver(vtk.vtkCommand.SelectionChangedEvent, self._selected)
        window.Render()

    def chart(self):
        return self._chart

    def connect(self, signal, slot):
        assert signal == "dataSelected(vtkStringArray*, vtkCollection*)"
        self.slots.append(slot)

    def disconnect(self, signal, slot):
        self.slots = [one for one in self.slots if one is not slot]

    def RemovePlotSelections(self):
        self._chart.RemovePlotSelections()

    def _selected(self, caller, event):
        """As qMRMLPlotViewPrivate::emitSelection."""
        ids, selections = vtk.vtkStringArray(), vtk.vtkCollection()
        for k in range(self._chart.GetNumberOfPlots()):
            selection = self._chart.GetPlot(k).GetSelection()
            if selection and selection.GetNumberOfValues():
                ids.InsertNextValue(self._nodes.chart.GetNthPlotSeriesNodeID(k))
                selections.AddItem(selection)
        for slot in list(self.slots):
            slot(ids, selections)

    def click(self, x, y):
        bottom, left = self._chart.GetAxis(vtk.vtkAxis.BOTTOM), self._chart.GetAxis(vtk.vtkAxis.LEFT)
        corner, far = np.array(bottom.GetPoint1()), np.array([bottom.GetPoint2()[0], left.GetPoint2()[1]])
        high = np.array([self._nodes.chart.GetXAxisRange()[1], self._nodes.chart.GetYAxisRange()[1]])
        where = corner + np.array([x, y]) / high * (far - corner)
        self._mouse.SetEventInformation(*map(round, where), 0, 0)
        self._mouse.MouseMoveEvent()
        self._mouse.LeftButtonPressEvent()
        self._mouse.LeftButtonReleaseEvent()


@pytest.fixture
def link(analysis, shown):
    made = chart.Link(shown, analysis, lambda *place: made.places.append(place))
    made.places = []
    yield made
    made.disconnect()


def test_click_on_the_curve_moves_the_slices(host, analysis, shown, link):
    plot = PlotView(shown)
    link.connect([plot])
    display.align_views(shown, analysis)
    plot.click(67.5, float(np.nanmax(analysis.curve.maximum)))
    ((s_mm, _number),) = link.places
    assert s_mm == pytest.approx(67.5, abs=1.5)
    axial = host.views[display.AXIAL].node
    assert display.position_of_view(shown, analysis, axial) == pytest.approx(s_mm, abs=0.05)
    sagittal = slicer.util.arrayFromVTKMatrix(host.views[display.SAGITTAL].node.GetSliceToRAS())
    assert sagittal[0, 3] == pytest.approx(12 - 3.3 * 4)  # the lesion's slice
    assert column(shown[chart.MARKER], "marker x")[0] == pytest.approx(s_mm, abs=0.05)

    plot.click(20.0, 0.3)  # far from everything: nothing happens, in particular not the last place again
    assert len(link.places) == 1
    plot.click(150.0, 0.004)
    assert link.places[1][0] == pytest.approx(150, abs=1.5)


def test_axial_view_moves_the_marker(host, analysis, shown, link):
    link.connect([])
    axial, sagittal = (host.views[name].node for name in (display.AXIAL, display.SAGITTAL))
    axial.JumpSlice(0, -20, 90 - 100)
    assert column(shown[chart.MARKER], "marker x")[0] == pytest.approx(100 - 9.5, abs=0.1)
    modified = shown[chart.MARKER].GetMTime()
    sagittal.JumpSlice(5, 0, 0)
    axial.SetFieldOfView(50, 50, 1)
    assert shown[chart.MARKER].GetMTime() == modified
    link.disconnect()
    axial.JumpSlice(0, -20, 0)
    assert column(shown[chart.MARKER], "marker x")[0] == pytest.approx(90.5, abs=0.1)


def test_link_follows_the_layout_s_plot(host, app, analysis, shown, link):
    display.present(shown, analysis)
    link.connect()
    view = app.layoutManager().plotWidget(0).plotView()
    ids, selections, points = vtk.vtkStringArray(), vtk.vtkCollection(), vtk.vtkIdTypeArray()
    ids.InsertNextValue(shown["series.curve"].GetID())
    points.InsertNextValue(40)
    selections.AddItem(points)
    view.dataSelected.emit(ids, selections)
    assert [place[0] for place in link.places] == [analysis.curve.s_mm[40]]
    link.disconnect()
    view.dataSelected.emit(ids, selections)
    assert len(link.places) == 1


def test_clicks_on_other_charts_are_ignored(host, analysis, shown, link):
    other = results.show(analysis, shown.input)
    ids, selections, points = vtk.vtkStringArray(), vtk.vtkCollection(), vtk.vtkIdTypeArray()
    ids.InsertNextValue(other["series.curve"].GetID())
    points.InsertNextValue(40)
    selections.AddItem(points)
    link._slot(ids, selections)
    link._slot(vtk.vtkStringArray(), vtk.vtkCollection())
    assert link.places == []


def test_link_ends_with_the_scene(host, analysis, shown, link):
    plot = PlotView(shown)
    link.connect([plot])
    assert link.connected
    host.scene.Clear(0)
    assert not link.connected
    assert plot.slots == []
    host.views[display.AXIAL].node.JumpSlice(0, 0, 5)
    assert link.places == []


@pytest.mark.parametrize("role", ["chart", "input", chart.MARKER, chart.LINES])
def test_link_survives_deleted_nodes(host, analysis, shown, link, role):
    plot = PlotView(shown)
    link.connect([plot])
    slicer.mrmlScene.RemoveNode(shown.input if role == "input" else shown[role])
    host.views[display.AXIAL].node.JumpSlice(0, -20, 0)
    ids, selections, points = vtk.vtkStringArray(), vtk.vtkCollection(), vtk.vtkIdTypeArray()
    ids.InsertNextValue("vtkMRMLPlotSeriesNode1")
    points.InsertNextValue(0)
    selections.AddItem(points)
    link._slot(ids, selections)
    assert link.connected == (role in (chart.MARKER, chart.LINES))


def test_link_can_be_connected_again(host, analysis, shown, link):
    plot = PlotView(shown)
    for _ in range(3):
        link.connect([plot])
    assert len(plot.slots) == 1
    link.disconnect()
    link.disconnect()
    assert plot.slots == []
