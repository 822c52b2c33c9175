"""What the slice views show of a run, and where."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from made_scene import made_analysis, turn, volume_node
from scipy import ndimage

from U2ADLib.analysis import analyse, with_thresholds
from U2ADLib.io import read_volume
from U2ADLib.package import load_model
from U2ADLib.pictures.analysis import heat_colours, heat_top
from U2ADScene import display, results

MOVED = np.array([[1, 0, 0, 30], [0, 0.8, -0.6, -12], [0, 0.6, 0.8, 7], [0, 0, 0, 1]], float)
GRIDS = [("LIP", 0.0, None), ("RAS", 0.0, MOVED), ("PSR", 25.0, None), ("SAL", 40.0, MOVED)]
CANONICAL = np.array([[-3.3, 0, 0, 12], [0, 0, -1, 40], [0, -1, 0, 90], [0, 0, 0, 1]], float)


def world(slice_row_column, degrees=0.0, transform=None):
    """(3,) of a voxel of the made-up case in its canonical grid."""
    matrix = (np.eye(4) if transform is None else transform) @ turn(degrees) @ CANONICAL
    return matrix[:3, :3] @ slice_row_column + matrix[:3, 3]


LESION, HEALTHY, OTHER_SLICE = (4, 77, 59), (4, 110, 59), (2, 77, 59)


@pytest.fixture
def analysis(monkeypatch):
    return made_analysis(monkeypatch)


@pytest.fixture
def shown(host, analysis):
    return results.show(analysis, volume_node(analysis.volume))


def warmth(view, point):
    """How much more red than blue a picture of a view is at a point of the world, 0–255."""
    row, column = view.pixel_of(point)
    pixel = view.picture()[row, column].astype(int)
    return pixel[0] - pixel[2]


# --- pictures ---


@pytest.mark.parametrize(("codes", "degrees", "transform"), GRIDS)
def test_the_lesion_is_coloured_and_nothing_else(host, monkeypatch, codes, degrees, transform):
    analysis = made_analysis(monkeypatch, codes, degrees)
    nodes = results.show(analysis, volume_node(analysis.volume, transform=transform))
    nodes.segmentation.GetDisplayNode().SetVisibility(False)
    nodes.discs.GetDisplayNode().SetVisibility(False)
    display.present(nodes, analysis)
    lesion, healthy, other = (world(at, degrees, transform) for at in (LESION, HEALTHY, OTHER_SLICE))
    for name in (display.SAGITTAL, display.AXIAL):
        assert warmth(host.views[name], lesion) > 100, name
    sagittal, axial = host.views[display.SAGITTAL], host.views[display.AXIAL]
    assert warmth(sagittal, healthy) == 0
    assert warmth(axial, other) == 0
    for row in (72, 83):  # the cord just above and below the lesion
        assert warmth(sagittal, world((4, row, 59), degrees, transform)) == 0

    display.show_map(nodes, None)
    assert warmth(sagittal, lesion) == 0
    display.show_map(nodes, "anomaly")
    display.jump(nodes, analysis, 67.0, number=2)
    assert warmth(sagittal, other) == 0


@pytest.mark.parametrize(("codes", "degrees", "transform"), GRIDS)
def test_views_show_acquired_slices_around_the_finding(host, monkeypatch, codes, degrees, transform):
    analysis = made_analysis(monkeypatch, codes, degrees)
    nodes = results.show(analysis, volume_node(analysis.volume, transform=transform))
    display.present(nodes, analysis)
    matrix = (np.eye(4) if transform is None else transform) @ turn(degrees)
    view = host.views[display.SAGITTAL]
    plane = slicer.util.arrayFromVTKMatrix(view.node.GetSliceToRAS())
    assert abs(plane[:3, 2] @ matrix[:3, 0]) == pytest.approx(1)  # slices run along the first canonical axis
    s_mm, number = display.worst(analysis)
    assert number == 4
    finding = display.point_at(nodes, analysis, s_mm, number)
    row, column = view.pixel_of(finding)
    if not degrees and transform is None:
        assert view.node.GetOrientation() == "Sagittal"
        assert host.views[display.AXIAL].node.GetOrientation() == "Axial"
    assert max(abs(row - view.size[1] / 2), abs(column - view.size[0] / 2)) <= 2
    assert abs((finding - plane[:3, 3]) @ plane[:3, 2]) < 1e-3
    field = view.node.GetFieldOfView()
    assert field[1] == pytest.approx(display.SAGITTAL_HEIGHT_MM)
    assert field[0] / field[1] == pytest.approx(view.size[0] / view.size[1])
    # Head up: a point farther down the cord is drawn lower.
    assert view.pixel_of(display.point_at(nodes, analysis, s_mm + 30))[0] > row + 20


def test_flagged_segment_is_outlined_in_the_warm_colour(host, analysis, shown):
    display.present(shown, analysis)
    display.show_map(shown, None)
    view = host.views[display.SAGITTAL]
    picture = view.picture().astype(int)

    def border(row):
        """The warmest pixel around the cord's anterior edge."""
        at, column = view.pixel_of(world((4, row, 55.5)))
        around = picture[at, column - 3 : column + 4]
        return (around[:, 0] - around[:, 2]).max()

    assert border(86) > 60  # C4-5
    assert border(106) < 20  # C5-6


