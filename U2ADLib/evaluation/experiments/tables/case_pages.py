"""Single images: those that U²AD judges best and worst, with reconstruction, map, curve and truth."""

import numpy as np

from ....anomaly import filtered_map
from ....curve import volume_curve
from ..pictures import case_page
from ..training import Comparison, kind_of
from .context import Context, jobs_of
from .result import Picture, Result
from .scoring import Job

TITLE = "Cases"
PER_KIND = 3
PREFERRED = ("u2ad", "u2ad-default", "mae-mc")


def method_of(comparison: Comparison) -> str | None:
    """Whose maps are shown."""
    config = comparison.config
    known = [*config.known(PREFERRED), *(name for name in config.methods if not kind_of(name).supervised)]
    return known[0] if known else None


def jobs(comparison: Comparison) -> list[Job]:
    """The scores that say which cases are best."""
    method = method_of(comparison)
    return [] if method is None else jobs_of(comparison, comparison.entry(method))


def run(context: Context) -> Result:
    """Best: images with a hyperintensity, in the top segment, that stand out most. Worst: first those where the top
    segment is another one, then those that stand out least; and images without one that stand out most."""
    method = method_of(context.comparison)
    if method is None or not context.is_there(entry := context.comparison.entry(method)):
        return Result(notes=["No cases are shown: U²AD was not scored."])
    scores = context.scores(entry)
    standing = _standing(context, {name: one.patient for name, one in scores.items()})
    cases = [case for case in context.comparison.cases if context.may_show(case)]
    positive = [case for case in cases if case.patient]
    healthy = [case for case in cases if not case.patient]
    located = [case for case in positive if case.segments.get(scores[case.id].top, False)]
    ranked = {
        "found best": sorted(located, key=lambda case: -standing[case.id]),
        "found worst": sorted(positive, key=lambda case: (case in located, standing[case.id])),
        "most suspicious without one": sorted(healthy, key=lambda case: -standing[case.id]),
    }
    figures = []
    for kind, found in ranked.items():
        for number, case in enumerate(found[:PER_KIND], 1):
            if (maps := context.maps(entry, case)) is None:
                continue
            config = context.config.score_of(method)
            filtered = filtered_map(maps.anomaly, case.cords, config)
            curve = volume_curve(filtered, case.cords, case.region.centreline, case.slices, config)
            limits = {one.name: (one.start_mm, one.stop_mm) for one in case.region.segments}
            file = f"case-{kind.replace(' ', '-')}-{number}"
            case_page(context.picture_path(file), case, maps, curve, limits)
            figures.append(_picture(file, kind, number, case, scores[case.id], standing[case.id]))
    missing = len(context.comparison.cases) - len(cases)
    notes = [f"{missing} images of people are not shown, though judged."] if missing else []
    return Result([], figures, [f"Shown are maps of {context.title(entry)}.", *notes])


def _standing(context, scores):
    """How far each patient score is from those of images without a hyperintensity, in their SD, by id: from those of
    the same fold, whose scores are one model's, or from all where it has fewer than two."""
    fold_of, result = context.comparison.fold_of, {}
    healthy = [truth for truth in context.truths if not truth.patient]
    for truth in context.truths:
        same = [one for one in healthy if fold_of[one.person] == fold_of[truth.person]]
        usual = [scores[one.id] for one in (same if len(same) > 1 else healthy)] or [0.0]
        spread = np.std(usual, ddof=1) if len(usual) > 1 else 0.0
        result[truth.id] = float((scores[truth.id] - np.mean(usual)) / (spread or 1.0))
    return result


def _picture(file, kind, number, case, score, standing):
    truth = ", ".join(name for name, positive in case.segments.items() if positive) or "none"
    kinds = f" ({', '.join(case.kinds)})" if case.kinds else ""
    caption = (
        f"Hyperintensity: {truth}{kinds}. Top segment: {score.top or 'none'}. The patient score is {standing:+.1f} SD "
        "from the mean of images without one."
    )
    return Picture(f"{file}.png", f"{kind.capitalize()}, {number}", caption, case.group != "phantom")
