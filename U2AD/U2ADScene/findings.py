"""What a run found, one by one: how high, how sure, and whether it may be something else.

The figures are the library's (`U2ADLib.lesions`); here they get places to go to and words to understand them by.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from U2ADLib.analysis import Analysis


@dataclass(frozen=True)
class Finding:
    """One finding. Scores, threshold and uncertainty are of the score in use; positions are mm along the cord.

    :ivar smaller: the score with a mask of the cord that is one pixel smaller all around.
    :ivar gain: how much brighter than the cord thereabouts, 0.23: by 23 %.
    """

    name: str
    score: float
    smaller: float
    uncertainty: float
    gain: float
    threshold: float
    s_mm: float
    slice_number: int

    @property
    def at_border(self) -> bool:
        """Whether it would not have been flagged with the smaller mask: it may be CSF at the cord's border."""
        return self.smaller <= self.threshold

    @property
    def remark(self) -> str:
        """What the user should consider; "" where there is nothing."""
        return _("may be CSF at the border") if self.at_border else ""

    def texts(self) -> tuple[str, ...]:
        """As in the columns of `columns`."""
        return (
            self.name, f"{self.score:.3f}", f"{self.smaller:.3f}", f"{self.uncertainty:.3f}",
            f"{100 * self.gain:+.0f} %", self.remark,
        )  # fmt: skip


def columns() -> tuple[tuple[str, str], ...]:
    """Title and explanation of each column of a table of findings."""
    return (
        (_("Finding"), _("Where it is: its segments, or mm along the cord from its upper end. Click to go there.")),
        (_("Score"), _("How much it stands out, by the score in use. It is flagged above the threshold.")),
        (
            _("1 px less"),
            _(
                "Would it survive? The highest value that is left of it where the outline of the cord is drawn one "
                "pixel smaller all around. Bright CSF at the border loses its score then, a lesion keeps it. Below "
                "the threshold the finding is marked: look at the outline there."
            ),
        ),
        (
            _("Unsure"),
            _(
                "Uncertainty: how far the reconstructions of this place differ from each other (standard deviation, "
                "image 0-1). Where it is high, the model has seen little like it, and the score means less."
            ),
        ),
        (
            _("Brighter"),
            _(
                "How much brighter than the cord thereabouts it is at most: the simplest rule, which knows no model. "
                "A hyperintensity is brighter; where this is near zero, the model sees something else."
            ),
        ),
        (_("Remark"), _("Falls below the threshold with the smaller outline: it may be CSF beside the cord.")),
    )


def findings_of(analysis: "Analysis") -> list[Finding]:
    """The findings of an analysis, strongest first; none where it has no thresholds."""
    if analysis.thresholds is None:
        return []
    found = []
    for lesion in analysis.lesions:
        score = lesion["peak_score []"]
        s_mm, number = _place(analysis, score, [int(k) for k in lesion["slices"].split()])
        inside = bool(lesion["segment"])
        found.append(
            Finding(
                name=lesion["segment"] or _("cord at {position:.0f} mm").format(position=s_mm),
                score=score,
                smaller=lesion["peak_score_smaller_mask []"],
                uncertainty=lesion["uncertainty []"],
                gain=lesion["local_gain []"],
                threshold=analysis.thresholds.segment if inside else analysis.thresholds.patient,
                s_mm=s_mm,
                slice_number=number,
            )
        )
    return found


def table_columns(analysis: "Analysis") -> dict[str, list]:
    """The findings as the columns of a table node."""
    found = findings_of(analysis)
    return {
        "finding": [one.name for one in found],
        "score": [one.score for one in found],
        "score_smaller_mask": [one.smaller for one in found],
        "threshold": [one.threshold for one in found],
        "uncertainty": [one.uncertainty for one in found],
        "local_gain": [one.gain for one in found],
        "position_mm": [one.s_mm for one in found],
        "remark": [one.remark for one in found],
    }


def _place(analysis, score, slices):
    """Position in mm and slice where the curve of one of a finding's slices has the finding's score."""
    rows = [k for k, number in enumerate(analysis.curve.slices) if number in slices]
    values = np.abs(np.nan_to_num(analysis.curve.values[rows], nan=np.inf) - score)
    row, at = np.unravel_index(values.argmin(), values.shape)
    return float(analysis.curve.s_mm[at]), int(analysis.curve.slices[rows[row]])
