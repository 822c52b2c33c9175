"""A package's thresholds set anew: what `u2ad thresholds` does.

From labelled patients as the paper does (4.2), or from lesion-free people or phantoms, where the thresholds bound false
alarms instead. Every score of the package and the slice rules "all" and "middle" get theirs; each image is
reconstructed once for a rule, whatever the number of scores.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..analysis import analyse, rescored
from ..annotations import Labels, labelled_cases, read_annotations
from ..config import SEGMENT_NAMES
from ..dataset import Case, find_cases
from ..errors import InputError, ModelError, UsageError
from ..io import read_volume
from ..package import (
    NO_REGION_MODEL,
    Model,
    RegionModel,
    Thresholds,
    check_new_name,
    find_model,
    install_model,
    load_model,
    load_region_model,
    package_files,
    read_card,
    update_card,
    weights_sha256,
)
from ..progress import Progress, no_progress
from ..resources import resource
from ..roi.source import prepare
from ..thresholds import (
    FALSE_POSITIVE_RATE,
    FEWEST_NEGATIVES,
    FEWEST_POSITIVES,
    FOLDS,
    SENSITIVITY,
    Figures,
    attained_rate,
    best_f1_threshold,
    check_count,
    cross_validated,
    deal_folds,
    sensitivity_threshold,
    upper_limit,
)
from ..volume import Volume
from .phantoms import THRESHOLD_SEEDS, random_phantom, refuse_phantoms

RULES = ("all", "middle")
PHANTOMS = 100
Say = Callable[[str], None]
Key = tuple[str, str]  # score, slice rule


@dataclass(frozen=True)
class ImageScores:
    """One image under one score and rule: the patient's score, and those of the segments that were found, by name."""

    patient: float
    segments: dict[str, float]


@dataclass(frozen=True)
class Setting:
    """Thresholds for every score and rule, and figures from cross-validation where there were labels.

    figures: one {score, slices, patients, segments} each, the last two of class `thresholds.Figures`; segments is None
    where the labels set no segment threshold.
    """

    thresholds: tuple[Thresholds, ...]
    figures: tuple[dict, ...] = ()

    def records(self) -> list[dict]:
        """The figures as JSON-able values."""
        return [{n: asdict(v) if isinstance(v, Figures) else v for n, v in one.items()} for one in self.figures]

    def text(self) -> list[str]:
        """The figures for a person, line by line; empty where there were no labels."""
        if not self.figures:
            return []
        lines = [f"Cross-validated in {FOLDS} folds of people, each judged with the thresholds of the others:"]
        columns = "".join(f" {name:>11}" for name in ("sensitivity", "specificity", "F1", "F1 of all"))
        lines.append(f"{'score':<9} {'slices':<8} {'of':<9}{columns}  positives per fold")
        for one in self.figures:
            for kind in ("patients", "segments"):
                if (found := one[kind]) is not None:
                    values = (found.sensitivity, found.specificity, found.f1, found.f1_of_all)
                    cells = "".join(f" {'-' if v is None else format(v, '.3f'):>11}" for v in values)
                    counts = " ".join(str(count) for count in found.positives)
                    lines.append(f"{one['score']:<9} {one['slices']:<8} {kind:<9}{cells}  {counts}")
        return lines


