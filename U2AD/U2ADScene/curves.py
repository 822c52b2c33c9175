"""The curves of an adaptation as a plot over its epochs, drawn anew while it runs.

The nodes are not saved with the scene: the curves lie with the model.
"""

import math
from collections.abc import Mapping, Sequence

import slicer
from slicer.i18n import tr as _

from . import chart, display

QUANTITIES = ("mse", "psnr", "ssim", "variance")
PREFIXES = ("", "adapted_", "held_out_")  # of the columns: of training, of the images adapted to, of other people's


class CurvesChart:
    """One chart, for one adaptation after the other.

    :ivar columns: the curves that are shown, as `adapting.read_curves` gives them.
    """

    def __init__(self):
        self.columns: dict[str, Sequence[float]] = {}
        self._title, self._quantity = "", QUANTITIES[0]
        self._nodes: dict[str, object] = {}

    @property
    def node(self):
        """The chart node; None before it was shown, and after the scene was closed."""
        return self._alive("chart")

    def show(self) -> None:
        """Show the chart in the plot view, and a layout that has one."""
        self._fill()
        display.set_layout()
        display.show_chart(self.node)

    def update(
        self, columns: Mapping[str, Sequence[float]], title: str | None = None, quantity: str | None = None
    ) -> None:
        """Take other curves. Where the chart is in the scene, it follows at once."""
        self.columns = dict(columns)
        self._title = self._title if title is None else title
        self._quantity = quantity or self._quantity
        if self.node is not None:
            self._fill()

    def _alive(self, role):
        node = self._nodes.get(role)
        return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None

    def _node(self, role, kind, name):
        node = self._alive(role)
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass(kind)
            node.UnRegister(None)
            node.SetHideFromEditors(role != "chart")
            node.SetSaveWithScene(False)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
            self._nodes[role] = node = slicer.mrmlScene.AddNode(node)
        return node

    def _fill(self):
        from U2ADLib.pictures.canvas import BLUE, GREEN, VERMILION

        table = self._node("table", "vtkMRMLTableNode", _("Adaptation table"))
        lines = lines_of(self.columns, self._quantity)
        longest = max((len(x) for x, _y in lines.values()), default=0)
        filled = [math.nan] * longest
        chart.set_columns(table, {
            f"{name} {axis}": [*values, *filled][:longest]
            for name, line in lines.items() for axis, values in zip("xy", line, strict=True)
        })  # fmt: skip
        titles = (_("training (hidden patches)"), _("your images"), _("other people's images"))
        looks = dict(zip(PREFIXES, zip(titles, (BLUE, VERMILION, GREEN), strict=True), strict=True))
        node = self._node("chart", "vtkMRMLPlotChartNode", _("Adaptation"))
        changing = node.StartModify()
        node.RemoveAllPlotSeriesNodeIDs()
        for prefix, (title, colour) in looks.items():
            name = prefix + self._quantity
            if name in lines:
                node.AddAndObservePlotSeriesNodeID(self._series(prefix, name, title, colour, table).GetID())
        node.SetTitle(self._title if lines else self._title + "\n" + _("no epoch is done yet"))
        node.SetXAxisTitle(_("epoch"))
        node.SetYAxisTitle(quantity_titles()[self._quantity])
        node.SetLegendVisibility(True)
        node.SetGridVisibility(True)
        node.SetXAxisRangeAuto(True)
        node.SetYAxisRangeAuto(True)
        node.EndModify(changing)

    def _series(self, role, name, title, colour, table):
        kind = slicer.vtkMRMLPlotSeriesNode
        series = self._node(f"series.{role}", "vtkMRMLPlotSeriesNode", title)
        changing = series.StartModify()
        series.SetName(title)  # the legend shows it
        series.SetPlotType(kind.PlotTypeScatter)
        # Every epoch has a value of training; the others, at some epochs, would not be seen one by one.
        series.SetMarkerStyle(kind.MarkerStyleCircle if role else kind.MarkerStyleNone)
        series.SetMarkerSize(6)
        series.SetLineWidth(2)
        series.SetColor(*(channel / 255 for channel in colour))
        series.SetXColumnName(f"{name} x")
        series.SetYColumnName(f"{name} y")
        series.SetAndObserveTableNodeID(table.GetID())
        series.EndModify(changing)
        return series


def quantity_titles() -> dict[str, str]:
    """What can be drawn: column without its prefix → in words."""
    titles = (
        _("Error (mean squared)"),
        _("PSNR in dB (higher is better)"),
        _("SSIM (higher is better)"),
        _("Uncertainty (variance × 1000)"),
    )
    return dict(zip(QUANTITIES, titles, strict=True))


def lines_of(columns: Mapping[str, Sequence[float]], quantity: str) -> dict[str, tuple[list[float], list[float]]]:
    """Name of each column of a quantity that has values → its epochs and values, without the gaps."""
    lines = {}
    for prefix in PREFIXES:
        name = prefix + quantity
        pairs = [
            (epoch, value)
            for epoch, value in zip(columns.get("epoch", ()), columns.get(name, ()), strict=False)
            if math.isfinite(epoch) and math.isfinite(value)
        ]
        if pairs:
            lines[name] = ([epoch for epoch, _value in pairs], [value for _epoch, value in pairs])
    return lines
