"""Draws a plot chart node as qMRMLPlotView does: that view is a Qt widget and not part of `slicer-core`."""

from pathlib import Path

import vtk


def _add_plot(chart: vtk.vtkChartXY, series) -> None:
    bars = (series.PlotTypeBar, series.PlotTypeScatterBar)
    plot = chart.AddPlot(vtk.vtkChart.BAR if series.GetPlotType() in bars else vtk.vtkChart.LINE)
    table = series.GetTableNode().GetTable()
    if series.GetPlotType() in (series.PlotTypeScatter, series.PlotTypeScatterBar):
        plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
    else:
        plot.SetUseIndexForXSeries(True)
        plot.SetInputData(table, series.GetYColumnName(), series.GetYColumnName())
    plot.SetLabel(series.GetName())
    plot.SetColorF(*series.GetColor())
    plot.SetWidth(series.GetLineWidth())
    plot.GetPen().SetLineType(series.GetLineStyle())
    plot.GetPen().SetOpacityF(series.GetOpacity())
    plot.GetBrush().SetOpacityF(series.GetOpacity())
    if hasattr(plot, "SetMarkerStyle"):
        plot.SetMarkerStyle(series.GetMarkerStyle())
        plot.SetMarkerSize(series.GetMarkerSize())


def _prepare_axis(axis: vtk.vtkAxis, chart_node, title: str | None, limits: tuple[float, float] | None) -> None:
    """:param limits: fixed range; None: as the data need."""
    axis.SetTitle(title or "")
    axis.GetTitleProperties().SetFontSize(chart_node.GetAxisTitleFontSize())
    axis.GetLabelProperties().SetFontSize(chart_node.GetAxisLabelFontSize())
    axis.SetGridVisible(chart_node.GetGridVisibility())
    axis.SetBehavior(vtk.vtkAxis.AUTO if limits is None else vtk.vtkAxis.FIXED)
    if limits is not None:
        axis.SetRange(*limits)


def fill_chart(chart: vtk.vtkChartXY, chart_node) -> None:
    """Give a VTK chart the contents and the look of a vtkMRMLPlotChartNode."""
    chart.ClearPlots()
    for index in range(chart_node.GetNumberOfPlotSeriesNodes()):
        _add_plot(chart, chart_node.GetNthPlotSeriesNode(index))
    chart.SetTitle((chart_node.GetTitle() or "") if chart_node.GetTitleVisibility() else "")
    chart.GetTitleProperties().SetFontSize(chart_node.GetTitleFontSize())
    chart.SetShowLegend(chart_node.GetLegendVisibility())
    chart.GetBackgroundBrush().SetColor(255, 253, 246)
    x_limits = None if chart_node.GetXAxisRangeAuto() else chart_node.GetXAxisRange()
    y_limits = None if chart_node.GetYAxisRangeAuto() else chart_node.GetYAxisRange()
    _prepare_axis(chart.GetAxis(vtk.vtkAxis.BOTTOM), chart_node, chart_node.GetXAxisTitle(), x_limits)
    _prepare_axis(chart.GetAxis(vtk.vtkAxis.LEFT), chart_node, chart_node.GetYAxisTitle(), y_limits)


def save_chart(
    chart_node, path: str | Path, size: tuple[int, int] = (700, 350), chart: vtk.vtkChartXY | None = None
) -> vtk.vtkChartXY:
    """Write the chart of a vtkMRMLPlotChartNode as a PNG file. :returns: the VTK chart, the given one or a new one."""
    chart = chart or vtk.vtkChartXY()
    fill_chart(chart, chart_node)
    view = vtk.vtkContextView()
    window = view.GetRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(*size)
    window.SetMultiSamples(0)
    view.GetRenderer().SetBackground(1, 1, 1)
    view.GetScene().AddItem(chart)
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputConnection(grabber.GetOutputPort())
    writer.Write()
    view.GetScene().RemoveItem(chart)
    return chart
