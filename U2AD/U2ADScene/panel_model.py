"""The panel's section "Model and device"."""

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.errors import U2ADError
from U2ADLib.package import BUNDLED_DEFAULT, card_purpose, install_model, list_models, remove_model

from .job import DONE, Job
from .runs import Settings, card_thresholds

SCORES = ("default", "paper")


class ModelSection:
    """Which model, which score, which slices, which device.

    :ivar program: another Python than PythonSlicer, for tests.
    """

    def __init__(
        self,
        ui,
        changed: Callable[[], None],
        complain: Callable[[str], None],
        score_chosen: Callable[[str], None] = lambda score: None,
    ):
        """:param changed: called when another model is chosen, or the list has changed.
        :param complain: told what went wrong. :param score_chosen: told which score the user wants.
        """
        self.ui, self._changed, self._complain, self._score_chosen = ui, changed, complain, score_chosen
        self.program, self.job, self._models = None, None, []
        self._wanted_score = SCORES[0]
        for value, text in zip(SCORES, (_("Default (recommended)"), _("Paper (AnoMap)")), strict=True):
            ui.scoreSelector.addItem(text, value)
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
        ui.scoreSelector.connect("currentIndexChanged(int)", self._score_selected)
        ui.sliceSelector.connect("currentIndexChanged(int)", self._show_thresholds)

    @property
    def models(self) -> list:
        """The entries of all models that can analyse, damaged ones included."""
        return list(self._models)

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
            score=self.ui.scoreSelector.currentData,
        )

    def want_score(self, score: str) -> None:
        """Choose a score; while the model does not have it, the one that it has is shown and used."""
        self._wanted_score = score
        self._fit_score()

    def choose(self, name: str) -> None:
        """Read the list of models anew and choose one of them."""
        self._fill_models(name)

    def stop(self) -> None:
        if self.job:
            self.job.cancel()

    def _look_for_devices(self, collapsed):
        """Ask a worker what there is, when the section is opened: it takes torch, which does not belong in here.

        Asked again where there was no answer: torch may have been installed since.
        """
        if collapsed or (self.job is not None and (self.job.state == DONE or not self.job.ended)):
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
        self._fit_score()
        self._changed()

    def _fit_score(self):
        """Enable the scores that the model has; show the wanted one, or else the first that can be had."""
        selector, had = self.ui.scoreSelector, scores_of(self.model)
        for k, name in enumerate(SCORES):
            selector.model().item(k).setEnabled(name in had)
        shown = self._wanted_score if self._wanted_score in had else had[0]
        selector.blockSignals(True)
        selector.setCurrentIndex(selector.findData(shown))
        selector.blockSignals(False)
        self._show_thresholds()

    def _score_selected(self, index=None):
        self._wanted_score = self.ui.scoreSelector.currentData
        self._show_thresholds()
        self._score_chosen(self._wanted_score)

    def _show_thresholds(self, index=None):
        entry, settings = self.model, self.settings
        thresholds = card_thresholds(entry.card, settings.slices, settings.score) if entry else None
        if thresholds:
            self.ui.thresholdsLabel.text = _("Flagged above: segment {segment:.3f}, patient {patient:.3f}.").format(
                segment=thresholds.segment, patient=thresholds.patient
            )
        else:
            self.ui.thresholdsLabel.text = _(
                "This model has no thresholds for this score and these slices: scores are given, and nothing is "
                "flagged until thresholds are set."
            )

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
        except OSError as error:
            self._complain(
                _("The model {name} could not be deleted: {error}. Close what uses its files, and try again.").format(
                    name=entry.name, error=error.strerror or error
                )
            )
        self._fill_models()


def scores_of(entry) -> tuple[str, ...]:
    """The names of the scores that a model has; that of the paper where its card names none."""
    had = entry.card.get("scores") if entry else None
    return tuple(name for name in SCORES if name in (had or ())) or ("paper",)


def source_of(entry) -> str | None:
    """The name of the model that a model was adapted from; None where it was not."""
    lineage = entry.card.get("lineage") if entry else None
    return lineage[-1]["name"] if lineage else None


def card_text(entry) -> str:
    """What a person should know of a model before using it."""
    training = entry.card.get("training", {})
    lines = []
    if source := source_of(entry):
        people = training.get("people_count", training.get("people", "?"))  # the latter in older cards
        lines.append(
            _("Adapted from {source} to {slices} slices of {people} people.").format(
                source=source, slices=training.get("slices", "?"), people=people
            )
        )
        figures = entry.card.get("metrics", {}).get("adapted_slices", {})
        if "before" in figures and "after" in figures:
            lines.append(
                _("How well it rebuilds them (SSIM): {before:.3f} before, {after:.3f} after.").format(
                    before=figures["before"]["ssim"], after=figures["after"]["ssim"]
                )
            )
    elif people := training.get("people"):
        lines.append(_("Learnt from {number} people.").format(number=len(people)))
    purpose = card_purpose(entry.card)
    lines.insert(1, _("For {contrast} of the {region}.").format(contrast=purpose.contrast, region=purpose.region))
    if phantoms := training.get("phantoms"):
        lines.append(_("And from {number} simulated necks.").format(number=phantoms))
    origins = {threshold.get("origin", "") for threshold in entry.card.get("thresholds", [])}
    lines += [_("Thresholds: {origin}.").format(origin=origin) for origin in sorted(origins) if origin]
    if licence := entry.card.get("licence"):
        lines.append(_("Licence: {licence}.").format(licence=licence))
    if entry.problem:
        lines.append(entry.problem)
    return "\n".join(lines)