def test_sample_is_coloured_in_the_cord_only(host, tiny_model):
    sample = Path(__file__).resolve().parents[2] / "Resources" / "Sample"
    volume, cord, discs = (
        read_volume(sample / f"sample_T2w{what}.nii.gz") for what in ("", "_label-SC_seg", "_label-discs_dlabel")
    )
    analysis = analyse(volume, cord=cord, discs=discs, model=load_model(tiny_model), k=2, slices="middle", device="cpu")
    nodes = results.show(analysis, volume_node(volume))
    display.present(nodes, analysis)
    display.show_map(nodes, "error", opacity=1.0, threshold=0.0)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(nodes.maps["error"])
    legend.SetVisibility(False)
    view = host.views[display.SAGITTAL]
    coloured = view.picture()
    display.show_map(nodes, None)
    changed = np.argwhere((coloured != view.picture()).any(axis=2))
    assert len(changed) > 200
    to_ras = slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS())
    points = np.column_stack([changed[:, 1], view.size[1] - 1 - changed[:, 0], np.zeros(len(changed))])
    voxels = np.round(cord.to_ijk(points @ to_ras[:3, :3].T + to_ras[:3, 3])).astype(int)
    near_cord = ndimage.binary_dilation(cord.array > 0, np.ones((5, 5, 1)))
    assert near_cord[tuple(voxels.T)].all()
    assert results.restore(nodes, nodes.input).segments == analysis.segments


def test_threshold_and_opacity(host, analysis, shown):
    display.present(shown, analysis)
    display.show_map(shown, "error", opacity=0.5, threshold=0.3)
    view, lesion = host.views[display.SAGITTAL], world(LESION)
    assert shown.input.GetID() == view.composite_node().GetBackgroundVolumeID()
    assert view.composite_node().GetForegroundOpacity() == 0.5
    half = warmth(view, lesion)
    display.show_map(shown, "error", opacity=1.0)
    assert warmth(view, lesion) > half > 20
    display.show_map(shown, "error", threshold=0.6)  # the lesion's error is 300 of the 800 between 0 and 1
    assert warmth(view, lesion) == pytest.approx(warmth(view, world(HEALTHY)), abs=12)


@pytest.mark.parametrize("which", results.MAPS)
def test_every_map_can_be_shown(host, analysis, shown, which):
    view = host.views[display.SAGITTAL]
    view.render()
    display.present(shown, analysis)
    plain = view.picture()
    display.show_map(shown, None)
    image = view.picture()
    display.show_map(shown, which)
    assert view.composite_node().GetForegroundVolumeID() == shown.maps[which].GetID()
    row, column = view.pixel_of(world(LESION))
    assert (view.picture()[row, column] != image[row, column]).any()
    assert (plain != image).any()