def set_thresholds(
    model: str | Path,
    *,
    table: Path | None = None,
    data: Path | None = None,
    healthy: Path | None = None,
    phantoms: int | None = None,
    rate: float | None = None,
    out: str | None = None,
    region_model: str = "default",
    device: str = "auto",
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> tuple[Path, Setting]:
    """Set the thresholds of a package, by default from phantoms; returns its folder and what was set.

    The card changes at the very end and at once. Thresholds of other slice rules stay as they are.

    :param table: labels, see `annotations.read_annotations`, of the images in `data`.
    :param healthy: folder of images of lesion-free people. :param phantoms: number of lesion-free phantoms. With both,
        the higher limit holds; people who are too few for the rate then give their highest score.
    :param rate: share of lesion-free people of whom the patient may be flagged, and any segment; by default 0.05.
    :param out: name for a copy in the user's models, which gets the thresholds; the package itself stays as it is.
    :param region_model: finds cord and discs that do not lie beside an image; "none" finds nothing.
    :raises UsageError: options do not fit together. :raises InputError: too few people, a table that is wrong …
    :raises ModelError: a package that came with U2AD and no `out`, or a name that is taken.
    """
    if table is not None and (healthy is not None or phantoms is not None):
        raise UsageError("The thresholds come from a table, or from --healthy and --phantoms: choose one of these.")
    if (table is None) != (data is None):
        raise UsageError("--table (who has a hyperintensity) and --data (the images) belong together.")
    if table is not None and rate is not None:
        raise UsageError("A false-positive rate is for lesion-free people and phantoms, not for a table.")
    folder = find_model(model)
    _check_target(folder, out)
    loaded = load_model(folder)
    rate = FALSE_POSITIVE_RATE if rate is None else rate
    settings = {"device": device, "progress": progress}
    if table is not None:
        setting = thresholds_from_table(loaded, table, data, region_model=region_model, say=say, **settings)
    else:
        found = []
        if healthy is not None:
            few = phantoms is not None
            finder = {"region_model": region_model}
            found.append(
                thresholds_from_healthy(loaded, healthy, rate, few=few, say=say, **finder, **settings).thresholds
            )
        if phantoms is not None or healthy is None:
            count = PHANTOMS if phantoms is None else phantoms
            refuse_phantoms(loaded.purpose, count)
            made = phantom_thresholds(loaded, count, rate=rate, **settings)
            found.append(tuple(Thresholds(**values) for values in made))
        setting = Setting(found[0] if len(found) == 1 else tuple(map(_higher, *found)))
    return _store(folder, loaded.sha256, setting, out), setting


# ----------------------------------------------------------------------------------------------------- sources


def thresholds_from_table(
    model: Model,
    table: Path,
    data: Path,
    *,
    rules: Sequence[str] = RULES,
    region_model: str = "default",
    device: str = "auto",
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> Setting:
    """Patient thresholds with sensitivity 0.9 and segment thresholds with the best F1, from labelled patients.

    They are set on the pooled scores of all patients; the figures come from five folds of people, each judged with the
    threshold of the other four. Segments that were not found count as missed where they have a hyperintensity, and not
    at all where they have none. Where the table names no segment with one, the package's own segment thresholds stay.

    :raises InputError: the table is wrong, fewer than ten positives or negatives, or no image can be analysed.
    """
    labelled = labelled_cases(
        read_annotations(table), cases := find_cases(data, model.purpose.contrast), Path(table).name
    )
    by_segment = any(any(labels.segments.values()) for _, labels in labelled)
    _check_labels(labelled, by_segment)
    kept = {} if by_segment else {key: model.thresholds_for(key[1], key[0]) for key in _keys(model, rules)}
    if lacking := [key for key, thresholds in kept.items() if thresholds is None]:
        raise InputError(
            f"{Path(table).name} names no segment with a hyperintensity, and the model has no segment threshold yet "
            f"for the score {lacking[0][0]!r} with --slices {lacking[0][1]}: label segments, or begin with --phantoms."
        )
    if others := len(cases) - len(labelled):
        say(f"{others} of {len(cases)} images are not in the table: they are left alone.")
    scored, remarks = _folder_scores(model, [case for case, _ in labelled], rules, region_model, device, progress, say)
    used = [(case, labels, scored[case.id]) for case, labels in labelled if case.id in scored]
    _check_labels([(case, labels) for case, labels, _ in used], by_segment)
    folds = _folds(used)
    thresholds, figures = [], []
    for key in _keys(model, rules):
        patients, segments = _patient_items(used, key), _segment_items(used, key)
        results = {"patients": _judged(patients, folds, sensitivity_threshold), "segments": None}
        patient = sensitivity_threshold(*patients[1:])
        origin = f"{_with_without(patients)} people: the patient threshold finds {100 * SENSITIVITY:g} % of those with"
        if by_segment:
            segment = best_f1_threshold(*segments[1:])
            results["segments"] = _judged(segments, folds, best_f1_threshold)
            origin += f"; {_with_without(segments)} segments: the segment threshold has the best F1"
        else:
            segment = kept[key].segment
            origin += f"; the segment threshold is an older one ({kept[key].origin})"
        origin = f"labelled table, {origin}; judged in {FOLDS} folds of people{remarks}"
        thresholds.append(Thresholds(segment, patient, key[1], origin, key[0]))
        figures.append({"score": key[0], "slices": key[1], **results})
    return Setting(tuple(thresholds), tuple(figures))


def thresholds_from_healthy(
    model: Model,
    folder: Path,
    rate: float = FALSE_POSITIVE_RATE,
    *,
    few: bool = False,
    rules: Sequence[str] = RULES,
    region_model: str = "default",
    device: str = "auto",
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> Setting:
    """Thresholds that flag at most this share of lesion-free people (`thresholds.upper_limit`): the patient, or any
    segment of theirs.

    Of several images of a person the highest score counts.

    :param few: people who are too few for the rate give their highest score.
    :raises InputError: too few people for the rate, or no image can be analysed.
    """
    cases = find_cases(folder, model.purpose.contrast)
    if few:
        rate = max(rate, 1 / (len({case.person for case in cases}) + 1))
    check_count(len({case.person for case in cases}), rate, "people")
    scored, remarks = _folder_scores(model, cases, rules, region_model, device, progress, say)
    people: dict[str, list[dict[Key, ImageScores]]] = {}
    for case in cases:
        if case.id in scored:
            people.setdefault(case.person, []).append(scored[case.id])
    if few:
        rate = max(rate, 1 / (len(people) + 1))
    check_count(len(people), rate, "people who can be analysed")
    merged = [{key: _highest([one[key] for one in images]) for key in images[0]} for images in people.values()]
    return Setting(_from_lesion_free(model, merged, rules, rate, "people", remarks))


def phantom_thresholds(
    model: Model,
    count: int = PHANTOMS,
    rules: Sequence[str] = RULES,
    device: str = "auto",
    progress: Progress = no_progress,
    rate: float = FALSE_POSITIVE_RATE,
) -> list[dict]:
    """Thresholds as they stand in a card, from lesion-free phantoms of clinical kind that trained nothing.

    :raises InputError: too few phantoms for the rate.
    """
    check_phantoms(count, rate)
    scored = []
    for i in range(count):
        progress("Thresholds", i, count)
        phantom = random_phantom(THRESHOLD_SEEDS + i, "clinical")
        scored.append(
            image_scores(
                phantom.volume,
                model,
                cord=phantom.cord,
                discs=phantom.discs,
                rules=rules,
                device=device,
                progress=lambda *_, done=i: progress("Thresholds", done, count),
            )
        )
    progress("Thresholds", count, count)
    remarks = f"; seeds from {THRESHOLD_SEEDS}, none of which trained anything; not set on patients"
    found = _from_lesion_free(model, scored, rules, rate, "clinical phantoms", remarks)
    return [asdict(thresholds) for thresholds in found]


def check_phantoms(count: int, rate: float = FALSE_POSITIVE_RATE) -> None:
    """:raises InputError: so many phantoms are too few for the rate."""
    check_count(count, rate, "phantoms")


def image_scores(
    volume: Volume,
    model: Model,
    *,
    cord: Volume | None = None,
    discs: Volume | None = None,
    region_model: RegionModel | None = None,
    rules: Sequence[str] = RULES,
    device: str = "auto",
    progress: Progress = no_progress,
    say: Say = lambda message: None,
) -> dict[Key, ImageScores]:
    """The scores of an image under every score of the model and every slice rule; what is not given is found.

    Cord and levels are found once, and the Monte Carlo is run once for a rule.

    :raises InputError: the image or its labels cannot be used.
    """
    prepared = prepare(
        volume,
        cord=cord,
        discs=discs,
        region_model=region_model,
        preprocessing=model.preprocessing,
        device=device,
        progress=progress,
        say=say,
    )
    bare = replace(model, thresholds=())  # nothing is flagged, so no time goes into lesions
    found = {}
    for rule in rules:
        result = analyse(
            volume, prepared=prepared, model=bare, device=device, slices=rule, progress=progress, say=say
        )  # fmt: skip
        for score in model.scores:
            same = result if score == result.score else rescored(result, bare, score, device=device, progress=progress)
            found[score, rule] = ImageScores(same.patient_score, {s.name: s.score for s in same.segments})
    return found


# --------------------------------------------------------------------------------------------------- the parts


def _keys(model: Model, rules) -> list[Key]:
    return [(score, rule) for score in model.scores for rule in rules]


def _folder_scores(model, cases: Sequence[Case], rules, region_model, device, progress, say):
    """Scores by the case's id, and remarks for the origin. Cases that cannot be analysed are named and left out."""
    finder = None
    if region_model != NO_REGION_MODEL and any(case.cord is None or case.discs is None for case in cases):
        finder = load_region_model(region_model)
    scored = {}
    for i, case in enumerate(cases):

        def tick(*_, done=i):
            progress("Thresholds", done, len(cases))

        tick()
        try:
            labels = {name: path and read_volume(path) for name, path in (("cord", case.cord), ("discs", case.discs))}
            scored[case.id] = image_scores(
                read_volume(case.image),
                model,
                **labels,
                region_model=finder,
                rules=rules,
                device=device,
                progress=tick,
                say=say,
            )
        except InputError as error:
            say(f"{case.id} is left out: {error}")
    progress("Thresholds", len(cases), len(cases))
    if not scored:
        raise InputError("None of the images can be analysed.")
    used = [case for case in cases if case.id in scored]
    remarks = ""
    if lost := len(cases) - len(used):
        remarks += f"; {lost} of {len(cases)} images could not be analysed"
    for kind in ("cord", "discs"):
        if finder is not None and (without := sum(getattr(case, kind) is None for case in used)):
            remarks += f"; {kind} found by the model {finder.name} in {without} of {len(used)} images"
    if known := len({case.person for case in used} & _learnt_from(model.card)):
        say(
            f"{known} of the people trained this model: it rebuilds them better than others, so their scores are too "
            "low. Leave them out if you can."
        )
        remarks += f"; {known} of the people trained the model"
    return scored, remarks


def _learnt_from(card: dict) -> set[str]:
    """The people whom any entry of the card names as such."""
    entries = [entry for entry in card.values() if isinstance(entry, dict)]
    lists = [entry.get(name) for entry in entries for name in ("people", "validation_people")]
    return {person for names in lists if isinstance(names, list) for person in names}


def _highest(images: Iterable[ImageScores]) -> ImageScores:
    """One person's images taken together."""
    images = list(images)
    names = [name for name in SEGMENT_NAMES.values() if any(name in one.segments for one in images)]
    return ImageScores(
        max(one.patient for one in images),
        {name: max(one.segments[name] for one in images if name in one.segments) for name in names},
    )


def _from_lesion_free(model, scored, rules, rate, who, remarks) -> tuple[Thresholds, ...]:
    """:param scored: a dict of `ImageScores` for each person or phantom. :param who: what they are, for the origin."""
    thresholds = []
    for score, rule in _keys(model, rules):
        patients = [one[score, rule].patient for one in scored]
        segments = [max(named.values()) for one in scored if (named := one[score, rule].segments)]
        check_count(len(segments), rate, f"{who} whose segments can be named")
        steps = _resolved(len(patients), rate)
        if len(segments) < len(patients):
            steps += f"; for segments, which can be named in fewer, {_resolved(len(segments), rate)}"
        origin = (
            f"{100 * rate:.3g} % of {len(patients)} lesion-free {who} with a false alarm, and as many with any segment "
            f"flagged: the maximum that a further one exceeds with at most this probability ({steps}){remarks}"
        )
        thresholds.append(Thresholds(upper_limit(segments, rate), upper_limit(patients, rate), rule, origin, score))
    return tuple(thresholds)


def _resolved(n: int, rate: float) -> str:
    """How finely a rate can be set with n people, in words."""
    return f"{n} resolve steps of {100 / (n + 1):.1f} %; attained: {100 * attained_rate(n, rate):.1f} %"


def _higher(one: Thresholds, other: Thresholds) -> Thresholds:
    """Of the same score and slice rule."""
    segment, patient = max(one.segment, other.segment), max(one.patient, other.patient)
    return replace(one, segment=segment, patient=patient, origin=f"the higher of: {one.origin}; and {other.origin}")


def _check_labels(labelled: Sequence[tuple[Case, Labels]], by_segment: bool) -> None:
    """:raises InputError: too few positives or negatives for thresholds and figures."""
    kinds = {"people": [labels.patient for _, labels in labelled]}
    if by_segment:
        kinds["segments"] = [value for _, labels in labelled for value in labels.segments.values()]
    for kind, values in kinds.items():
        for wanted, least, word in ((True, FEWEST_POSITIVES, "with"), (False, FEWEST_NEGATIVES, "without")):
            if (count := values.count(wanted)) < least:
                raise InputError(
                    f"At least {least} labelled {kind} {word} a hyperintensity are needed, there are {count}: label "
                    "more, or set the thresholds from lesion-free people (--healthy) or phantoms (--phantoms)."
                )
    if by_segment and (count := len({c.person for c, labels in labelled if any(labels.segments.values())})) < FOLDS:
        raise InputError(
            f"At least {FOLDS} people with a hyperintensity in a labelled segment are needed, one for each fold; there "
            f"are {count}."
        )


def _folds(used) -> dict[str, int]:
    """The fold of each person; people with many positive segments, with few and without any are spread evenly."""
    ranks: dict[str, tuple] = {}
    for case, labels, _ in used:
        count, patient = ranks.get(case.person, (0, False))
        ranks[case.person] = (count + sum(labels.segments.values()), patient or labels.patient)
    return deal_folds(ranks)


def _patient_items(used, key):
    """People, scores and labels, one for each image."""
    return (
        [case.person for case, _, _ in used],
        np.array([scores[key].patient for _, _, scores in used]),
        np.array([labels.patient for _, labels, _ in used], bool),
    )


def _segment_items(used, key):
    """The same, one for each labelled segment. A positive one that was not found has the score −∞."""
    items = [
        (case.person, scores[key].segments.get(name, -np.inf), value)
        for case, labels, scores in used
        for name, value in labels.segments.items()
        if value or name in scores[key].segments
    ]
    people, values, truth = zip(*items, strict=True) if items else ((), (), ())
    return list(people), np.array(values, float), np.array(truth, bool)


def _judged(items, folds, rule) -> Figures:
    people, scores, labels = items
    return cross_validated(scores, labels, [folds[person] for person in people], rule)


def _with_without(items) -> str:
    labels = items[2]
    return f"{labels.sum()} with and {(~labels).sum()} without hyperintensity among {len(labels)}"


# ------------------------------------------------------------------------------------------------- the package


def _check_target(folder: Path, out: str | None) -> None:
    """Find out before an hour is spent. :raises ModelError: the thresholds could not be written in the end."""
    if out is not None:
        check_new_name(out)
    elif resource("Models").resolve() in folder.resolve().parents:
        raise ModelError(
            f"Model {folder.name!r} is part of U2AD and is not changed: add --out NAME for a copy of yours with its "
            "own thresholds."
        )
    elif not os.access(folder, os.W_OK):
        raise ModelError(f"The card of model {folder.name!r} cannot be written: add --out NAME for a copy of yours.")


def _store(folder: Path, sha256: str, setting: Setting, out: str | None) -> Path:
    """Write the card of the package, or a copy with another card; returns the folder."""
    if weights_sha256(read_card(folder)) != sha256:
        raise ModelError(f"Model {folder.name!r} has got other weights meanwhile: start again.")
    try:
        if out is None:
            update_card(folder, **_entries(read_card(folder), setting))
            return folder
        with tempfile.TemporaryDirectory(prefix="u2ad-") as place:
            for part in package_files(read_card(folder)):
                shutil.copyfile(folder / part, Path(place) / part)
            update_card(Path(place), **_entries(read_card(folder), setting))
            return install_model(Path(place), out).folder
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelError(f"The thresholds of model {out or folder.name!r} cannot be written: {reason}.") from None


def _entries(card: dict, setting: Setting) -> dict:
    """What changes in the card: thresholds, and figures among the metrics; those of other scores and rules stay."""
    new = {(thresholds.score, thresholds.slices) for thresholds in setting.thresholds}

    def others(entries):
        return [e for e in entries if (e.get("score", "paper"), e["slices"]) not in new]

    metrics = card.get("metrics") or {}
    figures = [*others(metrics.get("thresholds", [])), *setting.records()]
    metrics = {name: value for name, value in metrics.items() if name != "thresholds"}
    if figures:
        metrics["thresholds"] = figures
    return {
        "thresholds": [*others(card.get("thresholds", [])), *(asdict(one) for one in setting.thresholds)],
        "metrics": metrics,
    }
