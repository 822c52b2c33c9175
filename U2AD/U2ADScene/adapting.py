"""Adapting a model to a hospital's own images: `u2ad adapt` in the worker, from volumes of the scene or a folder.

It takes minutes to hours, goes on whatever is done in Slicer meanwhile, and is asked about before Slicer quits. What
was stopped lies in the user's models folder and goes on from there when the same is asked for again.
"""

import csv
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.errors import InputError, U2ADError, UsageError
from U2ADLib.io import write_volume
from U2ADLib.package import CARD, find_model, is_name, list_models, read_card, user_models_folder
from U2ADLib.progress import StageClock

from . import results
from .inputs import cord_of, volume_of
from .job import CANCELLED, CANCELLING, ENDED, FAILED, READY, STARTING, Job
from .results import RUN
from .runs import PREFIX

EPOCHS = 200
STAGES = {  # where in the whole each begins and ends; by the command's default the last quarter of the epochs is "AU"
    "Reading images": (0.0, 0.04),
    "Adapting, EU stage": (0.04, 0.76),
    "Adapting, AU stage": (0.76, 1.0),
}
# … where the model has discriminators, which are adapted after the network
STAGES_WITH_SCORE = {stage: (0.75 * low, 0.75 * high) for stage, (low, high) in STAGES.items()}
STAGES_WITH_SCORE["Adapting, score"] = (0.75, 1.0)
READING = "Reading images"
PATIENCE_MS = 60_000  # until a worker that should stop is ended by force; it looks up after every step
PATIENCE_AT_EXIT_MS = 20_000  # when Slicer ends without having asked
LOOK_EVERY_S = 1.0  # at the curves
SETTINGS = "U2AD/adaptations/"  # of the application's settings
UNSET_FOLDERS = ("", ".")  # what a directory button tells before a folder was chosen
_LEFT_OUT = " is left out: "  # in what the worker says of an image, between its file and why
_OTHER_DATA = "holds the state of a training with other data"  # in its error where an adaptation cannot be continued
_PARTS = 1_000_000


@dataclass(frozen=True)
class Request:
    """What to adapt, and to what.

    :ivar name: of the new model. :ivar folder: of the images; or else :ivar volumes: ids of the volume nodes.
    :ivar cords: id of a volume node → id of the segmentation or label map with its cord. A volume without one has the
        cord that its newest analysis in the scene was given or that was corrected there, see `given_cord`; that of the
        others is found, and so is one for which "" is given.
    :ivar few: go on with few images or people. Volumes of one patient of the subject hierarchy are one person's.
    """

    name: str
    model: str = "default"
    folder: str | None = None
    volumes: tuple[str, ...] = ()
    cords: Mapping[str, str] = field(default_factory=dict)
    epochs: int = EPOCHS
    few: bool = False
    device: str = "auto"

    @property
    def out(self) -> Path:
        """Folder of the new model."""
        return user_models_folder() / self.name

    def arguments(self, images: Iterable[Path]) -> list[str]:
        """Of the command line."""
        parts = ["adapt", *map(str, images), "--model", self.model, "--out", str(self.out)]
        parts += ["--epochs", str(self.epochs), "--device", self.device]
        return [*parts, "--few"] if self.few else parts


@dataclass(frozen=True)
class Unfinished:
    """An adaptation that was stopped: epochs done, of how many; None where its state does not say."""

    name: str
    epoch: int | None
    epochs: int | None


def checked(request: Request) -> Request:
    """The request with the model's own name. :raises U2ADError: it cannot be carried out, and why."""
    if not is_name(request.name):
        raise UsageError(
            _("{name!r} cannot be the name of a model: use letters, digits, '.', '_' and '-'.").format(
                name=request.name
            )
        )
    if request.name == "default" or any(entry.name == request.name for entry in list_models()):
        raise UsageError(_("There is a model {name} already: give another name.").format(name=request.name))
    if request.folder in UNSET_FOLDERS:
        raise InputError(_("Choose the folder with the images to learn from."))
    if request.folder is not None and not Path(request.folder).is_dir():
        raise InputError(_("There is no folder {folder}.").format(folder=request.folder))
    if request.folder is None and not request.volumes:
        raise InputError(_("Choose the images to learn from."))
    find_model(request.model)
    return replace(request, model=find_model().name) if request.model == "default" else request


def free_name(source: str) -> str:
    """A name for a model adapted from `source` that nothing has yet."""
    taken = {entry.name for entry in list_models()} | {one.name for one in unfinished()}
    name, number = f"{source}-adapted", 2
    while name in taken:
        name, number = f"{source}-adapted-{number}", number + 1
    return name


