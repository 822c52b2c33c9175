"""U2AD in 3D Slicer: the module, its panel, its logic for the Python console, and its self-test.

The panel only shows and asks (its sections are `U2ADScene.panel_…`); what a run is lies in `U2ADScene.runs`, what it
leaves in the scene in `U2ADScene.results`, and the method itself, in a process of its own, in `U2ADLib`.
"""

import hashlib
import html
import sys
from pathlib import Path
from typing import Annotated

import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

SAMPLE = "U2ADNeckPhantom"
NUMBER_OF_SEGMENTS = 6


class U2AD(ScriptedLoadableModule):
    """What Slicer knows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "U2AD"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        self.parent.dependencies = []
        self.parent.contributors = ["The U2AD contributors"]
        self.parent.helpText = _(
            "Finds T2 hyperintensity in the cervical spinal cord. Choose a sagittal T2-weighted volume of the neck and "
            "press Apply: the cord is found, a network rebuilds every patch of it many times from its surroundings, "
            "and what it cannot rebuild lights up. Segments above the threshold are flagged. For research only."
        )
        self.parent.acknowledgementText = _(
            "The method is that of Q. Zhang, X. Chen, Z. He, K. Wang et al.: U²AD: Uncertainty-based unsupervised "
            "anomaly detection framework for detecting T2 hyperintensity in MRI spinal cord. Medical Image Analysis "
            "109 (2026) 103939, doi:10.1016/j.media.2026.103939."
        )
        # With only this folder added to Slicer by hand, U2ADLib lies beside it and is not found.
        beside = str(Path(__file__).resolve().parents[1])
        if (Path(beside) / "U2ADLib").is_dir() and beside not in sys.path:
            sys.path.append(beside)
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data():
    """Offer the bundled phantom in the module Sample Data. Nothing is downloaded: the file is on this computer."""
    import SampleData

    from U2ADLib.resources import resource

    path = resource("Sample", "sample_T2w.nii.gz")
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="U2AD",
        sampleName=SAMPLE,
        thumbnailFileName=str(Path(__file__).with_name("Resources") / "Icons" / "U2AD.png"),
        uris=path.as_uri(),
        fileNames=f"{SAMPLE}.nii.gz",
        checksums="SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
        nodeNames=SAMPLE,
    )


@parameterNodeWrapper
class U2ADParameters:
    """What the panel remembers, and the scene saves."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    cordSegmentation: slicer.vtkMRMLSegmentationNode
    discMarkups: slicer.vtkMRMLMarkupsFiducialNode
    score: str = "default"
    updateResults: bool = True
    legend: bool = True
    opacity: Annotated[float, WithinRange(0, 1)] = 1.0


# ----------------------------------------------------------------------------------------------------------------------


def why_not(volume):
    """Why a volume node cannot be analysed; "" where it can."""
    from U2ADScene.results import RUN

    if volume is None:
        return _("Choose a volume first.")
    if volume.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("{name} is a label map: choose an image.").format(name=volume.GetName())
    if volume.GetAttribute(RUN):
        return _("{name} is a result of U2AD: choose the image that was analysed.").format(name=volume.GetName())
    return ""


