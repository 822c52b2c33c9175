"""The curves of an adaptation: read while they are being written, and drawn."""

import math

import pytest
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from slicer_bench.plots import save_chart
from U2ADScene import curves, display
from U2ADScene.adapting import read_curves
from U2ADScene.curves import CurvesChart

HEADER = "epoch,stage,rate,loss,mse,edge,adapted_mse,adapted_ssim,held_out_mse\n"
ROWS = "0,,,,,,0.02,0.80,\n1,EU,0.1,0.5,0.04,0.3,,,\n2,EU,0.1,0.4,0.03,0.2,0.015,0.85,\n"


def written(folder, text):
    (folder / "training").mkdir(exist_ok=True)
    (folder / "training" / "curves.csv").write_text(text)
    return folder


def column(chart, name):
    return vtk_to_numpy(chart._nodes["table"].GetTable().GetColumnByName(name)).tolist()


def drawn(chart):
    """Names of the series, as the legend shows them."""
    return [chart.node.GetNthPlotSeriesNode(k).GetName() for k in range(chart.node.GetNumberOfPlotSeriesNodes())]


def test_reading(tmp_path):
    found = read_curves(written(tmp_path, HEADER + ROWS))
    assert found["epoch"] == [0, 1, 2]
    assert found["adapted_ssim"] == pytest.approx([0.80, math.nan, 0.85], nan_ok=True)
    assert not {"stage", "held_out_mse"} & set(found)  # words, and a column without a value


@pytest.mark.parametrize("text", [HEADER + ROWS + "3,EU,0.1,0.", HEADER + ROWS + "3", HEADER + ROWS + "\n"])
def test_a_line_that_is_being_written_is_left_out(tmp_path, text):
    assert read_curves(written(tmp_path, text))["epoch"] == [0, 1, 2]


@pytest.mark.parametrize("text", ["", "epoch,loss", HEADER, "\n\n"])
def test_nothing_yet(tmp_path, text):
    assert read_curves(tmp_path) == {}
    assert read_curves(written(tmp_path, text)) == {}


def test_only_what_has_values_is_drawn(tmp_path, app):
    chart = CurvesChart()
    chart.update(read_curves(written(tmp_path, HEADER + ROWS)), title="Adaptation of x")
    assert chart.node is None  # nobody has asked to see it
    chart.show()
    assert drawn(chart) == ["training (hidden patches)", "your images"]
    assert column(chart, "mse x") == [1, 2]
    assert column(chart, "adapted_mse x") == [0, 2]
    assert column(chart, "adapted_mse y") == [0.02, 0.015]
    chart.update(chart.columns, quantity="ssim")
    assert drawn(chart) == ["your images"]
    assert chart.node.GetYAxisTitle() == curves.quantity_titles()["ssim"]
    chart.update(chart.columns, quantity="psnr")
    assert drawn(chart) == []
    assert "no epoch is done yet" in chart.node.GetTitle()


def test_it_is_shown_in_the_plot_view_and_grows(tmp_path, app):
    chart = CurvesChart()
    chart.update({}, title="Adaptation of x")
    chart.show()
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActivePlotChartID() == chart.node.GetID()
    assert slicer.app.layoutManager().layout == display.LAYOUT
    before = slicer.mrmlScene.GetNumberOfNodes()
    for rows in (ROWS, ROWS + "3,EU,0.1,0.3,0.02,0.1,,,\n"):
        chart.update(read_curves(written(tmp_path, HEADER + rows)))
    assert column(chart, "mse y") == [0.04, 0.03, 0.02]
    assert slicer.mrmlScene.GetNumberOfNodes() == before + 2  # a series each, and none more for the next epoch
    save_chart(chart.node, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 3000


def test_closed_scenes_do_not_end_it(tmp_path, app):
    chart = CurvesChart()
    chart.update(read_curves(written(tmp_path, HEADER + ROWS)), title="Adaptation of x")
    chart.show()
    assert not chart.node.GetSaveWithScene()
    slicer.mrmlScene.Clear(0)
    assert chart.node is None
    chart.update(chart.columns)
    assert chart.node is None
    chart.show()
    assert drawn(chart) == ["training (hidden patches)", "your images"]
