"""U2AD in 3D Slicer: the module, its panel, its logic for the Python console, and its self-test.

The panel only shows and asks; what a run is lies in `U2ADScene.runs`, what it leaves in the scene in
`U2ADScene.results`, and the method itself, in a process of its own, in `U2ADLib`.
"""

import hashlib
import sys
from pathlib import Path
from typing import Annotated

import qt
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
OVERLAYS = ("anomaly", "error", "uncertainty", "reconstruction", "")
NUMBER_OF_SEGMENTS = 6
ROW_HEIGHT = 22  # px
LARGEST_SCORE = 1.0  # scores are mean errors of intensities 0–1


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
    updateResults: bool = True
    opacity: Annotated[float, WithinRange(0, 1)] = 1.0


# ----------------------------------------------------------------------------------------------------------------------


class U2ADWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.worker_program = None  # another Python than PythonSlicer, for tests
        self._parameters = self._tag = self._parameters_node = None
        self._run = self._batch = self._link = self._nodes = self._devices_job = None
        self._filling = False

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/U2AD.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = U2ADLogic()
        self._fill_choices()
        self._connect()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._scene_closes)
        self.addObserver(scene, scene.EndCloseEvent, self._scene_changed)
        self.addObserver(scene, scene.EndImportEvent, self._scene_changed)
        self._set_parameters(self.logic.getParameterNode())

    def cleanup(self):
        if self._run:
            self._run.job.cancel()
        for job in (self._batch, self._devices_job):
            if job:
                job.cancel()
        self._unlink()
        self._set_parameters(None)
        self.removeObservers()

    def enter(self):
        if self._parameters is None:
            self._set_parameters(self.logic.getParameterNode())
        self._show_newest()

    def exit(self):
        self._unlink()

    def onReload(self):
        for name in [name for name in sys.modules if name.split(".")[0] in ("U2ADScene", "U2ADLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def _connect(self):
        ui = self.ui
        for button, react in (
            (ui.loadButton, self._load),
            (ui.sampleButton, self._load_sample),
            (ui.installModelButton, self._install_model),
            (ui.removeModelButton, self._remove_model),
            (ui.applyButton, self._apply_or_cancel),
            (ui.resetThresholdsButton, self._reset_thresholds),
            (ui.levelUpButton, lambda: self._shift_levels(-1)),
            (ui.levelDownButton, lambda: self._shift_levels(1)),
            (ui.useDiscsButton, self._use_discs),
            (ui.exportButton, self._export),
            (ui.batchButton, self._batch_or_cancel),
        ):
            button.connect("clicked(bool)", lambda *_checked, react=react: react())
        ui.modelSection.connect("contentsCollapsed(bool)", self._look_for_devices)
        ui.modelSelector.connect("currentIndexChanged(int)", self._model_chosen)
        ui.overlaySelector.connect("currentIndexChanged(int)", self._overlay_chosen)
        ui.opacitySlider.connect("valueChanged(double)", self._overlay_chosen)
        ui.segmentThreshold.connect("valueChanged(double)", self._thresholds_moved)
        ui.patientThreshold.connect("valueChanged(double)", self._thresholds_moved)
        ui.segmentsTable.connect("cellClicked(int,int)", self._segment_chosen)

    # --- parameters and choices

    def _set_parameters(self, node):
        if self._parameters:
            self._parameters.disconnectGui(self._tag)
            self.removeObserver(self._parameters_node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
        self._parameters, self._parameters_node = (U2ADParameters(node), node) if node else (None, None)
        if self._parameters:
            self._tag = self._parameters.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
            if self._parameters.inputVolume is None:
                self._parameters.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            self._parameters_changed()

    def _parameters_changed(self, caller=None, event=None):
        volume = self._parameters.inputVolume if self._parameters else None
        shown = self._nodes.input if self._nodes else None
        if volume is not shown:
            self._show_newest()
        self._refresh_apply()

    def _fill_choices(self):
        ui = self.ui
        for value, text in (
            ("all", _("All that show enough cord")),
            ("middle", _("The middle one only, as in the paper")),
        ):
            ui.sliceSelector.addItem(text, value)
        self._fill_devices([{"device": "cpu", "name": _("CPU")}])
        names = (
            _("Anomaly"),
            _("Error of reconstruction"),
            _("Uncertainty"),
            _("Reconstruction"),
            _("The image alone"),
        )
        for value, text in zip(OVERLAYS, names, strict=True):
            ui.overlaySelector.addItem(text, value)
        ui.segmentsTable.setHorizontalHeaderLabels([_("Segment"), _("Score"), _("Threshold"), _("Flagged")])
        ui.batchTable.setHorizontalHeaderLabels([_("Image"), _("Status"), _("Flagged"), _("Message")])
        for table in (ui.segmentsTable, ui.batchTable):
            table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
            table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
            table.verticalHeader().hide()
        ui.segmentsTable.setFixedHeight((NUMBER_OF_SEGMENTS + 2) * ROW_HEIGHT + 6)  # all rows and the header
        self._fill_models()

    def _look_for_devices(self, collapsed):
        """Ask a worker what there is, once the section is opened: it takes torch, which does not belong in here."""
        if collapsed or self._devices_job is not None:
            return
        from U2ADScene.job import Job

        self._devices_job = Job(on_state=self._devices_found)
        self._devices_job.start(["devices"], self.worker_program)

    def _devices_found(self, state):
        from U2ADScene.job import DONE

        if state == DONE:
            self._fill_devices(self._devices_job.result["devices"])

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
        from U2ADLib.package import BUNDLED_DEFAULT, list_models

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
        self._model_chosen()

    def _model(self):
        """The entry of the chosen model; None where there is none."""
        index = self.ui.modelSelector.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    def _model_chosen(self, index=None):
        entry = self._model()
        self.ui.removeModelButton.enabled = entry is not None and not entry.bundled
        self.ui.modelCard.text = card_text(entry) if entry else _("No model is installed.")
        self._refresh_apply()

    def _settings(self):
        from U2ADScene.runs import Settings

        return Settings(
            model=self.ui.modelSelector.currentData,
            device=self.ui.deviceSelector.currentData,
            slices=self.ui.sliceSelector.currentData,
        )

    # --- input and model

    def _load(self):
        slicer.util.openAddVolumeDialog()

    def _load_sample(self):
        node = self.logic.loadSample()
        self._parameters.inputVolume = node
        slicer.util.setSliceViewerLayers(background=node, fit=True)
        self._say(_("A simulated neck with two lesions, at C4-5 and C6-7. Press Apply."))

    def _install_model(self):
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Install a model"), "", _("Model packages (*.zip)")
        )
        if path:
            self._install_model_from(path)

    def _install_model_from(self, path):
        from U2ADLib.errors import U2ADError
        from U2ADLib.package import install_model

        try:
            self._fill_models(install_model(Path(path)).name)
        except U2ADError as error:
            self._complain(str(error))

    def _remove_model(self):
        from U2ADLib.errors import U2ADError
        from U2ADLib.package import remove_model

        entry = self._model()
        if not slicer.util.confirmOkCancelDisplay(_("Delete the model {name}?").format(name=entry.name)):
            return
        try:
            remove_model(entry.name)
        except U2ADError as error:
            self._complain(str(error))
        self._fill_models()

    # --- the run

    @property
    def running(self) -> bool:
        return self._run is not None

    def _refresh_apply(self):
        from U2ADScene.job import CANCELLING

        button = self.ui.applyButton
        if self.running:
            button.text, button.toolTip = _("Cancel"), _("Stop. The scene stays as it was.")
            button.enabled = self._run.state != CANCELLING
            return
        ready = self._parameters is not None and self._parameters.inputVolume is not None and self._model() is not None
        button.text = _("Apply")
        button.enabled = ready and self._batch is None
        button.toolTip = _("Analyse the volume.") if ready else _("Choose a volume first.")

    def _apply_or_cancel(self):
        if self.running:
            self._run.job.cancel()
            return
        from U2ADLib.errors import U2ADError
        from U2ADScene import dependencies

        try:
            missing = dependencies.missing()
            if dependencies.install_pytorch_extension(missing, slicer.util.confirmOkCancelDisplay):
                return
            if missing and not dependencies.install(missing, slicer.util.confirmOkCancelDisplay):
                self._complain(_("Without these packages nothing can be analysed. Press Apply again to install them."))
                return
            self._start()
        except U2ADError as error:
            self._run = None
            self._complain(str(error))
        self._refresh_apply()

    def _start(self):
        from U2ADScene.runs import Run

        parameters = self._parameters
        self._run = Run(
            parameters.inputVolume,
            self._settings(),
            cord=parameters.cordSegmentation,
            discs=parameters.discMarkups,
            into=self._nodes if parameters.updateResults and self._nodes else None,
            on_progress=self._show_progress,
            on_state=self._run_changed,
        )
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = True
        self._say(_("Starting…"))
        self._run.start(self.worker_program)

    def _show_progress(self, stage, fraction, seconds_left):
        self.ui.progressBar.value = round(1000 * fraction)
        left = "" if seconds_left is None else _(", {seconds:.0f} s left").format(seconds=seconds_left)
        self._say(f"{_(stage)}{left}")

    def _run_changed(self, state):
        from U2ADScene.job import CANCELLED, CANCELLING, DONE, ENDED

        run = self._run
        if state == CANCELLING:
            self._say(_("Cancelling…"))
        if state in ENDED:
            self._run = None
            self.ui.progressBar.visible = False
            if state == DONE:
                self.logic.analyses.keep(run.nodes, run.analysis)
                self._say(_("Done in {seconds:.0f} s.").format(seconds=run.analysis.provenance["seconds"]))
                self._show(run.nodes, present=True)
            elif state == CANCELLED:
                self._say(run.error)
            else:
                self._complain(run.error)
        self._refresh_apply()

    # --- results

    def _show_newest(self):
        """The newest results of the chosen volume, or that there are none."""
        from U2ADLib.errors import U2ADError
        from U2ADScene import results

        volume = self._parameters.inputVolume if self._parameters else None
        runs = results.find(volume) if volume else []
        try:
            self._show(runs[-1] if runs else None)
        except U2ADError as error:
            self._show(None)
            self._complain(str(error))

    def _show(self, nodes, present=False):
        """Show a run's results in the panel, and in the views where asked."""
        from U2ADScene import chart, display

        self._unlink()
        self._nodes = nodes
        ui = self.ui
        for widget in (
            ui.segmentThreshold, ui.patientThreshold, ui.overlaySelector, ui.opacitySlider, ui.levelUpButton,
            ui.levelDownButton, ui.useDiscsButton, ui.exportButton,
        ):  # fmt: skip
            widget.enabled = nodes is not None
        ui.segmentsTable.visible = nodes is not None
        if nodes is None:
            ui.verdictLabel.text, ui.notesLabel.text = _("Nothing has been analysed yet."), ""
            ui.segmentsTable.setRowCount(0)
            ui.resetThresholdsButton.enabled = False
            return
        analysis = self.logic.analyses.of(nodes)
        self._fit_sliders(analysis)
        self._fill_results(analysis)
        if present:
            display.present(nodes, analysis)
            chart.set_marker(nodes, display.worst(analysis)[0])
            self._overlay_chosen()
        self._connect_views(analysis)

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
        colour = "#b3541e" if flagged else "#3c6e47"
        ui.verdictLabel.text = f'<b style="color:{colour}; font-size:large">{verdict(analysis)}</b>'
        notes = [f"• {note}" for note in analysis.notes]
        if analysis.missing:
            notes.insert(0, _("• Not analysed: {names}").format(names=", ".join(analysis.missing)))
        ui.notesLabel.text = "\n".join(notes)
        self._fill_table(analysis)
        thresholds = analysis.thresholds
        for slider, kind in ((ui.segmentThreshold, "segment"), (ui.patientThreshold, "patient")):
            slider.value = getattr(thresholds, kind) if thresholds else LARGEST_SCORE
        ui.resetThresholdsButton.enabled = thresholds is not None
        self._filling = False

    def _fill_table(self, analysis):
        table, limit = self.ui.segmentsTable, analysis.thresholds
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
                    item.setBackground(qt.QBrush(qt.QColor("#f6d9c4")))
                table.setItem(r, c, item)

    def _connect_views(self, analysis):
        from U2ADScene.chart import Link

        self._link = Link(self._nodes, analysis, self._position_chosen)
        self._link.connect()

    def _unlink(self):
        if self._link:
            self._link.disconnect()
        self._link = None

    def _position_chosen(self, s_mm, number):
        analysis = self.logic.analyses.of(self._nodes)
        for row, segment in enumerate(analysis.segments):
            if segment.start_mm <= s_mm < segment.stop_mm:
                self.ui.segmentsTable.selectRow(row)

    def _segment_chosen(self, row, column):
        from U2ADScene import display

        analysis = self.logic.analyses.of(self._nodes)
        if row < len(analysis.segments):
            place = analysis.segments[row].peak_mm, analysis.segments[row].peak_slice
        else:
            place = display.worst(analysis)
        display.jump(self._nodes, analysis, *place, centre=True)

    def _overlay_chosen(self, *changed):
        from U2ADScene import display

        if self._nodes:
            which = self.ui.overlaySelector.currentData or None
            display.show_map(self._nodes, which, opacity=self.ui.opacitySlider.value)

    def _thresholds_moved(self, value=None):
        if self._filling or not self._nodes:
            return
        segment, patient = self.ui.segmentThreshold.value, self.ui.patientThreshold.value
        self._changed(lambda: self.logic.analyses.flag(self._nodes, segment, patient))

    def _reset_thresholds(self):
        from U2ADScene.runs import model_thresholds

        thresholds = model_thresholds(self.logic.analyses.of(self._nodes))
        if thresholds is None:
            self._complain(_("The model of these results is no longer installed: its thresholds are not known."))
        else:
            self._changed(lambda: self.logic.analyses.flag(self._nodes, thresholds.segment, thresholds.patient))

    def _shift_levels(self, shift):
        self._changed(lambda: self.logic.analyses.shift_levels(self._nodes, shift))

    def _use_discs(self):
        self._changed(lambda: self.logic.analyses.use_discs(self._nodes))

    def _changed(self, change):
        """Do what changes the results without computing, and show them anew, or say why it cannot be done."""
        from U2ADLib.errors import U2ADError

        try:
            analysis = change()
        except U2ADError as error:
            self._complain(str(error))
            return
        if self._link:
            self._link.analysis = analysis
        self._fill_results(analysis)
        self._say("")

    # --- export and batch

    def _export(self):
        from U2ADLib.errors import U2ADError
        from U2ADScene.export import export_report

        folder = Path(self.ui.exportFolder.directory) / f"U2AD-{self._nodes.run}"
        try:
            export_report(self.logic.analyses.of(self._nodes), folder)
        except U2ADError as error:
            self._complain(str(error))
        else:
            self._say(_("Report: {path}").format(path=folder / "qc.html"))

    def _batch_or_cancel(self):
        if self._batch:
            self._batch.cancel()
            return
        folder, out = self.ui.batchInput.directory, self.ui.batchOutput.directory
        self._batch_out = Path(out)
        self.ui.batchButton.text = _("Cancel")
        self.ui.progressBar.value, self.ui.progressBar.visible = 0, True
        self._batch = self.logic.startFolder(
            folder, out, self._settings(), on_progress=self._batch_progress, on_state=self._batch_changed,
            program=self.worker_program,
        )  # fmt: skip
        self._refresh_apply()

    def _batch_progress(self, stage, fraction, seconds_left):
        self._show_progress(stage, fraction, seconds_left)
        self._fill_batch_table()

    def _batch_changed(self, state):
        from U2ADScene.job import CANCELLED, DONE, ENDED

        if state not in ENDED:
            return
        job, self._batch = self._batch, None
        self.ui.batchButton.text = _("Analyse all")
        self.ui.progressBar.visible = False
        self._fill_batch_table()
        if state == DONE:
            self._say(job.result["summary"])
        elif state == CANCELLED:
            self._say(_("Cancelled. What is done is kept: Analyse all goes on from there."))
        else:
            self._complain(job.error)
        self._refresh_apply()

    def _fill_batch_table(self):
        from U2ADScene.runs import batch_rows

        table = self.ui.batchTable
        rows = batch_rows(self._batch_out)
        table.setRowCount(len(rows))
        for r, row in enumerate(rows):
            for c, name in enumerate(("id", "status", "flagged", "message")):
                table.setItem(r, c, qt.QTableWidgetItem(row.get(name) or ""))

    # --- messages and the scene

    def _say(self, text):
        self.ui.statusLabel.text = text

    def _complain(self, text):
        """What went wrong, in the panel, where it stays to be read."""
        self.ui.statusLabel.text = f'<b style="color:#a61b1b">{text}</b>'

    def _scene_closes(self, caller, event):
        self._unlink()
        self._nodes = None
        self._set_parameters(None)

    def _scene_changed(self, caller, event):
        self.logic.analyses.forget()
        if self.parent.isEntered:
            self._set_parameters(self.logic.getParameterNode())
        self._show_newest()


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


# ----------------------------------------------------------------------------------------------------------------------


class U2ADLogic(ScriptedLoadableModuleLogic):
    """For the Python console and scripts: `slicer.util.getModuleLogic("U2AD")`. Works without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from U2ADScene.runs import Analyses

        self.analyses = Analyses()

    def process(
        self, volumeNode, cord=None, discs=None, model="default", device="auto", slices="all", wait=True, into=None,
        progress=None, program=None,
    ):  # fmt: skip
        """Analyse a volume.

        :param volumeNode: vtkMRMLScalarVolumeNode; it is not changed.
        :param cord: segmentation or label map node of the cord; None: it is found.
        :param discs: markups node with points named C2/3 …, or label map node; None: they are found.
        :param model, device, slices: as `u2ad analyse` takes them.
        :param wait: return the `ResultNodes` in the end, while Slicer goes on working; else the `Run` at once.
        :param into: `ResultNodes` that are updated instead of new ones made.
        :param progress: called with stage, 0–1 and seconds left.
        :param program: another Python than PythonSlicer.
        :raises U2ADLib.errors.U2ADError: something cannot be used, or the run failed.
        """
        from U2ADScene.runs import Run, Settings

        run = Run(
            volumeNode, Settings(model, device, slices), cord=cord, discs=discs, into=into, on_progress=progress,
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

    def processFolder(self, folder, out, model="default", device="auto", slices="all", progress=None, program=None):
        """Analyse all images of a folder; returns the path of the table, `summary.csv`.

        :raises U2ADLib.errors.U2ADError: it failed or was cancelled.
        """
        from U2ADLib.errors import U2ADError
        from U2ADScene.job import DONE
        from U2ADScene.runs import Settings

        job = self.startFolder(folder, out, Settings(model, device, slices), on_progress=progress, program=program)
        if job.wait() != DONE:
            raise U2ADError(job.error)
        return Path(job.result["result"])

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