class U2ADWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: input and the run. Its other sections are in `U2ADScene.panel_…`."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.model = self.results = self.outline = self.batch = self.adapt = self.compare = None
        self._parameters = self._parameters_node = self._tag = None
        self._run = self._program = None
        self._waiting, self._after_all = [], None  # settings of runs to come, and what to do after the last
        self._given = None  # volume, cord and discs of the run and of those to come
        self._regions, self._last_volume = {}, None  # id of a volume → ids of its cord and discs; id of the chosen one
        self._reason = ""  # why the chosen volume cannot be analysed, as the status says

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        from U2ADScene.panel_adapt import AdaptSection
        from U2ADScene.panel_batch import BatchSection
        from U2ADScene.panel_compare import CompareSection
        from U2ADScene.panel_model import ModelSection
        from U2ADScene.panel_outline import OutlineSection
        from U2ADScene.panel_results import ResultsSection

        widget = slicer.util.loadUI(self.resourcePath("UI/U2AD.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = U2ADLogic()
        self.model = ModelSection(self.ui, self._models_changed, self._complain, self._score_chosen)
        self.results = ResultsSection(self.ui, self.logic.analyses, self._say, self._complain, self._results_shown)
        self.outline = OutlineSection(
            self.ui,
            self.logic.analyses,
            self.results,
            lambda: self.running,
            self._region_of,
            self._choose_region,
            self._say,
            self._complain,
        )
        self.compare = CompareSection(
            self.ui,
            self.model,
            self.results,
            lambda: None if why_not(self._volume) else self._volume,
            self._is_busy,
            self._start_several,
        )
        self.adapt = AdaptSection(self.ui, self.model, self._has_packages, self._chosen_cords)
        self.batch = BatchSection(
            self.ui,
            self._start_batch,
            self._show_progress,
            self._say,
            self._complain,
            self._refresh_apply,
            lambda: self.running,
        )
        for button, react in (
            (self.ui.loadButton, slicer.util.openAddVolumeDialog),
            (self.ui.sampleButton, self._load_sample),
            (self.ui.applyButton, self._apply_or_cancel),
        ):
            button.connect("clicked(bool)", lambda *_checked, react=react: react())
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._scene_closes)
        self.addObserver(scene, scene.EndCloseEvent, self._scene_changed)
        self.addObserver(scene, scene.StartImportEvent, self._scene_is_read)
        self.addObserver(scene, scene.EndImportEvent, self._scene_changed)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self._nodes_changed)
        self._set_parameters(self.logic.getParameterNode())

    def cleanup(self):
        if self._run:
            self._run.job.cancel()
        self.model.stop()
        self.batch.stop()
        self.adapt.stop()
        self.results.unlink()
        self._set_parameters(None)
        self.removeObservers()

    def enter(self):
        if self._parameters is None:
            self._set_parameters(self.logic.getParameterNode())
        self.results.show_again(self._volume)
        self.outline.notice()
        self.adapt.refresh()

    def exit(self):
        self.results.unlink()

    def onReload(self):
        for name in [name for name in sys.modules if name.split(".")[0] in ("U2ADScene", "U2ADLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    @property
    def running(self) -> bool:
        """Whether a volume is being analysed."""
        return self._run is not None

    def use_program(self, program: str) -> None:
        """Run the worker with another Python than PythonSlicer, for tests."""
        self._program = self.model.program = self.adapt.program = program

    # --- parameters and the scene

    @property
    def _volume(self):
        return self._parameters.inputVolume if self._parameters else None

    def _set_parameters(self, node):
        if self._parameters:
            self._parameters.disconnectGui(self._tag)
            self.removeObserver(self._parameters_node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
        self._parameters, self._parameters_node = (U2ADParameters(node), node) if node else (None, None)
        if self._parameters:
            named = [(widget.property("SlicerParameterName"), widget) for widget in vars(self.ui).values()]
            # Unlike `connectGui`, this returns the tag that `disconnectGui` needs.
            self._tag = self._parameters.connectParametersToGui({name: widget for name, widget in named if name})
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
            self._last_volume = None
            if self._volume is None:
                volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                self._parameters.inputVolume = next((one for one in volumes if not why_not(one)), None)
            self._parameters_changed()

    def _parameters_changed(self, caller=None, event=None):
        is_another = self._bring_region() and caller is not None
        reason = why_not(self._volume) if self._volume else ""
        if reason != self._reason:
            self._reason = reason
            self._say(reason)
        shown = self.results.nodes
        if is_another or self._volume is not (shown.input if shown else None):
            self.results.show_newest(self._volume, in_views=is_another)
        self.model.want_score(self._parameters.score)
        self._refresh_apply()
        if is_another:
            self.outline.notice()

    def _bring_region(self):
        """Cord and discs belong to the volume that they were chosen for: another one brings its own, or none.

        :returns: whether another volume was chosen.
        """
        if self._volume is None:
            return False
        parameters, volume = self._parameters, self._volume.GetID()
        is_another = self._last_volume not in (None, volume)
        self._last_volume = volume
        if is_another:
            parameters.cordSegmentation, parameters.discMarkups = self._region_of(self._volume)
        chosen = parameters.cordSegmentation, parameters.discMarkups
        self._regions[volume] = tuple(node and node.GetID() for node in chosen)
        return is_another

    def _region_of(self, volume):
        """Cord and discs that are, or were, chosen for a volume; None for what is to be found."""
        chosen = self._regions.get(volume.GetID(), (None, None))
        return tuple(i and slicer.mrmlScene.GetNodeByID(i) for i in chosen)

    def _choose_region(self, volume, cord, discs):
        self._regions[volume.GetID()] = tuple(node and node.GetID() for node in (cord, discs))
        if volume is self._volume:
            self._parameters.cordSegmentation, self._parameters.discMarkups = cord, discs

    def _score_chosen(self, score):
        if self._parameters:
            self._parameters.score = score

    def _models_changed(self):
        if self.adapt:
            self.adapt.refresh()
        self._refresh_apply()

    def _scene_closes(self, caller, event):
        self.results.show(None)
        self._set_parameters(None)
        self._regions.clear()
        self.outline.forget()

    def _scene_is_read(self, caller, event):
        self._set_parameters(None)  # or a volume that appears before the saved parameters would be taken for chosen

    def _scene_changed(self, caller, event):
        self.logic.analyses.forget()
        if self.parent.isEntered:
            self._set_parameters(self.logic.getParameterNode())
        self.results.show_newest(self._volume)
        if self.parent.isEntered:
            self.outline.notice()

    def _nodes_changed(self, caller, event):
        if not slicer.mrmlScene.IsBatchProcessing():
            self.outline.refresh()
        if not self.ui.adaptSection.collapsed and not slicer.mrmlScene.IsBatchProcessing():
            self.adapt.fill_volumes()

    def _load_sample(self):
        from U2ADScene import display

        node = self.logic.loadSample()
        self._parameters.inputVolume = node
        display.show_only(None)
        slicer.util.setSliceViewerLayers(background=node, foreground=None, fit=True)
        self._say(_("A simulated neck with two lesions, at C4-5 and C6-7. Press Apply."))

    # --- the run

    def _is_busy(self):
        return self.running or bool(self.batch and self.batch.job)

    def _results_shown(self):
        for section in (self.outline, self.compare):
            if section:
                section.refresh()

    def _refresh_apply(self):
        from U2ADScene.job import CANCELLING

        self._results_shown()
        if self.batch:
            self.batch.refresh()
        button = self.ui.applyButton
        if self.running:
            button.text, button.toolTip = _("Cancel"), _("Stop. The scene stays as it was.")
            button.enabled = self._run.state != CANCELLING
            return
        reason = why_not(self._volume)
        ready = not reason and self.model is not None and self.model.model is not None
        button.text = _("Apply")
        button.enabled = ready and not self._is_busy()
        button.toolTip = _("Analyse the volume.") if ready else reason or _("Choose a model first.")

    def _apply_or_cancel(self):
        if self.running:
            self._run.job.cancel()
            return
        shown = self.results.nodes
        replaced = shown if shown and shown.input is self._volume and self._parameters.updateResults else None
        self._start(self.model.settings, self._chosen, replaced)

    def _start_several(self, settings, after_all, given=None):
        """Analyse a volume with one settings after the other, each beside the results there are.

        :param given: see `_start`; None: what is chosen now.
        """
        self._waiting, self._after_all = list(settings[1:]), after_all
        self._start(settings[0], given or self._chosen)

    def _has_packages(self):
        """Whether everything is installed; asks the user first, where it is not. :raises U2ADError: it cannot be."""
        from U2ADScene import dependencies

        missing = dependencies.missing()
        if dependencies.install_pytorch_extension(missing, slicer.util.confirmOkCancelDisplay):
            return False  # Slicer restarts
        if not missing or dependencies.install(missing, slicer.util.confirmOkCancelDisplay):
            return True
        self._complain(_("Without these packages nothing can be analysed. Try again to install them."))
        return False

    def _chosen_cords(self):
        """Id of a volume → id of the cord that is, or was, chosen for it."""
        there = slicer.mrmlScene.GetNodeByID
        return {volume: cord for volume, (cord, _discs) in self._regions.items() if cord and there(cord)}

    @property
    def _chosen(self):
        """Volume, cord and discs."""
        return self._volume, self._parameters.cordSegmentation, self._parameters.discMarkups

    def _start(self, settings, given, into=None):
        """Analyse a volume. :param given: it, its cord and its discs. :param into: results that are replaced."""
        from U2ADLib.errors import U2ADError
        from U2ADScene.runs import Run

        try:
            if self._has_packages():
                volume, cord, discs = self._given = given
                self._run = Run(
                    volume,
                    settings,
                    cord=cord,
                    discs=discs,
                    into=into,
                    on_progress=self._show_progress,
                    on_state=self._run_changed,
                )
                self.ui.progressBar.value = 0
                self.ui.progressBar.visible = True
                self._say(_("Starting…"))
                self._run.start(self._program)
        except U2ADError as error:
            self._run = None
            self._complain(str(error))
        if self._run is None:
            self._waiting, self._after_all = [], None
        self._refresh_apply()

    def _start_batch(self, folder, out, on_progress, on_state):
        """The batch's job; None where it cannot start."""
        from U2ADLib.errors import U2ADError

        try:
            if not self._has_packages():
                return None
        except U2ADError as error:
            self._complain(str(error))
            return None
        return self.logic.startFolder(folder, out, self.model.settings, on_progress, on_state, self._program)

    def _show_progress(self, stage, fraction, seconds_left):
        self.ui.progressBar.value = round(1000 * fraction)
        left = "" if seconds_left is None else _(", {seconds:.0f} s left").format(seconds=seconds_left)
        self._say(f"{_(stage)}{left}")

    def _run_changed(self, state):
        from U2ADScene import display
        from U2ADScene.job import CANCELLED, CANCELLING, DONE, ENDED

        run = self._run
        if state == CANCELLING:
            self._say(_("Cancelling…"))
        if state in ENDED:
            self._run = None
            self.ui.progressBar.visible = False
            waiting, self._waiting = self._waiting, []
            after_all, self._after_all = self._after_all, None
            if state == DONE:
                self.logic.analyses.keep(run.nodes, run.analysis)
                self.outline.analysed(run.nodes, self._given[2], run.kept)
                is_chosen = run.nodes.input is self._volume
                if not is_chosen:
                    display.hide(run.nodes)
                if waiting:
                    self._start_several(waiting, after_all, self._given)
                    return
                said = [_("Done in {seconds:.0f} s.").format(seconds=run.analysis.provenance["seconds"])]
                if run.kept:
                    names = ", ".join(node.GetName() for node in run.kept)
                    said.append(_("What you had corrected was kept: {names}.").format(names=names))
                if is_chosen:
                    self.results.show(run.nodes, present=True)
                else:
                    name = run.nodes.input.GetName()
                    said.append(_("Choose {name} again to see the results.").format(name=name))
                self._say(" ".join(said))
                if after_all:
                    after_all()
            elif state == CANCELLED:
                self._say(run.error)
            else:
                self._complain(run.error)
        self._refresh_apply()

    # --- messages

    def _say(self, text):
        self.ui.statusLabel.text = html.escape(text, quote=False)

    def _complain(self, text):
        """What went wrong, in the panel, where it stays to be read."""
        from U2ADScene.panel_results import WRONG, marked

        self.ui.statusLabel.text = marked(html.escape(text, quote=False), WRONG)


# ----------------------------------------------------------------------------------------------------------------------


class U2ADLogic(ScriptedLoadableModuleLogic):
    """For the Python console and scripts: `slicer.util.getModuleLogic("U2AD")`. Works without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from U2ADScene.runs import Analyses

        self.analyses = Analyses()

    def process(
        self, volumeNode, cord=None, discs=None, model="default", device="auto", slices="all", score=None, wait=True,
        into=None, progress=None, program=None,
    ):  # fmt: skip
        """Analyse a volume.

        :param volumeNode: vtkMRMLScalarVolumeNode; it is not changed.
        :param cord: segmentation or label map node of the cord; None: it is found.
        :param discs: markups node with points named C2/3 …, or label map node; None: they are found.
        :param model, device, slices: as `u2ad analyse` takes them.
        :param score: "default", or "paper" for the published AnoMap. None: the default where the model has it.
        :param wait: return the `ResultNodes` in the end, while Slicer goes on working; else the `Run` at once.
        :param into: `ResultNodes` that are updated instead of new ones made.
        :param progress: called with stage, 0–1 and seconds left.
        :param program: another Python than PythonSlicer.
        :raises U2ADLib.errors.U2ADError: something cannot be used, or the run failed.
        """
        from U2ADScene.runs import Run, Settings

        run = Run(
            volumeNode, Settings(model, device, slices, score), cord=cord, discs=discs, into=into, on_progress=progress,
            on_state=lambda state: self._keep(run),
        )  # fmt: skip
        run.start(program)
        return run.wait() if wait else run

    def _keep(self, run):
        if run.nodes:
            self.analyses.keep(run.nodes, run.analysis)

    def startFolder(self, folder, out, settings=None, on_progress=None, on_state=None, program=None):
        """Analyse all images of a folder in the background; returns the `Job`."""
        from U2ADScene.job import Job
        from U2ADScene.runs import Settings

        job = Job(on_progress=on_progress, on_state=on_state)
        job.start(["batch", str(folder), "--out", str(out), *(settings or Settings()).arguments()], program)
        return job

    def processFolder(
        self, folder, out, model="default", device="auto", slices="all", score=None, progress=None, program=None
    ):
        """Analyse all images of a folder; returns the path of the table, `summary.csv`.

        :param score: as for `process`.
        :raises U2ADLib.errors.U2ADError: it failed or was cancelled.
        """
        from U2ADLib.errors import U2ADError
        from U2ADScene.job import DONE
        from U2ADScene.runs import Settings

        settings = Settings(model, device, slices, score)
        job = self.startFolder(folder, out, settings, on_progress=progress, program=program)
        if job.wait() != DONE:
            raise U2ADError(job.error)
        return Path(job.result["result"])

    def adapt(
        self, images, model="default", name=None, epochs=200, few=False, device="auto", wait=True, progress=None,
        program=None, cords=None,
    ):  # fmt: skip
        """Adapt a model to images of your own, which need no labels. Minutes to hours.

        The same call goes on from where an adaptation of this name was stopped; it must be given the same images.

        :param images: folder of images, or volume nodes. :param model: to begin with; it stays as it is.
        :param name: of the new model; None: that of the model and "-adapted".
        :param few: go on with fewer than 20 slices or 3 people; volumes of one patient in the subject hierarchy are one
            person's.
        :param wait: return the new model's name in the end, while Slicer goes on working; else the `Adaptation`.
        :param progress: called with stage, 0–1 and seconds left.
        :param program: another Python than PythonSlicer.
        :param cords: volume node → segmentation or label map with its cord. A volume without one has the cord that
            its newest analysis was given, or that you corrected there; that of the others is found.
        :raises U2ADLib.errors.U2ADError: something cannot be used, or it failed or was stopped.
        """
        from U2ADLib.package import find_model
        from U2ADScene.adapting import Adaptation, Request, free_name

        is_folder = isinstance(images, str | Path)
        nodes = [images] if hasattr(images, "GetID") else [] if is_folder else images
        request = Request(
            name=name or free_name(find_model(model).name), model=str(model), folder=str(images) if is_folder else None,
            volumes=tuple(node.GetID() for node in nodes), epochs=epochs, few=few, device=device,
            cords={node.GetID(): cord.GetID() for node, cord in (cords or {}).items()},
        )  # fmt: skip
        adaptation = Adaptation(request, on_progress=progress)
        adaptation.start(program)
        return adaptation.wait() if wait else adaptation

    def loadSample(self):
        """The bundled phantom as a volume node: a simulated neck with lesions at C4-5 and C6-7."""
        from U2ADLib.resources import resource

        return slicer.util.loadVolume(str(resource("Sample", "sample_T2w.nii.gz")), {"name": SAMPLE})


# ----------------------------------------------------------------------------------------------------------------------


class U2ADTest(ScriptedLoadableModuleTest):
    """The self-test: analyses the bundled phantom. Under a minute, nothing is downloaded."""

    program = None  # another Python than PythonSlicer

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        self.setUp()
        from U2ADScene import dependencies

        if missing := dependencies.missing():
            self.delayDisplay(_("Not tested, for want of {names}").format(names=", ".join(r.name for r in missing)))
            return
        self.test_lesions_of_the_sample_are_flagged()
        self.setUp()
        self.test_cancel_leaves_the_scene_as_it_was()

    def test_lesions_of_the_sample_are_flagged(self):
        logic = U2ADLogic()
        volume = logic.loadSample()
        before = slicer.util.arrayFromVolume(volume).copy()
        self.delayDisplay(_("Analysing the sample"))
        nodes = logic.process(volume, program=self.program)
        analysis = logic.analyses.of(nodes)
        self.assertEqual(analysis.flagged, ("C4-5", "C6-7"))
        for node in nodes.maps.values():
            self.assertEqual(slicer.util.arrayFromVolume(node).shape, before.shape)
            matrices = []
            for one in (volume, node):
                matrices.append(vtk.vtkMatrix4x4())
                one.GetIJKToRASMatrix(matrices[-1])
            for k in range(16):
                self.assertEqual(*(matrix.GetElement(k // 4, k % 4) for matrix in matrices))
        self.assertTrue((slicer.util.arrayFromVolume(volume) == before).all())
        self.assertEqual(nodes.segments_table.GetNumberOfRows(), NUMBER_OF_SEGMENTS)
        highest = max(segment.score for segment in analysis.segments)
        self.assertEqual(logic.analyses.flag(nodes, 1.1 * highest, 1.1 * highest).flagged, ())
        lower = logic.analyses.shift_levels(nodes, 1)
        self.assertEqual(lower.missing, ("C2-3",))
        self.delayDisplay(_("The sample's lesions were found"))

    def test_cancel_leaves_the_scene_as_it_was(self):
        from U2ADScene.job import CANCELLED

        logic = U2ADLogic()
        volume = logic.loadSample()
        before = slicer.mrmlScene.GetNumberOfNodes()
        run = logic.process(volume, wait=False, program=self.program)
        run.job.cancel()
        run.job.wait()
        self.assertEqual(run.state, CANCELLED)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
        self.delayDisplay(_("Cancelling works"))
