"""The panel's section "Batch": a folder of images, one after the other."""

from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

from .job import CANCELLED, DONE, ENDED
from .panel_results import fit_table
from .runs import batch_rows


class BatchSection:
    """Folder in, folder out, and a table that fills.

    :ivar job: the `Job` that runs; None where none does.
    """

    def __init__(
        self,
        ui,
        start: Callable,
        show_progress: Callable[[str, float, float | None], None],
        say: Callable[[str], None],
        complain: Callable[[str], None],
        changed: Callable[[], None],
    ):
        """:param start: called with the two folders and callbacks for progress and state; gives the `Job`, or None.
        :param changed: called when a batch begins or ends.
        """
        self.ui, self._start, self._show_progress = ui, start, show_progress
        self._say, self._complain, self._changed = say, complain, changed
        self.job, self._out = None, None
        ui.batchTable.setHorizontalHeaderLabels([_("Image"), _("Status"), _("Flagged"), _("Message")])
        fit_table(ui.batchTable)
        ui.batchButton.connect("clicked(bool)", self._start_or_cancel)

    def stop(self) -> None:
        if self.job:
            self.job.cancel()

    def _start_or_cancel(self, checked=False):
        if self.job:
            self.job.cancel()
            return
        folder, out = Path(self.ui.batchInput.directory), Path(self.ui.batchOutput.directory)
        if folder == out:
            self._complain(_("Choose two folders: one that holds the images, and another one for the results."))
            return
        self._out = out
        self.job = self._start(folder, out, self._progress, self._state_changed)
        if self.job:
            self.ui.batchButton.text = _("Cancel")
            self.ui.progressBar.value, self.ui.progressBar.visible = 0, True
        self._changed()

    def _progress(self, stage, fraction, seconds_left):
        self._show_progress(stage, fraction, seconds_left)
        self._fill_table()

    def _state_changed(self, state):
        if state not in ENDED or self.job is None:
            return
        job, self.job = self.job, None
        self.ui.batchButton.text = _("Analyse all")
        self.ui.progressBar.visible = False
        self._fill_table()
        if state == DONE:
            self._say(job.result["summary"])
        elif state == CANCELLED:
            self._say(_("Cancelled. What is done is kept: Analyse all goes on from there."))
        else:
            self._complain(job.error)
        self._changed()

    def _fill_table(self):
        table = self.ui.batchTable
        rows = batch_rows(self._out)
        table.setRowCount(len(rows))
        for r, row in enumerate(rows):
            for c, name in enumerate(("id", "status", "flagged", "message")):
                table.setItem(r, c, qt.QTableWidgetItem(row.get(name) or ""))