# --- layers ---


def test_layers_of_others_are_left_alone(host, analysis, shown):
    composite = host.views["Green"].composite_node()
    other = volume_node(analysis.volume, "other")
    composite.SetForegroundVolumeID(other.GetID())
    display.show_map(shown, None)
    assert composite.GetForegroundVolumeID() == other.GetID()


def test_only_the_legend_of_the_shown_map_is_visible(host, analysis, shown):
    logic = slicer.modules.colors.logic()

    def visible():
        legends = {name: logic.GetColorLegendDisplayNode(node) for name, node in shown.maps.items()}
        return [name for name, legend in legends.items() if legend and legend.GetVisibility()]

    for which in ("anomaly", "uncertainty", "error"):
        display.show_map(shown, which)
        assert visible() == [which]
    display.show_map(shown, "reconstruction")
    assert visible() == []
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode")
    display.show_map(shown, "anomaly")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == before == 3


def test_the_legend_names_the_score_of_the_last_run(host, analysis, shown):
    display.show_map(shown, "anomaly")
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(shown.maps["anomaly"])
    assert legend.GetTitleText() == "Anomaly\npaper's score"
    results.show(replace(analysis, score="default"), shown.input, into=shown)
    display.show_map(shown, "anomaly")
    assert legend.GetTitleText() == "Anomaly\ndefault score"
    legend.SetTitleText("mine")
    display.show_map(shown, "anomaly")
    assert legend.GetTitleText() == "mine"


def test_two_runs_take_turns(host, analysis):
    """Only one run's outlines, discs, legend and chart are seen; both maps have the same colours."""
    node = volume_node(analysis.volume)
    first = results.show(analysis, node)
    second = results.show(with_thresholds(analysis, 0.3, 0.3), node)
    display.present(first, analysis)
    for shown, hidden in ((second, first), (first, second)):
        display.swap(shown, hidden)
        display.show_map(shown, "anomaly")
        for run, visible in ((shown, True), (hidden, False)):
            views = (run.segmentation, run.discs)
            assert [bool(one.GetDisplayNode().GetVisibility()) for one in views] == [visible] * 2
        legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(hidden.maps["anomaly"])
        assert not (legend and legend.GetVisibility())
        selection = slicer.app.applicationLogic().GetSelectionNode()
        assert selection.GetActivePlotChartID() == shown.chart.GetID()
        looks = [run.maps["anomaly"].GetDisplayNode() for run in (first, second)]
        assert [one.GetWindowLevelMax() for one in looks] == pytest.approx(2 * [2.5 * 0.3])
        assert [one.GetLowerThreshold() for one in looks] == pytest.approx(2 * [0.3], abs=1e-6)


def test_only_the_presented_run_is_seen(host, analysis):
    """Of whatever volume the others are; what the user has hidden stays so."""
    runs = [results.show(analysis, volume_node(analysis.volume, name)) for name in ("first", "second")]
    legends = slicer.modules.colors.logic()

    def visible(run):
        legend = legends.GetColorLegendDisplayNode(run.maps["anomaly"])
        nodes = run.segmentation.GetDisplayNode(), run.discs.GetDisplayNode(), legend
        return [bool(node and node.GetVisibility()) for node in nodes]

    for shown, hidden in (runs, runs[::-1], runs):
        display.present(shown, analysis)
        assert (visible(shown), visible(hidden)) == ([True] * 3, [False] * 3)
    runs[1].discs.GetDisplayNode().SetVisibility(True)
    runs[0].discs.GetDisplayNode().SetVisibility(False)
    display.present(runs[0], analysis)
    assert (visible(runs[0]), visible(runs[1])) == ([True, False, True], [False] * 3)
    display.show_only(None)
    assert not any(visible(runs[0]) + visible(runs[1]))


