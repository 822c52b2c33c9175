"""The panel's "Before / after": the results of an adapted model and of the one that it was adapted from, by turns."""

from collections.abc import Callable
from dataclasses import replace

from slicer.i18n import tr as _

from U2ADLib.package import weights_sha256

from . import results
from .panel_model import ModelSection, scores_of, source_of
from .panel_results import ResultsSection
from .runs import Settings, made_with


class CompareSection:
    """A button that makes both results, and a toggle that switches between them."""

    def __init__(
        self,
        ui,
        model: ModelSection,
        shown: ResultsSection,
        volume: Callable[[], object],
        busy: Callable[[], bool],
        analyse: Callable[[list[Settings], Callable[[], None]], None],
    ):
        """:param volume: gives the chosen volume node. :param busy: whether something is being analysed.
        :param analyse: analyses the volume with one settings after the other, and calls back when all are done.
        """
        self.ui, self._model, self._results = ui, model, shown
        self._volume, self._busy, self._analyse = volume, busy, analyse
        ui.compareButton.connect("clicked(bool)", self._compare)
        ui.afterButton.connect("clicked(bool)", self._toggled)

    @property
    def _entries(self):
        """Of the source and of the adapted model; None where none is chosen, or its source is not installed."""
        after = self._model.model
        source = source_of(after)
        before = next((one for one in self._model.models if one.name == source and not one.problem), None)
        return before and (before, after)

    def _settings(self, entries):
        """Of either run: as chosen, with a score that both models have."""
        chosen = self._model.settings
        if chosen.score not in scores_of(entries[0]):
            chosen = replace(chosen, score="paper")  # which every model has
        return [replace(chosen, model=entry.name) for entry in entries]

    def refresh(self) -> None:
        """Follow the chosen model, the volume and its results."""
        ui, source, entries = self.ui, source_of(self._model.model), self._entries
        ui.compareButton.visible = source is not None
        ui.compareButton.enabled = entries is not None and self._volume() is not None and not self._busy()
        if entries:
            ui.compareButton.toolTip = _(
                "Analyse the volume with {before} and with {after}, where that has not been done yet, and switch "
                "between the results."
            ).format(before=entries[0].name, after=entries[1].name)
        elif source:
            ui.compareButton.toolTip = _("The model {name}, from which this one was adapted, is not installed.").format(
                name=source
            )
        before, after = self._pair(entries)
        both, shown = before is not None and after is not None, self._results.nodes
        is_before = both and shown is not None and shown.run == before.run
        ui.afterButton.visible, ui.afterButton.checked = both, not is_before
        ui.afterButton.text = _("Shown: before") if is_before else _("Shown: after")

    def _pair(self, entries):
        """The newest results of the volume before and after; None where there are none."""
        volume = self._volume()
        if entries is None or volume is None:
            return None, None
        runs = results.find(volume)[::-1]
        pair = []
        for entry, settings in zip(entries, self._settings(entries), strict=True):
            weights = weights_sha256(entry.card)
            pair.append(next((one for one in runs if made_with(one, settings, weights)), None))
        return pair

    def _compare(self, checked=False):
        entries = self._entries
        wanted = zip(self._settings(entries), self._pair(entries), strict=True)
        if missing := [settings for settings, nodes in wanted if nodes is None]:
            self._analyse(missing, self._present)
        else:
            self._present()

    def _present(self):
        before, after = self._pair(self._entries)
        if before and after:  # else another volume or model was chosen meanwhile
            self._results.show(after, present=True)
            self._results.switch(after, before)

    def _toggled(self, checked=False):
        before, after = self._pair(self._entries)
        if before and after:
            self._results.switch(*((after, before) if self.ui.afterButton.checked else (before, after)))
