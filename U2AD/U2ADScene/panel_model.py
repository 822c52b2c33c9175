"""The panel's section "Model and device"."""

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.errors import U2ADError
from U2ADLib.package import BUNDLED_DEFAULT, install_model, list_models, remove_model

from .job import DONE, Job
from .runs import Settings


class ModelSection:
    """Which model, which slices, which device.

    :ivar program: another Python than PythonSlicer, for tests.
    """

    def __init__(self, ui, changed: Callable[[], None], complain: Callable[[str], None]):
        """:param changed: called when another model is chosen. :param complain: told what went wrong."""
        self.ui, self._changed, self._complain = ui, changed, complain
        self.program, self.job, self._models = None, None, []
        for value, text in (
            ("all", _("All that show enough cord")),
            ("middle", _("The middle one only, as in the paper")),
        ):
            ui.sliceSelector.addItem(text, value)
        self._fill_devices([{"device": "cpu", "name": _("CPU")}])
        self._fill_models()
        ui.installModelButton.connect("clicked(bool)", self._install)
        ui.removeModelButton.connect("clicked(bool)", self._remove)
        ui.modelSection.connect("contentsCollapsed(bool)", self._look_for_devices)
        ui.modelSelector.connect("currentIndexChanged(int)", self._chosen)

    @property
    def model(self):
        """The entry of the chosen model; None where there is none."""
        index = self.ui.modelSelector.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    @property
    def settings(self) -> Settings:
        return Settings(
            model=self.ui.modelSelector.currentData,
            device=self.ui.deviceSelector.currentData,
            slices=self.ui.sliceSelector.currentData,
        )

    def stop(self) -> None:
        if self.job:
            self.job.cancel()

    def _look_for_devices(self, collapsed):
        """Ask a worker what there is, once the section is opened: it takes torch, which does not belong in here."""
        if collapsed or self.job is not None:
            return
        self.job = Job(on_state=self._devices_found)
        self.job.start(["devices"], self.program)

    def _devices_found(self, state):
        if state == DONE:
            self._fill_devices(self.job.result["devices"])

    def _fill_devices(self, devices):
        selector = self.ui.deviceSelector
        chosen = selector.currentData
        selector.clear()
        selector.addItem(_("Automatic"), "auto")
        for device in devices:
            detail = _("5 to 20 s for a usual scan")
            if "free_gb" in device:
                detail = _("{free} of {total} GB free").format(free=device["free_gb"], total=device["total_gb"])
            text = device["name"] if device["device"] == "mps" else f"{device['name']} ({detail})"
            selector.addItem(text, device["device"])
        selector.setCurrentIndex(max(selector.findData(chosen), 0))

    def _fill_models(self, chosen: str | None = None):
        chosen = chosen or BUNDLED_DEFAULT["analysis"]
        self._models = [entry for entry in list_models() if entry.kind == "analysis"]
        selector = self.ui.modelSelector
        selector.blockSignals(True)
        selector.clear()
        for entry in self._models:
            origin = _("bundled") if entry.bundled else _("yours")
            selector.addItem(f"{entry.name} ({origin})", entry.name)
        selector.setCurrentIndex(max(selector.findData(chosen), 0))
        selector.blockSignals(False)
        self._chosen()

    def _chosen(self, index=None):
        entry = self.model
        self.ui.removeModelButton.enabled = entry is not None and not entry.bundled
        self.ui.modelCard.text = card_text(entry) if entry else _("No model is installed.")
        self._changed()

    def _install(self, checked=False):
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Install a model"), "", _("Model packages (*.zip)")
        )
        if path:
            self.install(path)

    def install(self, path: str) -> None:
        """Install a package and choose it."""
        try:
            self._fill_models(install_model(Path(path)).name)
        except U2ADError as error:
            self._complain(str(error))

    def _remove(self, checked=False):
        entry = self.model
        if not slicer.util.confirmOkCancelDisplay(_("Delete the model {name}?").format(name=entry.name)):
            return
        try:
            remove_model(entry.name)
        except U2ADError as error:
            self._complain(str(error))
        self._fill_models()


def card_text(entry) -> str:
    """What a person should know of a model before using it."""
    training = entry.card.get("training", {})
    lines = []
    if people := training.get("people"):
        lines.append(_("Learnt from {number} people.").format(number=len(people)))
    if phantoms := training.get("phantoms"):
        lines.append(_("And from {number} simulated necks.").format(number=phantoms))
    origins = {threshold.get("origin", "") for threshold in entry.card.get("thresholds", [])}
    lines += [_("Thresholds: {origin}.").format(origin=origin) for origin in sorted(origins) if origin]
    if licence := entry.card.get("licence"):
        lines.append(_("Licence: {licence}.").format(licence=licence))
    if entry.problem:
        lines.append(entry.problem)
    return "\n".join(lines)
