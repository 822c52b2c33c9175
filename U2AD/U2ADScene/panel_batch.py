"""The panel's section "Batch": a folder of images, one after the other."""

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from .adapting import UNSET_FOLDERS
from .job import CANCELLED, DONE, ENDED
from .panel_results import fit_table
from .runs import batch_rows

FOLDERS = "U2AD/folders/"  # of the application's settings


def recall_folder(button, name: str) -> None:
    """Show in a directory button what `remember_folder` was told of it, if it is still there."""
    folder = slicer.app.userSettings().value(FOLDERS + name) or ""
    if folder and Path(folder).is_dir():
        button.directory = folder


def remember_folder(button, name: str) -> None:
    """Keep the folder of a directory button for the next time that Slicer is started."""
    slicer.app.userSettings().setValue(FOLDERS + name, button.directory)


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
        is_busy: Callable[[], bool],
    ):
        """:param start: called with the two folders and callbacks for progress and state; gives the `Job`, or None.
        :param changed: called when a batch begins or ends. :param is_busy: whether something else runs.
        """
        self.ui, self._start, self._show_progress = ui, start, show_progress
        self._say, self._complain, self._changed, self._is_busy = say, complain, changed, is_busy
        self.job, self._out = None, None
        ui.batchTable.setHorizontalHeaderLabels([_("Image"), _("Status"), _("Flagged"), _("Message")])
        fit_table(ui.batchTable)
        self._buttons = {"batch-input": ui.batchInput, "batch-output": ui.batchOutput}
        for name, button in self._buttons.items():
            recall_folder(button, name)
        ui.batchButton.connect("clicked(bool)", self._start_or_cancel)

    def stop(self) -> None:
        if self.job:
            self.job.cancel()

    def refresh(self) -> None:
        """Follow whether something else runs."""
        self.ui.batchButton.enabled = self.job is not None or not self._is_busy()

    def _start_or_cancel(self, checked=False):
        if self.job:
            self.job.cancel()
            return
        chosen = [button.directory for button in self._buttons.values()]
        folder, out = map(Path, chosen)
        if folder == out or any(one in UNSET_FOLDERS for one in chosen):
            self._complain(_("Choose two folders: one that holds the images, and another one for the results."))
            return
        self._out = out
        self.job = self._start(folder, out, self._progress, self._state_changed)
        if self.job:
            for name, button in self._buttons.items():
                remember_folder(button, name)
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