def test_legend_is_drawn(host, analysis, shown):
    view = host.views[display.SAGITTAL]
    view.render()
    display.present(shown, analysis)
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(shown.maps["anomaly"])
    drawn = view.picture()
    legend.SetVisibility(False)
    changed = (drawn != view.picture()).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert columns.min() > view.size[0] / 2  # on the right of the cord
    # Its colours are those of the table: light yellow above, dark below.
    bar = drawn[rows.min() : rows.max(), columns.max() - 8].astype(int)
    assert bar.shape[0] > 80


def test_colours_are_those_of_the_pictures(host, analysis, shown):
    table = shown[display.HEAT]
    colours, colour = [], [0.0] * 4
    for k in (0, 64, 128, 255):
        table.GetColor(k, colour)
        colours.append(tuple(colour))
    expected = heat_colours(np.array([0, 64, 128, 255]) / 255)
    np.testing.assert_allclose(np.array(colours)[:, :3], expected, atol=1 / 255)
    np.testing.assert_allclose(np.array(colours)[:, 3], [0, 0.85 * 128 / 255, 0.85, 0.85], atol=1 / 255)
    shown_map = shown.maps["anomaly"].GetDisplayNode()
    assert shown_map.GetWindowLevelMax() == pytest.approx(heat_top(analysis)) == pytest.approx(0.5)
    assert shown_map.GetLowerThreshold() == pytest.approx(0.2)
    results.update_flags(shown, with_thresholds(analysis, 0.3, 0.3))
    assert shown_map.GetWindowLevelMax() == pytest.approx(0.75)
    assert shown_map.GetLowerThreshold() == pytest.approx(0.3)


def test_discs_are_drawn_on_every_sagittal_slice(host, analysis, shown):
    display.present(shown, analysis)
    display.jump(shown, analysis, 67.0, number=5, centre=True)
    view = host.views[display.SAGITTAL]
    with_discs = view.picture()
    shown.discs.GetDisplayNode().SetVisibility(False)
    assert (with_discs != view.picture()).any()
    axial = host.views[display.AXIAL]
    without = axial.picture()
    shown.discs.GetDisplayNode().SetVisibility(True)
    assert (without == axial.picture()).all()


# --- layout ---


def test_layout_has_slices_and_the_chart(host, app, analysis, shown):
    display.present(shown, analysis)
    assert app.layoutManager().layout == display.LAYOUT
    views = app.layoutManager().layoutLogic().GetViewNodes()
    classes = [views.GetItemAsObject(k).GetClassName() for k in range(views.GetNumberOfItems())]
    assert sorted(classes) == ["vtkMRMLPlotViewNode", *["vtkMRMLSliceNode"] * 3]
    plot = app.layoutManager().plotWidget(0).mrmlPlotViewNode()
    assert plot.GetPlotChartNodeID() == shown.chart.GetID()
    display.set_layout()
    assert app.layoutManager().layout == display.LAYOUT


def test_a_fresh_slicer_knows_the_layout():
    """A scene saves its layout's number alone."""
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkMRMLLayoutLogic()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    logic.SetMRMLScene(scene)
    assert logic.GetLayoutNode().IsLayoutDescription(display.LAYOUT)


def test_nothing_to_show_it_in(host, analysis, monkeypatch):
    """A scene without views and layout, as under --no-main-window."""
    monkeypatch.setattr(slicer, "mrmlScene", slicer.vtkMRMLScene())
    nodes = results.show(analysis, volume_node(analysis.volume))
    display.set_layout()
    display.show_chart(nodes.chart)
    display.align_views(nodes, analysis)
    display.show_map(nodes, "reconstruction")
    np.testing.assert_allclose(display.jump(nodes, analysis, 67.0, 4, centre=True), world((4, 77, 59.5)), atol=1)


# --- places ---


