"""The panel's button "Edit outline…": the cord of the shown results in Slicer's Segment Editor, and back.

What is edited is the cord's segment of the results themselves. The analysis knows what it was, so that a change is seen
whichever way it was made, also after the scene was saved and loaded; the segments of the levels stay those of the
analysis until the next one makes both anew. That one is given the corrected cord, and the discs as they lie now.

What is analysed has pixels of 1 mm: the cord of the new results can differ from the corrected one at its border. Then
the corrected one was kept beside them (`results.keep_corrections`), and is chosen for what is analysed next.
"""

from collections.abc import Callable
from hashlib import sha256

import slicer
import slicer.util
from slicer.i18n import tr as _

from U2ADLib.errors import U2ADError

from . import display, results
from .panel_results import ResultsSection
from .runs import Analyses

EDITOR = "SegmentEditor"  # name of Slicer's module


class OutlineSection:
    """A button that opens the Segment Editor, and what is said and chosen when the user comes back."""

    def __init__(
        self,
        ui,
        analyses: Analyses,
        shown: ResultsSection,
        running: Callable[[], bool],
        region: Callable[[object], tuple],
        choose: Callable[[object, object, object], None],
        say: Callable[[str], None],
        complain: Callable[[str], None],
    ):
        """:param running: whether a volume is being analysed.
        :param region: gives the cord and the discs that are chosen for a volume. :param choose: chooses them.
        :param say, complain: told what was found, and what went wrong.
        """
        self.ui, self._analyses, self._results, self._running = ui, analyses, shown, running
        self._region, self._choose, self._say, self._complain = region, choose, say, complain
        self._offered = {}  # run → digest of the corrected cord that was chosen last, and what was chosen before it
        self._discs_given = {}  # run → id of the discs that it was given, None where they were found
        self._overwrite = None  # how the Segment Editor treated other segments before it was opened from here
        ui.editOutlineButton.connect("clicked(bool)", self._edit)
        self.refresh()

    def refresh(self) -> None:
        """Follow the shown results."""
        reason = self._why_not()
        self.ui.editOutlineButton.enabled = not reason
        self.ui.editOutlineButton.toolTip = reason or _(
            "Correct the outline of the cord in Slicer's Segment Editor. When you come back, Apply analyses with it."
        )
        nodes = self._results.nodes
        if nodes is None or nodes.input is None or self._region(nodes.input)[0] is not nodes.segmentation:
            self._unsay()

    def notice(self) -> None:
        """Where the cord was corrected since it was analysed, say so, and choose it for the next analysis.

        A cord that the user did not want then, and chose another one, is not chosen again until it is changed again.
        """
        self._restore_overwrite()
        self.refresh()
        if self._running():
            return
        nodes, corrected = self._results.nodes, self._corrected()
        if corrected is None:
            self._take_back(nodes)
            return
        chosen, digest = self._region(nodes.input), sha256(corrected.tobytes()).digest()
        known, before = self._offered.get(nodes.run, (None, chosen))
        is_chosen = chosen[0] is nodes.segmentation
        if known == digest and not is_chosen:
            return
        self._offered[nodes.run] = digest, before if is_chosen else chosen
        self._choose(nodes.input, nodes.segmentation, self._discs(nodes, chosen[1]))
        self._say(_changed())

    def analysed(self, nodes: results.ResultNodes, discs, kept: list) -> None:
        """A run has ended. :param discs: that it was given. :param kept: what was corrected in results it replaced."""
        self._offered.pop(nodes.run, None)
        self._discs_given[nodes.run] = discs and discs.GetID()
        cord, discs = self._region(nodes.input)
        if cord is nodes.segmentation:
            cords = (node for node in kept if node.IsA("vtkMRMLSegmentationNode"))
            cord = next((node for node in cords if node.GetSegmentation().GetSegment(results.CORD_ID)), cord)
            self._choose(nodes.input, cord, discs)

    def forget(self) -> None:
        """After the scene was closed."""
        self._offered.clear()
        self._discs_given.clear()
        self._overwrite = None

    def _take_back(self, nodes):
        """There is no corrected cord, or no longer: what was said of it, and chosen, does not hold."""
        self._unsay()
        if nodes is not None and nodes.input is not None and nodes.run in self._offered:
            _digest, before = self._offered.pop(nodes.run)
            if self._region(nodes.input)[0] is nodes.segmentation:
                there = slicer.mrmlScene.IsNodePresent
                self._choose(nodes.input, *(one if one and there(one) else None for one in before))

    def _unsay(self):
        if self.ui.statusLabel.text == _changed():
            self._say("")

    def _discs(self, nodes, chosen):
        """The discs of results, so that levels are not looked for anew; the user's own, where they were chosen after
        that analysis."""
        is_own = chosen is not None and not chosen.GetAttribute(results.RUN)
        if is_own and self._discs_given.get(nodes.run, chosen.GetID()) != chosen.GetID():
            return chosen
        return nodes.discs if nodes.discs and nodes.discs.GetNumberOfControlPoints() else chosen

    def _why_not(self):
        """Why there is no outline to edit; "" where there is one."""
        nodes = self._results.nodes
        if self._running():
            return _("Wait until the analysis has ended.")
        if nodes is None or nodes.input is None:
            return _("Nothing has been analysed yet: press Apply first.")
        segmentation = nodes.segmentation
        if segmentation is None or segmentation.GetSegmentation().GetSegment(results.CORD_ID) is None:
            return _("The outline of the cord was deleted from these results: Apply makes it again.")
        return ""

    def _corrected(self):
        """The cord as it was corrected, see `results.corrected_cord`; None also where that cannot be known."""
        nodes = self._results.nodes
        if nodes is None or nodes.input is None:
            return None
        try:
            return results.corrected_cord(nodes, self._analyses.of(nodes))
        except U2ADError:
            return None

    def _edit(self, checked=False):
        self.refresh()
        if self._why_not():
            return
        nodes = self._results.nodes
        if not hasattr(slicer.modules, EDITOR.lower()):
            self._complain(_("This Slicer has no Segment Editor."))
            return
        display.show_segment(nodes.segmentation, results.CORD_ID)
        try:
            slicer.util.selectModule(EDITOR)  # first: on entering, the editor chooses what to edit by itself
        except RuntimeError as error:
            self._complain(_("The Segment Editor could not be opened: {error}").format(error=error))
            return
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(nodes.segmentation)
        editor.setSourceVolumeNode(nodes.input)
        editor.setCurrentSegmentID(results.CORD_ID)
        self._leave_others_alone(editor.mrmlSegmentEditorNode())

    def _leave_others_alone(self, editor_node):
        """Let the cord lie over the segments of the levels: by default the editor cuts out of them what is painted."""
        if editor_node.GetOverwriteMode() != editor_node.OverwriteNone:
            self._overwrite = editor_node.GetOverwriteMode()
            editor_node.SetOverwriteMode(editor_node.OverwriteNone)

    def _restore_overwrite(self):
        before, self._overwrite = self._overwrite, None
        editor_node = slicer.mrmlScene.GetSingletonNode(EDITOR, "vtkMRMLSegmentEditorNode")
        if before is not None and editor_node and editor_node.GetOverwriteMode() == editor_node.OverwriteNone:
            editor_node.SetOverwriteMode(before)


def _changed():
    return _("The cord's outline was changed: Apply analyses with it.")
