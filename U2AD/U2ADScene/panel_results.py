"""The panel's section "Results", and the report of what it shows."""

from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.errors import U2ADError

from . import chart, display, results
from .export import export_report
from .runs import PREFIX, Analyses, model_thresholds

OVERLAYS = ("anomaly", "error", "uncertainty", "reconstruction", "")
ROW_HEIGHT = 22  # px
LARGEST_SCORE = 1.0  # scores are mean errors of intensities 0–1
FLAGGED, QUIET, FLAGGED_ROW = "#b3541e", "#3c6e47", "#f6d9c4"


class ResultsSection:
    """What a run found, and what can be changed about it without computing again.

    :ivar nodes: the `ResultNodes` that are shown; None where there are none.
    """

    def __init__(self, ui, analyses: Analyses, say: Callable[[str], None], complain: Callable[[str], None]):
        """:param say, complain: told what was done, and what went wrong."""
        self.ui, self._analyses, self._say, self._complain = ui, analyses, say, complain
        self.nodes, self.link = None, None
        self._filling = False
        names = (
            _("Anomaly"),
            _("Error of reconstruction"),
            _("Uncertainty"),
            _("Reconstruction"),
            _("The image alone"),
        )
        for value, text in zip(OVERLAYS, names, strict=True):
            ui.overlaySelector.addItem(text, value)
        ui.segmentsTable.setHorizontalHeaderLabels([_("Segment"), _("Score"), _("Threshold"), _("Flagged")])
        fit_table(ui.segmentsTable)
        ui.segmentsTable.setFixedHeight((len(SEGMENT_NAMES) + 2) * ROW_HEIGHT + 6)  # all rows and the header
        self._connect()

    def _connect(self):
        ui = self.ui
        for button, react in (
            (ui.resetThresholdsButton, self._reset_thresholds),
            (ui.levelUpButton, lambda: self._shift_levels(-1)),
            (ui.levelDownButton, lambda: self._shift_levels(1)),
            (ui.useDiscsButton, self._use_discs),
            (ui.exportButton, self._export),
        ):
            button.connect("clicked(bool)", lambda *_checked, react=react: react())
        ui.overlaySelector.connect("currentIndexChanged(int)", self._overlay_chosen)
        ui.opacitySlider.connect("valueChanged(double)", self._overlay_chosen)
        ui.legendCheckBox.connect("toggled(bool)", self._overlay_chosen)
        ui.segmentThreshold.connect("valueChanged(double)", self._thresholds_moved)
        ui.patientThreshold.connect("valueChanged(double)", self._thresholds_moved)
        ui.segmentsTable.connect("cellClicked(int,int)", self._segment_chosen)

    def show_newest(self, volume) -> None:
        """Show the newest results of a volume node, or that there are none."""
        runs = results.find(volume) if volume else []
        try:
            self.show(runs[-1] if runs else None)
        except U2ADError as error:
            self.show(None)
            self._complain(str(error))

    def show(self, nodes: results.ResultNodes | None, present: bool = False) -> None:
        """Show a run's results in the panel, and in the views where asked."""
        self.unlink()
        self.nodes = nodes
        ui = self.ui
        for widget in (
            ui.segmentThreshold, ui.patientThreshold, ui.overlaySelector, ui.legendCheckBox, ui.opacitySlider,
            ui.levelUpButton, ui.levelDownButton, ui.useDiscsButton, ui.exportButton,
        ):  # fmt: skip
            widget.enabled = nodes is not None
        ui.segmentsTable.visible = nodes is not None
        if nodes is None:
            ui.verdictLabel.text, ui.notesLabel.text = _("Nothing has been analysed yet."), ""
            ui.segmentsTable.setRowCount(0)
            ui.resetThresholdsButton.enabled = False
            return
        analysis = self._analyses.of(nodes)
        self._fit_sliders(analysis)
        self._fill_results(analysis)
        if present:
            display.present(nodes, analysis)
            chart.set_marker(nodes, display.worst(analysis)[0])
            self._overlay_chosen()
        self._connect_views(analysis)

    def _fit_sliders(self, analysis):
        """Ranges in which scores and thresholds lie; set once for a run, so that a slider does not jump when moved."""
        self._filling = True
        values = [analysis.patient_score]
        if analysis.thresholds:
            values += [analysis.thresholds.segment, analysis.thresholds.patient]
        for slider in (self.ui.segmentThreshold, self.ui.patientThreshold):
            slider.maximum = 2 * max(values) if analysis.thresholds else LARGEST_SCORE
        self._filling = False

    def _fill_results(self, analysis):
        from U2ADLib.pictures.analysis import verdict

        ui, self._filling = self.ui, True
        flagged = bool(analysis.flagged) or analysis.patient_flagged
        colour = FLAGGED if flagged else QUIET
        ui.verdictLabel.text = f'<b style="color:{colour}; font-size:large">{verdict(analysis)}</b>'
        notes = [f"• {note}" for note in analysis.notes]
        if analysis.missing:
            notes.insert(0, _("• Not analysed: {names}").format(names=", ".join(analysis.missing)))
        ui.notesLabel.text = "\n".join(notes)
        self._fill_table(analysis)
        thresholds = analysis.thresholds
        for slider, kind in ((ui.segmentThreshold, "segment"), (ui.patientThreshold, "patient")):
            slider.value = getattr(thresholds, kind) if thresholds else LARGEST_SCORE
        ui.resetThresholdsButton.enabled = thresholds is not None
        self._filling = False

    def _fill_table(self, analysis):
        table, limit = self.ui.segmentsTable, analysis.thresholds
        rows = [(s.name, s.score, limit.segment if limit else None, s.flagged) for s in analysis.segments]
        rows.append(
            (_("whole cord"), analysis.patient_score, limit.patient if limit else None, analysis.patient_flagged)
        )
        table.setRowCount(len(rows))
        for r, (name, score, threshold, flagged) in enumerate(rows):
            texts = (
                name,
                f"{score:.3f}",
                "" if threshold is None else f"{threshold:.3f}",
                _("flagged") if flagged else "",
            )
            for c, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                if flagged:
                    item.setBackground(qt.QBrush(qt.QColor(FLAGGED_ROW)))
                table.setItem(r, c, item)

    def _connect_views(self, analysis):
        self.link = chart.Link(self.nodes, analysis, self._position_chosen)
        self.link.connect()

    def unlink(self) -> None:
        """Follow the views no more."""
        if self.link:
            self.link.disconnect()
        self.link = None

    def _position_chosen(self, s_mm, number):
        analysis = self._analyses.of(self.nodes)
        for row, segment in enumerate(analysis.segments):
            if segment.start_mm <= s_mm < segment.stop_mm:
                self.ui.segmentsTable.selectRow(row)

    def _segment_chosen(self, row, column):
        analysis = self._analyses.of(self.nodes)
        if row < len(analysis.segments):
            place = analysis.segments[row].peak_mm, analysis.segments[row].peak_slice
        else:
            place = display.worst(analysis)
        display.jump(self.nodes, analysis, *place, centre=True)

    def _overlay_chosen(self, *changed):
        if self.nodes:
            which = self.ui.overlaySelector.currentData or None
            display.show_map(self.nodes, which, opacity=self.ui.opacitySlider.value)
            display.show_legend(self.nodes, which if self.ui.legendCheckBox.checked else None)

    def _thresholds_moved(self, value=None):
        if self._filling or not self.nodes:
            return
        segment, patient = self.ui.segmentThreshold.value, self.ui.patientThreshold.value
        self._changed(lambda: self._analyses.flag(self.nodes, segment, patient))

    def _reset_thresholds(self):
        thresholds = model_thresholds(self._analyses.of(self.nodes))
        if thresholds is None:
            self._complain(_("The model of these results is no longer installed: its thresholds are not known."))
        else:
            self._changed(lambda: self._analyses.flag(self.nodes, thresholds.segment, thresholds.patient))

    def _shift_levels(self, shift):
        self._changed(lambda: self._analyses.shift_levels(self.nodes, shift))

    def _use_discs(self):
        self._changed(lambda: self._analyses.use_discs(self.nodes))

    def _changed(self, change):
        """Do what changes the results without computing, and show them anew, or say why it cannot be done."""
        try:
            analysis = change()
        except U2ADError as error:
            self._complain(str(error))
            return
        if self.link:
            self.link.analysis = analysis
        self._fill_results(analysis)
        self._say("")

    def _export(self):
        folder = Path(self.ui.exportFolder.directory) / f"{PREFIX}{self.nodes.run}"
        try:
            *_others, page = export_report(self._analyses.of(self.nodes), folder)
        except U2ADError as error:
            self._complain(str(error))
        else:
            self._say(_("Report: {path}").format(path=page))


def fit_table(table) -> None:
    """Columns as wide as there is room, low rows, no row numbers."""
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
    table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
    table.verticalHeader().hide()
