"""The panel's section "Results", and the report of what it shows."""

from collections.abc import Callable
from pathlib import Path

import qt
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.errors import U2ADError

from . import chart, display, findings, results
from .export import export_report
from .runs import PREFIX, Analyses, model_thresholds

OVERLAYS = ("anomaly", "error", "uncertainty", "reconstruction", "")
ROW_HEIGHT = 22  # px
MOST_ROWS = 6  # of the table of findings; more are scrolled to
LARGEST_SCORE = 1.0  # scores are mean errors of intensities 0–1
# Backgrounds of black text, which is readable so in Slicer's light theme and in its dark one.
FLAGGED, QUIET, UNKNOWN, DOUBTFUL, WRONG = "#f6d9c4", "#d3ead8", "#e4e4e4", "#f5e6a8", "#f6cccc"
TEXT = "#000000"


class ResultsSection:
    """What a run found, and what can be changed about it without computing again.

    :ivar nodes: the `ResultNodes` that are shown; None where there are none.
    """

    def __init__(
        self,
        ui,
        analyses: Analyses,
        say: Callable[[str], None],
        complain: Callable[[str], None],
        shown: Callable[[], None] = lambda: None,
    ):
        """:param say, complain: told what was done, and what went wrong. :param shown: called when others are shown."""
        self.ui, self._analyses, self._say, self._complain, self._shown = ui, analyses, say, complain, shown
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
        fit_table(ui.segmentsTable)
        ui.segmentsTable.setFixedHeight((len(SEGMENT_NAMES) + 2) * ROW_HEIGHT + 6)  # all rows and the header
        fit_table(ui.findingsTable)
        ui.findingsTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.findingsTable.horizontalHeader().setStretchLastSection(True)
        self._connect()

    def _connect(self):
        ui = self.ui
        for button, react in (
            (ui.resetThresholdsButton, self._reset_thresholds),
            (ui.levelUpButton, lambda: self._shift_levels(-1)),
            (ui.levelDownButton, lambda: self._shift_levels(1)),
            (ui.useDiscsButton, self._use_discs),
            (ui.exportButton, self._export),
            (ui.showButton, self._show_in_views),
        ):
            button.connect("clicked(bool)", lambda *_checked, react=react: react())
        ui.overlaySelector.connect("currentIndexChanged(int)", self._overlay_chosen)
        ui.opacitySlider.connect("valueChanged(double)", self._overlay_chosen)
        ui.legendCheckBox.connect("toggled(bool)", self._overlay_chosen)
        ui.segmentThreshold.connect("valueChanged(double)", self._thresholds_moved)
        ui.patientThreshold.connect("valueChanged(double)", self._thresholds_moved)
        ui.segmentsTable.connect("cellClicked(int,int)", self._segment_chosen)
        ui.findingsTable.connect("cellClicked(int,int)", self._finding_chosen)

    def show_newest(self, volume, in_views: bool = False) -> None:
        """Show the newest results of a volume node, or that there are none.

        :param in_views: show its image and these results in the views, too, in whatever layout there is.
        """
        runs = results.find(volume) if volume else []
        try:
            self.show(runs[-1] if runs else None)
            if runs and in_views:
                self._present(in_layout=False)
        except U2ADError as error:
            self.show(None)
            self._complain(str(error))

    def show_again(self, volume) -> None:
        """Show the results that were shown last, where they are still there, or else the newest."""
        if volume and self.nodes and self.nodes.run in [one.run for one in results.find(volume)]:
            self.show(self.nodes)
        else:
            self.show_newest(volume)

    def show(self, nodes: results.ResultNodes | None, present: bool = False) -> None:
        """Show a run's results in the panel, and in the views where asked."""
        self._show(nodes, present)
        self._shown()

    def switch(self, nodes: results.ResultNodes, instead_of: results.ResultNodes) -> None:
        """Show a run's results where those of another one were, in the panel and in the views, which stay in place."""
        self.show(nodes)
        display.swap(nodes, instead_of)
        self._overlay_chosen()

    def _show(self, nodes, present):
        self.unlink()
        self.nodes = nodes
        ui = self.ui
        for widget in (
            ui.segmentThreshold, ui.patientThreshold, ui.overlaySelector, ui.legendCheckBox, ui.opacitySlider,
            ui.levelUpButton, ui.levelDownButton, ui.useDiscsButton, ui.exportButton, ui.showButton,
        ):  # fmt: skip
            widget.enabled = nodes is not None
        ui.segmentsTable.visible = nodes is not None
        if nodes is None:
            ui.verdictLabel.text, ui.notesLabel.text = _("Nothing has been analysed yet."), ""
            ui.segmentsTable.setRowCount(0)
            ui.findingsTable.visible = False
            ui.resetThresholdsButton.enabled = False
            return
        analysis = self._analyses.of(nodes)
        self._fit_sliders(analysis)
        self._fill_results(analysis)
        if present:
            self._present()
        self._connect_views(analysis)

    def _present(self, in_layout=True):
        """Show the results in the views. :param in_layout: in ours, with the plot."""
        analysis = self._analyses.of(self.nodes)
        display.present(self.nodes, analysis, in_layout)
        chart.set_marker(self.nodes, display.worst(analysis)[0])
        self._overlay_chosen()

    def _show_in_views(self):
        try:
            self.show(self.nodes, present=True)
        except U2ADError as error:
            self._complain(str(error))

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
        colour = FLAGGED if flagged else QUIET if analysis.thresholds else UNKNOWN
        ui.verdictLabel.text = marked(verdict(analysis), colour, "; font-size:large")
        notes = [
            _("Model {model}, {score}").format(
                model=analysis.provenance["model"]["name"], score=display.score_title(analysis.score)
            )
        ]
        if analysis.missing:
            notes.append(_("Not analysed: {names}").format(names=", ".join(analysis.missing)))
        notes += analysis.notes
        ui.notesLabel.text = "\n".join(f"• {note}" for note in notes)
        self._fill_table(analysis)
        self._fill_findings(analysis)
        thresholds = analysis.thresholds
        for slider, kind in ((ui.segmentThreshold, "segment"), (ui.patientThreshold, "patient")):
            slider.value = getattr(thresholds, kind) if thresholds else LARGEST_SCORE
        ui.resetThresholdsButton.enabled = thresholds is not None
        self._filling = False

    def _fill_table(self, analysis):
        table, limit = self.ui.segmentsTable, analysis.thresholds
        score = _("Score ({name})").format(name=analysis.score)
        table.setHorizontalHeaderLabels([_("Segment"), score, _("Threshold"), _("Flagged")])
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
                    _mark(item, FLAGGED)
                table.setItem(r, c, item)

    def _fill_findings(self, analysis):
        table, found = self.ui.findingsTable, findings.findings_of(analysis)
        table.visible = bool(found)
        titles = findings.columns()
        table.setHorizontalHeaderLabels([title for title, _explanation in titles])
        table.setRowCount(len(found))
        for c, (_title, explanation) in enumerate(titles):
            table.horizontalHeaderItem(c).setToolTip(explanation)
        for r, finding in enumerate(found):
            for c, text in enumerate(finding.texts()):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(titles[c][1])
                if finding.at_border:
                    _mark(item, DOUBTFUL)
                table.setItem(r, c, item)
        table.setFixedHeight((min(len(found), MOST_ROWS) + 1) * ROW_HEIGHT + 8)

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

    def _finding_chosen(self, row, column):
        analysis = self._analyses.of(self.nodes)
        finding = findings.findings_of(analysis)[row]
        display.jump(self.nodes, analysis, finding.s_mm, finding.slice_number, centre=True)

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
        try:
            thresholds = model_thresholds(self._analyses.of(self.nodes))
        except U2ADError:
            self._complain(_("The model of these results is no longer installed: its thresholds are not known."))
            return
        if thresholds is None:
            self._complain(_("The model has no thresholds for this score and these slices."))
            return
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
        overwrite = folder.is_dir() and any(folder.iterdir())
        if overwrite and not slicer.util.confirmOkCancelDisplay(
            _("There is a report of these results already, in {folder}. Replace it?").format(folder=folder)
        ):
            return
        try:
            *_others, page = export_report(self._analyses.of(self.nodes), folder, overwrite)
        except U2ADError as error:
            self._complain(str(error))
        else:
            self._say(_("Report: {path}").format(path=page))


def marked(text: str, background: str, style: str = "") -> str:
    """Rich text that can be read in a light theme and in a dark one. :param style: more of it, from a ";" on."""
    return f'<b style="color:{TEXT}; background-color:{background}{style}">{text}</b>'


def _mark(item, background):
    item.setBackground(qt.QBrush(qt.QColor(background)))
    item.setForeground(qt.QBrush(qt.QColor(TEXT)))


def fit_table(table) -> None:
    """Columns as wide as there is room, low rows, no row numbers."""
    table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
    table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
    table.verticalHeader().hide()