def images_in_scene() -> list:
    """The volume nodes that could be learnt from: neither results of ours nor label maps."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [
        node for node in nodes
        if not node.GetAttribute(RUN) and not node.IsA("vtkMRMLLabelMapVolumeNode") and not node.GetHideFromEditors()
    ]  # fmt: skip


def given_cord(volume_node):
    """The segmentation of the newest analysis of a volume, where the user gave its cord or corrected it by hand since.

    None where the cord is to be found: it was found before, or its segment was deleted or emptied.
    """
    runs = [nodes for nodes in results.find(volume_node) if nodes.segmentation is not None]
    if not runs or _segment_in(runs[-1].segmentation) is None:
        return None
    nodes = runs[-1]
    try:
        shown = cord_of(nodes.segmentation, volume_node, volume_of(volume_node), results.CORD_ID).array
        if results.cord_was_given(nodes):
            return nodes.segmentation
        made = results.restore(nodes, volume_node).on_input("cord")
    except (U2ADError, ImportError):  # there is nothing to use, or to compare it with
        return None
    return None if np.array_equal(shown > 0, made > 0) else nodes.segmentation


def patient_of(volume_node):
    """What tells the patient of a volume in the subject hierarchy from others; None of a volume without one.

    It can be the patient's ID: it is to be compared, and written nowhere.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    item, invalid = hierarchy.GetItemByDataNode(volume_node), hierarchy.GetInvalidItemID()
    if item != invalid:
        item = hierarchy.GetItemAncestorAtLevel(item, constants.GetDICOMLevelPatient())
    if item == invalid:
        return None
    return hierarchy.GetItemUID(item, constants.GetDICOMUIDName()) or item  # two scenes can hold one patient


def _segment_in(cord):
    """Of a segmentation that an analysis made the segment of the cord; None leaves the choice to `cord_of`."""
    is_result = cord.IsA("vtkMRMLSegmentationNode") and cord.GetAttribute(RUN)
    return results.CORD_ID if is_result and cord.GetSegmentation().GetSegment(results.CORD_ID) else None


def unfinished() -> list[Unfinished]:
    """What was stopped, by name."""
    folder = user_models_folder()
    found = []
    for state in sorted(folder.glob("*/training/state.json")) if folder.is_dir() else []:
        name = state.parents[1].name
        if name.startswith(".") or (state.parents[1] / CARD).exists():
            continue
        try:
            record = json.loads(state.read_text(encoding="utf-8"))
            recipe = record.get("recipe") or {}
            if recipe and "source" not in recipe:
                continue  # a training of another kind
            found.append(Unfinished(name, record.get("epoch"), recipe.get("config", {}).get("epochs")))
        except (OSError, ValueError, AttributeError):
            found.append(Unfinished(name, None, None))
    return found


def discard(name: str) -> None:
    """Delete what an unfinished adaptation has learnt. :raises UsageError: there is none of that name."""
    if name not in [one.name for one in unfinished()]:
        raise UsageError(_("There is no unfinished adaptation {name}.").format(name=name))
    shutil.rmtree(user_models_folder() / name, ignore_errors=True)
    _forget(name)


def remembered(name: str) -> Request | None:
    """What an unfinished adaptation was started with, less nodes of the scene; None where that is not known."""
    try:
        return Request(name, **json.loads(slicer.app.userSettings().value(SETTINGS + name) or ""))
    except (ValueError, TypeError):
        return None


def _remember(request):
    # No ids of nodes: in the next scene they may be others'.
    known = {k: v for k, v in asdict(request).items() if k not in ("name", "volumes", "cords")}
    slicer.app.userSettings().setValue(SETTINGS + request.name, json.dumps(known))


def _forget(name):
    slicer.app.userSettings().remove(SETTINGS + name)


def read_curves(folder: Path) -> dict[str, list[float]]:
    """The columns of an adaptation's curves, NaN where an epoch has no value; {} where there are none yet.

    Columns of words are left out, and so is a last line that is just being written.

    :param folder: of the new model.
    """
    try:
        with open(folder / "training" / "curves.csv", newline="", encoding="utf-8") as stream:
            header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    except (OSError, UnicodeDecodeError):
        return {}
    rows = [row for row in rows if len(row) == len(header)]
    columns = {name: [_number(row[k]) for row in rows] for k, name in enumerate(header)}
    return {name: values for name, values in columns.items() if not all(map(math.isnan, values))}


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


# ----------------------------------------------------------------------------------------------------------------------


