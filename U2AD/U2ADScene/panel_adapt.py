"""The panel's section "Adapt": a model learns a hospital's own images."""

import html
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.errors import U2ADError
from U2ADLib.package import BUNDLED_DEFAULT, user_models_folder
from U2ADLib.progress import format_seconds

from . import adapting
from .adapting import Adaptation, Request
from .curves import CurvesChart, quantity_titles
from .job import CANCELLED, CANCELLING, DONE, ENDED
from .panel_batch import recall_folder, remember_folder
from .panel_model import ModelSection
from .panel_results import WRONG, marked

FOLDER, SCENE = "folder", "scene"
MOST_LEFT_OUT = 10  # images that are named in the end


class AdaptSection:
    """What to adapt to what, how it goes on, and what was left unfinished.

    :ivar adaptation: the `Adaptation` that runs; None where none does.
    :ivar program: another Python than PythonSlicer, for tests.
    """

    def __init__(self, ui, model: ModelSection, ready: Callable[[], bool], cords: Callable[[], dict[str, str]]):
        """:param model: has the models and the device; a new model is chosen there.
        :param ready: makes sure that the packages are installed.
        :param cords: those chosen in the panel, see `Request.cords`.
        """
        self.ui, self._model, self._ready, self._cords = ui, model, ready, cords
        self.adaptation, self.program = None, None
        self.curves = CurvesChart()
        self._chosen_for: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}  # volumes, cords: of this session's
        self._filling = False
        for value, text in ((FOLDER, _("A folder of images")), (SCENE, _("Volumes in this scene"))):
            ui.adaptInputSelector.addItem(text, value)
        for value, text in quantity_titles().items():
            ui.curvesSelector.addItem(text, value)
        recall_folder(ui.adaptFolder, "adapt")
        self._connect()
        self._fit_input()
        self.refresh()

    def _connect(self):
        ui = self.ui
        for button, react in (
            (ui.adaptButton, self._start_or_stop),
            (ui.continueButton, self._continue),
            (ui.discardButton, self._discard),
            (ui.curvesButton, self.curves.show),
        ):
            button.connect("clicked(bool)", lambda *_checked, react=react: react())
        ui.adaptInputSelector.connect("currentIndexChanged(int)", self._fit_input)
        ui.adaptModelSelector.connect("currentIndexChanged(int)", self._propose_name)
        ui.unfinishedSelector.connect("currentIndexChanged(int)", self._unfinished_chosen)
        ui.curvesSelector.connect("currentIndexChanged(int)", self._quantity_chosen)
        ui.adaptSection.connect("contentsCollapsed(bool)", lambda *_collapsed: self.refresh())

    def refresh(self) -> None:
        """Follow what models, volumes and unfinished adaptations there are."""
        self._fill_models()
        self.fill_volumes()
        self._fill_unfinished()
        self._fit_buttons()

    def stop(self) -> None:
        """Stop what runs."""
        if self.adaptation:
            self.adaptation.stop()

    # --- what there is

    def _fill_models(self):
        selector, chosen = self.ui.adaptModelSelector, self.ui.adaptModelSelector.currentData
        names = [entry.name for entry in self._model.models if not entry.problem]
        if [selector.itemData(k) for k in range(selector.count)] == names:
            return
        selector.blockSignals(True)
        selector.clear()
        for name in names:
            selector.addItem(name, name)
        selector.setCurrentIndex(max(selector.findData(chosen or BUNDLED_DEFAULT["analysis"]), 0))
        selector.blockSignals(False)
        self._propose_name()

    def _propose_name(self, index=None):
        self.ui.adaptName.text = adapting.free_name(self.ui.adaptModelSelector.currentData or "model")

    def fill_volumes(self) -> None:
        """List the scene's volumes; those that were ticked stay so."""
        ticked, widget = self.ticked(), self.ui.adaptVolumes
        nodes = adapting.images_in_scene()
        before = [(widget.item(k).data(qt.Qt.UserRole), widget.item(k).text()) for k in range(widget.count)]
        if before == [(node.GetID(), node.GetName()) for node in nodes]:
            return
        widget.clear()
        for node in nodes:
            item = qt.QListWidgetItem(node.GetName())
            item.setData(qt.Qt.UserRole, node.GetID())
            item.setCheckState(qt.Qt.Checked if node.GetID() in ticked else qt.Qt.Unchecked)
            widget.addItem(item)

    def ticked(self) -> tuple[str, ...]:
        """Ids of the volumes that are ticked."""
        items = [self.ui.adaptVolumes.item(k) for k in range(self.ui.adaptVolumes.count)]
        return tuple(item.data(qt.Qt.UserRole) for item in items if item.checkState() == qt.Qt.Checked)

    def _tick(self, volumes):
        for k in range(self.ui.adaptVolumes.count):
            item = self.ui.adaptVolumes.item(k)
            item.setCheckState(qt.Qt.Checked if item.data(qt.Qt.UserRole) in volumes else qt.Qt.Unchecked)

    def _fill_unfinished(self, chosen: str | None = None):
        selector = self.ui.unfinishedSelector
        chosen = chosen or selector.currentData
        running = self.adaptation.request.name if self.adaptation else None
        found = [one for one in adapting.unfinished() if one.name != running]
        self._filling = True
        selector.clear()
        for one in found:
            epochs = "" if one.epoch is None else _(" ({done} of {all} epochs)").format(done=one.epoch, all=one.epochs)
            selector.addItem(one.name + epochs, one.name)
        selector.setCurrentIndex(max(selector.findData(chosen), 0))
        self._filling = False
        for widget in (self.ui.UnfinishedLabel, selector, self.ui.continueButton, self.ui.discardButton):
            widget.visible = bool(found)

    def _fit_input(self, index=None):
        from_scene = self.ui.adaptInputSelector.currentData == SCENE
        self.ui.adaptVolumes.visible, self.ui.adaptFolder.visible = from_scene, not from_scene
        if from_scene:
            self.fill_volumes()

    def _fit_buttons(self):
        ui, running = self.ui, self.adaptation is not None
        stopping = running and self.adaptation.state == CANCELLING
        ui.adaptButton.text = _("Stop") if running else _("Adapt")
        ui.adaptButton.enabled = not stopping
        for widget in (
            ui.adaptModelSelector, ui.adaptInputSelector, ui.adaptFolder, ui.adaptVolumes, ui.adaptEpochs,
            ui.adaptFewCheckBox, ui.adaptName, ui.unfinishedSelector, ui.continueButton, ui.discardButton,
        ):  # fmt: skip
            widget.enabled = not running
        ui.adaptProgress.visible = running

    # --- start, stop, continue

    def _request(self, name, cords=None):
        ui = self.ui
        from_scene = ui.adaptInputSelector.currentData == SCENE
        return Request(
            name=name,
            model=ui.adaptModelSelector.currentData or "default",
            folder=None if from_scene else ui.adaptFolder.directory,
            volumes=self.ticked() if from_scene else (),
            cords=(self._cords() if cords is None else cords) if from_scene else {},
            epochs=ui.adaptEpochs.value,
            few=ui.adaptFewCheckBox.checked,
            device=self._model.settings.device,
        )

    def _start_or_stop(self):
        if self.adaptation:
            self.adaptation.stop()
            return
        name = self.ui.adaptName.text.strip()
        if name in [one.name for one in adapting.unfinished()]:
            self._complain(
                _("There is an unfinished adaptation {name}: continue it, or give another name.").format(name=name)
            )
            return
        self._start(name)

    def _continue(self):
        name = self.ui.unfinishedSelector.currentData
        self._show_settings(name)
        _volumes, cords = self._chosen_for.get(name, ((), None))
        self._start(name, cords)

    def _start(self, name, cords=None):
        """:param cords: see `Request.cords`; None: those chosen in the panel."""
        try:
            self.adaptation = Adaptation(
                self._request(name, cords),
                on_progress=self._progress,
                on_state=self._state_changed,
                on_curves=self.curves.update,
            )
            if not self._ready():
                self.adaptation = None
                return
        except U2ADError as error:
            self.adaptation = None
            self._complain(str(error))
            return
        request = self.adaptation.request
        if request.folder is not None:
            remember_folder(self.ui.adaptFolder, "adapt")
        self.curves.update(
            adapting.read_curves(request.out), title=_("Adaptation of {source}").format(source=request.model)
        )
        self.curves.show()
        self.ui.curvesButton.enabled = True
        self.ui.adaptProgress.value = 0
        self._say(_("Starting…"))
        self.adaptation.start(self.program)
        self.refresh()

    def _unfinished_chosen(self, index=None):
        name = self.ui.unfinishedSelector.currentData
        if self._filling or name is None:
            return
        self.curves.update(adapting.read_curves(user_models_folder() / name), title=name)
        self.ui.curvesButton.enabled = bool(self.curves.columns)
        self._say(self._show_settings(name))

    def _show_settings(self, name):
        """Put what an adaptation was started with into the fields, as far as it is known; what the user has to do."""
        ui, known = self.ui, adapting.remembered(name)
        epochs = next((one.epochs for one in adapting.unfinished() if one.name == name), None)
        if epochs:
            ui.adaptEpochs.value = epochs
        if known is None:
            return _("It is not known what {name} was started with: choose model and images.").format(name=name)
        ui.adaptModelSelector.setCurrentIndex(max(ui.adaptModelSelector.findData(known.model), 0))
        ui.adaptFewCheckBox.checked = known.few
        if known.folder and not Path(known.folder).is_dir():
            return _("The folder {folder} is gone: choose where its images are now.").format(folder=known.folder)
        ui.adaptInputSelector.setCurrentIndex(ui.adaptInputSelector.findData(FOLDER if known.folder else SCENE))
        if known.folder:
            ui.adaptFolder.directory = known.folder
        elif name in self._chosen_for:
            self._tick(self._chosen_for[name][0])
        else:
            return _("Tick the volumes that {name} was started with.").format(name=name)
        return ""

    def _discard(self):
        name = self.ui.unfinishedSelector.currentData
        if slicer.util.confirmOkCancelDisplay(_("Delete what {name} has learnt so far?").format(name=name)):
            adapting.discard(name)
            self._say("")
            self.refresh()

    # --- while it runs

    def _progress(self, stage, fraction, seconds_left):
        self.ui.adaptProgress.value = round(1000 * fraction)
        left = "" if seconds_left is None else _(", {time} left").format(time=format_seconds(seconds_left))
        self._say(f"{_(stage)}: {100 * fraction:.0f} %{left}")

    def _state_changed(self, state):
        adaptation = self.adaptation
        if adaptation is None:
            return
        if state == CANCELLING:
            self._say(_("Stopping…"))
        if state in ENDED:
            self.adaptation = None
            name = adaptation.request.name
            self._keep_choice(adaptation)
            left_out = _left_out_text(adaptation)
            if state == DONE:
                self._say(_("Done. The model {name} is chosen above.").format(name=name) + left_out)
                self._model.choose(name)
            elif state == CANCELLED:
                self._say(adaptation.error + left_out)
            else:
                self._complain(adaptation.error + left_out)
            self._fill_unfinished(name)
            self.refresh()
            self._propose_name()
            return
        self._fit_buttons()

    def _keep_choice(self, adaptation):
        """Of volumes and their cords, with which it can be continued; those that it refuses are no use."""
        request = adaptation.request
        if adaptation.has_other_data:
            self._chosen_for.pop(request.name, None)
        elif request.volumes:
            self._chosen_for[request.name] = request.volumes, dict(request.cords) | adaptation.cords

    def _quantity_chosen(self, index=None):
        self.curves.update(self.curves.columns, quantity=self.ui.curvesSelector.currentData)

    # --- messages

    def _say(self, text):
        self.ui.adaptStatus.text = _as_html(text)

    def _complain(self, text):
        self.ui.adaptStatus.text = marked(_as_html(text), WRONG)


def _as_html(text):
    return html.escape(text, quote=False).replace("\n", "<br>")


def _left_out_text(adaptation):
    """Lines that name the images that were not used; "" where all were."""
    left_out = adaptation.left_out
    if not left_out:
        return ""
    lines = [_("Images that were left out: {number}.").format(number=len(left_out))]
    lines += [f"{name}: {why}" for name, why in left_out[:MOST_LEFT_OUT]]
    if len(left_out) > MOST_LEFT_OUT:
        lines.append(_("And {number} more.").format(number=len(left_out) - MOST_LEFT_OUT))
    return "\n" + "\n".join(lines)