@pytest.mark.parametrize(("codes", "degrees", "transform"), GRIDS)
def test_positions_and_points(host, monkeypatch, codes, degrees, transform):
    """The made-up cord is straight: from row 9.5 to 189.5, in the middle of columns 56 … 63."""
    analysis = made_analysis(monkeypatch, codes, degrees)
    nodes = results.show(analysis, volume_node(analysis.volume, transform=transform))
    display.align_views(nodes, analysis)
    for s_mm in (10.0, 67.5, 150.0):
        expected = world((3, 9.5 + s_mm, 59.5), degrees, transform)
        point = display.point_at(nodes, analysis, s_mm, 3)
        np.testing.assert_allclose(point, expected, atol=0.3)
        assert display.nearest_position(nodes, analysis, point) == pytest.approx(s_mm, abs=1e-3)
        np.testing.assert_array_equal(display.jump(nodes, analysis, s_mm, 3), point)
        axial, sagittal = (host.views[name].node for name in (display.AXIAL, display.SAGITTAL))
        assert display.position_of_view(nodes, analysis, axial) == pytest.approx(s_mm, abs=0.05)
        assert display.position_of_view(nodes, analysis, sagittal) is None
    far = world((3, 77, 59.5 + 40), degrees, transform)
    assert display.nearest_position(nodes, analysis, far) is None
    assert display.nearest_position(nodes, analysis, far, farthest_mm=45) == pytest.approx(67.5, abs=0.5)
    assert display.nearest_position(nodes, analysis, world((3, 5, 59.5), degrees, transform)) is None
    assert display.nearest_position(nodes, analysis, world((25, 77, 59.5), degrees, transform)) is None


def test_jump_without_a_slice_goes_to_the_highest_curve(host, analysis, shown):
    lesion = display.jump(shown, analysis, 67.0)
    np.testing.assert_allclose(lesion, world((4, 76.5, 59.5)), atol=0.5)


def test_jump_moves_the_crosshair(host, analysis, shown):
    crosshair = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    point = display.jump(shown, analysis, 67.0)
    np.testing.assert_allclose(crosshair.GetCrosshairRAS(), point)
    assert crosshair.GetCrosshairMode() == crosshair.ShowSmallBasic
    crosshair.SetCrosshairMode(crosshair.ShowBasic)
    display.jump(shown, analysis, 20.0)
    assert crosshair.GetCrosshairMode() == crosshair.ShowBasic


def test_worst_where_nothing_is_flagged(host, analysis):
    s_mm, number = display.worst(with_thresholds(analysis, 0.9, 0.9))
    assert (round(s_mm) in range(64, 71), number) == (True, 4)


def test_input_was_deleted(host, analysis, shown):
    slicer.mrmlScene.RemoveNode(shown.input)
    display.present(shown, analysis)
    results.update_flags(shown, with_thresholds(analysis, 0.9, 0.9))
    assert shown.input is None


def test_transform_that_bends_is_followed(host, analysis, shown):
    """A grid transform that moves everything 5 mm to the left, as a stand-in for what is not linear."""
    grid = vtk.vtkImageData()
    grid.SetDimensions(2, 2, 2)
    grid.SetOrigin(-500, -500, -500)
    grid.SetSpacing(1000, 1000, 1000)
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    grid.GetPointData().GetScalars().Fill(0)
    for k in range(8):
        grid.GetPointData().GetScalars().SetComponent(k, 0, -5.0)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "bent")
    bent = slicer.vtkOrientedGridTransform()
    bent.SetDisplacementGridData(grid)
    transform.SetAndObserveTransformToParent(bent)
    still = display.point_at(shown, analysis, 67.0)
    shown.input.SetAndObserveTransformNodeID(transform.GetID())
    moved = display.point_at(shown, analysis, 67.0)
    np.testing.assert_allclose(moved - still, [-5, 0, 0], atol=1e-3)
    assert display.nearest_position(shown, analysis, moved) == pytest.approx(67.0, abs=1e-2)