class Adaptation:
    """One adaptation under way.

    :ivar error: what the user is told in the end where no model was made; "" before and otherwise.
    :ivar cords: as `Request.cords`, of all volumes that have been written: what goes on from here needs the same ones.
    :ivar has_other_data: whether it could not be continued, because it was started with other images or settings.
    """

    def __init__(
        self,
        request: Request,
        *,
        on_progress: Callable[[str, float, float | None], None] | None = None,
        on_state: Callable[[str], None] | None = None,
        on_curves: Callable[[dict[str, list[float]]], None] | None = None,
    ):
        """:param on_progress: called with the stage, 0–1 of the whole, and the seconds left; None: not known yet.
        :param on_curves: called with the curves (see `read_curves`) whenever there is a new epoch.
        :raises U2ADError: the request cannot be carried out.
        """
        self.request = checked(request)
        self._on_progress, self._on_state, self._on_curves = on_progress, on_state, on_curves
        self.error, self.cords, self.has_other_data = "", {}, False
        self._before_job: str | None = READY  # the state, until the job has one
        has_score = "discriminators" in read_card(find_model(self.request.model))
        stages = STAGES_WITH_SCORE if has_score else STAGES
        self._job = Job(self._progress, self._job_changed, stages=stages, patience_ms=PATIENCE_MS)
        self._clock, self._looked, self._curves_of = StageClock(), 0.0, None
        self._left: list[str] = []  # volumes still to be written
        self._images: list[Path] = []
        self._names: dict[str, str] = {}  # of the copies → of the volumes
        self._patients: list = []  # as `patient_of` tells them apart, in the order of the volumes
        self._folder: Path | None = None  # of the copies
        self._is_new = not self.request.out.exists()
        self._guard = None
        self._program = None

    @property
    def state(self) -> str:
        """As that of a `Job`; STARTING while copies of the scene's volumes are written."""
        return self._before_job or self._job.state

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Volumes of the scene, or files, that could not be used so far: name, and why."""
        found = []
        for file, said, why in (note.partition(_LEFT_OUT) for note in self._job.notes):
            if said:
                name = self._names.get(file, file)
                found.append((name, why.replace(file, name).replace(Path(file).stem, name) if name != file else why))
        return found

    def start(self, program: str | None = None) -> None:
        """Start, or go on from where an adaptation of this name was stopped. Returns at once."""
        self._program = program
        _remember(self.request)
        self._guard = QuitGuard(self)
        self._set_early_state(STARTING)
        if self.request.folder is not None:
            self._start_job([Path(self.request.folder)])
            return
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=slicer.app.temporaryPath))
        self._left = list(self.request.volumes)
        qt.QTimer.singleShot(0, self._write_next)

    def stop(self) -> None:
        """Ask the worker to stop. What was learnt up to the last whole epoch is kept."""
        if self._before_job == STARTING:
            self._end_early(CANCELLED, self._stopped_text())
        else:
            self._job.cancel()

    def wait(self) -> str:
        """Wait for the end while Slicer goes on working; the new model's name. :raises U2ADError: there is none."""
        while self._before_job == STARTING:
            slicer.app.processEvents()
        if self._before_job is None:
            self._job.wait()
        if self.error:
            raise U2ADError(self.error)
        return self.request.name

    def wait_at_exit(self) -> None:
        """Stop, and give the worker some time for it, when Slicer itself ends."""
        self.stop()
        self._job.wait_at_exit(PATIENCE_AT_EXIT_MS)

    # --- copies of the scene's volumes, one at a time so that nobody has to wait

    def _write_next(self):
        if self._before_job != STARTING:
            return
        if not self._left:
            self._start_job(self._images)
            return
        node = slicer.mrmlScene.GetNodeByID(self._left.pop(0))
        try:
            if node is None:
                raise InputError(_("One of the chosen volumes was deleted: start again."))
            path = self._folder / self._file_name(node)
            volume = volume_of(node)
            write_volume(path, volume)
            self._names[path.name] = node.GetName()
            cord = self._cord(node)
            self.cords[node.GetID()] = "" if cord is None else cord.GetID()
            if cord is not None:
                # The name by which the worker finds the cord of an image.
                write_volume(path.with_name(f"{path.stem}_cord.nrrd"), cord_of(cord, node, volume, _segment_in(cord)))
        except U2ADError as error:
            self._end_early(FAILED, str(error))
            return
        except Exception as error:  # a defect must not leave the panel running for ever
            self._end_early(FAILED, _("The volumes could not be written: {error}").format(error=error))
            return
        self._images.append(path)
        qt.QTimer.singleShot(0, self._write_next)

    def _file_name(self, volume_node):
        """Of a volume's copy. It tells the worker which ones are one person's, and nobody who that is: names of nodes
        often are patients'."""
        number, patient = f"volume-{len(self._images) + 1:03d}.nrrd", patient_of(volume_node)
        if patient is None:
            return number
        if patient not in self._patients:
            self._patients.append(patient)
        return f"sub-person{self._patients.index(patient) + 1}_{number}"

    def _cord(self, volume_node):
        """The node with the cord of a volume; None where it is to be found."""
        chosen = self.request.cords.get(volume_node.GetID())
        if chosen is None:
            return given_cord(volume_node)
        if not chosen:
            return None
        node = slicer.mrmlScene.GetNodeByID(chosen)
        if node is None:
            raise InputError(_("The cord of {volume} was deleted: start again.").format(volume=volume_node.GetName()))
        return node

    def _start_job(self, images):
        self._before_job = None
        self._job.start(self.request.arguments(images), self._program)

    def _set_early_state(self, state):
        self._before_job = state
        if self._on_state:
            self._on_state(state)

    def _end_early(self, state, error):
        self.error = error
        self._tidy_up()
        self._set_early_state(state)

    # --- what the job tells

    def _progress(self, stage, fraction, stage_seconds_left):
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._look_at_curves()
            if self._folder is not None:
                os.utime(self._folder)  # a folder of yesterday's is taken for one that was left over
        left = None if stage == READING else self._clock.seconds_left("", round(_PARTS * fraction), _PARTS)
        if self._on_progress:
            self._on_progress(stage, fraction, left)

    def _look_at_curves(self):
        try:
            written = (self.request.out / "training" / "curves.csv").stat().st_mtime_ns
        except OSError:
            return
        if written != self._curves_of and self._on_curves and (curves := read_curves(self.request.out)):
            self._curves_of = written
            self._on_curves(curves)

    def _job_changed(self, state):
        if state in ENDED:
            self._look_at_curves()
            if state == CANCELLED:
                self.error = self._stopped_text()
            elif state == FAILED:
                self.has_other_data = _OTHER_DATA in self._job.error
                self.error = self._other_data_text() if self.has_other_data else self._job.error
            else:
                _forget(self.request.name)
            self._tidy_up()
        elif state == STARTING:
            return  # told before
        if self._on_state:
            self._on_state(state)

    def _stopped_text(self):
        kept = next((one for one in unfinished() if one.name == self.request.name), None)
        if kept is None:
            return _("Stopped before the first epoch was over: nothing was learnt that could be kept.")
        if kept.epoch is None:
            return _("Stopped. It can be continued.")
        return _("Stopped. What was learnt up to epoch {done} of {all} is kept: it can be continued.").format(
            done=kept.epoch, all=self.request.epochs
        )

    def _other_data_text(self):
        images = _("volumes and cords") if self.request.folder is None else _("folder of images")
        return _(
            "{name} cannot be continued like this, because it was started with other images, cords or settings: choose "
            "the same {images}, model and number of epochs again, or start anew under another name."
        ).format(name=self.request.name, images=images)

    def _tidy_up(self):
        if self._guard:
            self._guard.remove()
            self._guard = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        out = self.request.out
        learnt = (out / CARD).exists() or (out / "training" / "state.json").exists()
        if not learnt:
            _forget(self.request.name)
            if self._is_new:
                shutil.rmtree(out, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------------------


class QuitGuard:
    """Asks before Slicer quits, and lets an adaptation stop in good order first."""

    def __init__(self, adaptation: Adaptation):
        self._adaptation, self._closing = adaptation, False
        self._window = slicer.util.mainWindow()
        self._filter = None
        if self._window is not None:
            self._filter = _CloseFilter(self._asked_to_close)
            self._window.installEventFilter(self._filter)
        self._slot = adaptation.wait_at_exit  # one object: connected and disconnected as the same
        slicer.app.connect("aboutToQuit()", self._slot)

    def remove(self) -> None:
        """After the adaptation has ended; closes Slicer, where the user wanted that."""
        slicer.app.disconnect("aboutToQuit()", self._slot)
        if self._filter is not None:
            self._window.removeEventFilter(self._filter)
            qt.QTimer.singleShot(0, self._filter.deleteLater)  # it may be what called this
            self._filter = None
        if self._closing:
            window = self._window
            qt.QTimer.singleShot(0, lambda: window.close())

    def _asked_to_close(self) -> None:
        if self._closing:
            return
        question = _(
            "The model {name} is being adapted. Stop it and quit? What was learnt so far is kept, and the adaptation "
            "can be continued."
        ).format(name=self._adaptation.request.name)
        asks = self._adaptation.state != CANCELLING and not slicer.app.testingEnabled()
        if not asks or slicer.util.confirmYesNoDisplay(question):
            self._closing = True
            self._adaptation.stop()


class _CloseFilter(qt.QWidget):
    """Holds back the closing of a window."""

    def __init__(self, asked: Callable[[], None]):
        qt.QWidget.__init__(self)
        self._asked = asked

    def eventFilter(self, watched, event) -> bool:
        if event.type() != qt.QEvent.Close:
            return False
        event.ignore()
        self._asked()
        return True
