"""A run from a volume node to result nodes, in between the worker; and what is changed afterwards without it.

The panel opens with this module: what takes long to import, or may not be installed yet, is imported where it is used.
"""

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from U2ADLib.config import from_dict
from U2ADLib.errors import U2ADError
from U2ADLib.package import Thresholds, find_model, read_card

from . import results
from .job import DONE, FAILED, Job

PREFIX = "U2AD-"  # of temporary folders
LEFT_OVER_AFTER_S = 24 * 3600


@dataclass(frozen=True)
class Settings:
    """How to analyse; names and values as the command line's. A score of None is the model's own choice."""

    model: str = "default"
    device: str = "auto"
    slices: str = "all"
    score: str | None = None
    seed: int = 0

    def arguments(self) -> list[str]:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


class Run:
    """One analysis of a volume node.

    :ivar nodes: the `ResultNodes`, once the job is DONE.
    :ivar kept: copies of what the user had corrected in results that were replaced, see `results.keep_corrections`.
    :ivar error: what the user is told where it is not.
    """

    def __init__(
        self,
        volume_node,
        settings: Settings,
        *,
        cord=None,
        discs=None,
        into: results.ResultNodes | None = None,
        on_progress: Callable[[str, float, float | None], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ):
        """:param cord, discs: nodes, see `inputs.write_inputs`. :param into: results that the new ones replace."""
        from .inputs import write_inputs

        self._volume_id, self._into = volume_node.GetID(), into
        self._on_state = on_state
        self.nodes, self.analysis, self.error, self.kept = None, None, "", []
        _remove_leftovers(Path(slicer.app.temporaryPath))
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=slicer.app.temporaryPath))
        self._observed = []
        self.job = Job(on_progress=on_progress, on_state=self._changed)
        try:
            written = write_inputs(volume_node, self._folder, cord, discs)
        except BaseException:
            self._tidy_up()
            raise
        self._arguments = ["analyse", str(written.volume), "--out", str(self._results), *settings.arguments()]
        self._arguments += ["--no-labels-beside"]
        for name in ("cord", "discs"):
            if path := getattr(written, name):
                self._arguments += [f"--{name}", str(path)]

    @property
    def _results(self):
        return self._folder / "results"

    @property
    def state(self) -> str:
        return self.job.state

    def start(self, program: str | None = None) -> None:
        """Start the worker. The end is told by `on_state`, after the nodes are made."""
        scene = slicer.mrmlScene
        for event, react in ((scene.NodeRemovedEvent, self._node_gone), (scene.StartCloseEvent, self._scene_gone)):
            self._observed.append((scene, scene.AddObserver(event, react)))
        self.job.start(self._arguments, program)

    def wait(self) -> results.ResultNodes:
        """Wait for the end. :raises U2ADError: it failed or was cancelled."""
        self.job.wait()
        if self.nodes is None:
            raise U2ADError(self.error)
        return self.nodes

    def _node_gone(self, caller, event):
        if slicer.mrmlScene.GetNodeByID(self._volume_id) is None:
            self.job.cancel(_("The volume was deleted: the run was cancelled."))

    def _scene_gone(self, caller, event):
        self.job.cancel(_("The scene was closed: the run was cancelled."))

    def _changed(self, state):
        if self.job.ended:
            try:
                if state == DONE:
                    self._show()
                self.error = self.job.error
            except U2ADError as error:
                self.error, self.job.state = str(error), FAILED
            except Exception as error:  # a defect must not leave the panel running for ever
                self.error, self.job.state = _("The results could not be shown: {error}").format(error=error), FAILED
            finally:
                self._tidy_up()
        if self._on_state:
            self._on_state(self.job.state)

    def _show(self):
        from U2ADLib.io import read_volume
        from U2ADLib.report import read_results

        volume_node = slicer.mrmlScene.GetNodeByID(self._volume_id)
        if volume_node is None:
            raise U2ADError(_("The volume was deleted before its results could be shown."))
        self.analysis = read_results(self._results, read_volume(self._folder / "volume.nrrd"))
        if self._into:
            self.kept = results.keep_corrections(self._into, self.analysis, volume_node)
        self.nodes = results.show(self.analysis, volume_node, self._into)

    def _tidy_up(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []
        shutil.rmtree(self._folder, ignore_errors=True)


class Analyses:
    """The analyses behind the results in the scene; those of a loaded scene are restored from their nodes."""

    def __init__(self):
        self._kept = {}

    def keep(self, nodes: results.ResultNodes, analysis) -> None:
        self._kept[nodes.run] = analysis

    def forget(self) -> None:
        """After the scene was closed."""
        self._kept.clear()

    def of(self, nodes: results.ResultNodes):
        """The analysis of a run. :raises U2ADError: it cannot be restored, see `results.restore`."""
        if nodes.run not in self._kept:
            try:
                self._kept[nodes.run] = results.restore(nodes, nodes.input)
            except ImportError as error:  # a scene of another computer
                raise U2ADError(
                    _("To change these results, a package is needed that Apply installs: {name}").format(
                        name=error.name
                    )
                ) from None
        return self._kept[nodes.run]

    def flag(self, nodes: results.ResultNodes, segment: float, patient: float):
        """Flag at other thresholds, at once."""
        from U2ADLib.analysis import with_thresholds

        analysis = with_thresholds(self.of(nodes), segment, patient)
        self.keep(nodes, analysis)
        results.update_flags(nodes, analysis)
        return analysis

    def shift_levels(self, nodes: results.ResultNodes, shift: int):
        """Take every disc for the one `shift` levels farther down. :raises U2ADError: none is known, or none left."""
        from U2ADLib.roi.labels import renumbered

        return self._relabel(nodes, renumbered(self._discs(nodes), shift))

    def use_discs(self, nodes: results.ResultNodes, markups=None):
        """Name the segments by the discs as they lie in the scene now. :raises InputError: they cannot be used."""
        from .inputs import discs_from_markups

        return self._relabel(nodes, discs_from_markups(markups or nodes.discs, nodes.input))

    def _discs(self, nodes):
        """Those in the scene: the user may have moved some."""
        discs = results.moved_discs(nodes, self.of(nodes))
        if discs is None:
            raise U2ADError(_("No disc is known in these results: place points named C2/3 … and use them."))
        return discs

    def _relabel(self, nodes, discs):
        from U2ADLib.analysis import relabelled

        if not discs.points:
            raise U2ADError(_("No disc from C2/3 to C7/T1 would be left."))
        analysis = relabelled(self.of(nodes), discs)
        self.keep(nodes, analysis)
        results.show(analysis, nodes.input, nodes, keep_cord=True)
        return analysis


def _remove_leftovers(place: Path) -> None:
    """Remove folders of runs during which Slicer itself was killed: they hold images of patients."""
    for folder in place.glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > LEFT_OVER_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # another Slicer removed it


def card_thresholds(card: dict, slices: str, score: str):
    """The thresholds of a model's card that hold for a choice of slices and a score; None where it has none."""
    found = (from_dict(Thresholds, one) for one in card.get("thresholds", ()))
    return next((one for one in found if (one.slices, one.score) == (str(slices), score)), None)


def model_thresholds(analysis):
    """The thresholds that the model of an analysis came with; None where it has none for these slices and this score.

    :raises U2ADError: the model is no longer installed.
    """
    card = read_card(find_model(analysis.provenance["model"]["name"]))
    return card_thresholds(card, analysis.provenance["configuration"]["slices"], analysis.score)


def made_with(nodes: results.ResultNodes, settings: Settings, sha256: str) -> bool:
    """Whether results were made by the model with these weights, with this score and on these slices."""
    try:
        provenance = json.loads(nodes.record.GetText())["provenance"]
        configuration = provenance["configuration"]
        made = provenance["model"]["sha256"], configuration["score"], configuration["slices"]
    except (AttributeError, ValueError, KeyError, TypeError):
        return False  # deleted or damaged
    return made == (sha256, settings.score, settings.slices)


def batch_rows(out: Path) -> list[dict]:
    """Rows of a batch's table so far; none where it has not been written yet."""
    from U2ADLib.batch import SUMMARY

    try:
        with open(out / SUMMARY, newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except OSError:
        return []
