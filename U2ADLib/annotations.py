"""A table that says who has a hyperintensity, and in which segments.

Columns `participant_id`, `segment`, `hyperintensity`, in any order and among others, separated by commas, semicolons or
tabs. An empty segment (or `n/a`) means the whole patient. An empty hyperintensity (or `n/a`) says nothing.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .config import SEGMENT_NAMES
from .dataset import Case
from .errors import InputError

COLUMNS = ("participant_id", "segment", "hyperintensity")
MOST_PROBLEMS = 5  # named in a message
_NOTHING = ("", "n/a", "na", "nan")
_MEANING = {"1": True, "1.0": True, "yes": True, "true": True, "0": False, "0.0": False, "no": False, "false": False}
# C4-5, C4/5, C4-C5 and C4/C5; C7-T1 and C7/T1
_SEGMENTS = {
    spelt: name
    for name in SEGMENT_NAMES.values()
    for written in {name, name if "T" in name else name.replace("-", "-C")}
    for spelt in (written, written.replace("-", "/"))
}


@dataclass(frozen=True)
class Labels:
    """What is known of a patient: whether there is a hyperintensity, and of each labelled segment, by name."""

    patient: bool
    segments: dict[str, bool] = field(default_factory=dict)


def read_annotations(path: Path) -> dict[str, Labels]:
    """Labels by participant, in the order of the table.

    A patient without a row of its own has a hyperintensity if one of the segments has. A patient who has none has none
    in any segment. Otherwise nothing is known of a segment that is not listed.

    :raises InputError: the table cannot be read, a column is missing, or rows are wrong or contradict each other; all
        that is wrong is in one message.
    """
    whole: dict[str, bool] = {}
    parts: dict[str, dict[str, bool]] = {}
    problems = []
    for line, row in _rows(Path(path)):
        person, segment, said = (row[name] for name in COLUMNS)
        if said.lower() in _NOTHING:
            continue
        value, name = _MEANING.get(said.lower()), _SEGMENTS.get(segment.upper())
        if not person:
            problems.append(f"line {line} names no participant")
        elif value is None:
            problems.append(f"line {line}: hyperintensity is {said!r} and not 1 or 0")
        elif name is None and segment.lower() not in _NOTHING:
            problems.append(f"line {line}: {segment!r} is not a segment ({', '.join(SEGMENT_NAMES.values())})")
        else:
            known, key = (whole, person) if name is None else (parts.setdefault(person, {}), name)
            if known.setdefault(key, value) != value:
                problems.append(f"line {line} says otherwise of {person} {segment}".rstrip() + " than a line before")
            elif name is None:
                parts.setdefault(person, {})
    for person, segments in parts.items():
        if whole.get(person) is False and any(segments.values()):
            problems.append(f"{person} has no hyperintensity as a patient, but one in a segment")
    _refuse(path, problems)
    if not parts:
        raise InputError(f"{Path(path).name} labels nobody.")
    return {
        person: Labels(True, segments)
        if whole.get(person, any(segments.values()))
        else Labels(False, dict.fromkeys(SEGMENT_NAMES.values(), False))
        if person in whole
        else Labels(False, segments)
        for person, segments in parts.items()
    }


def labelled_cases(labels: dict[str, Labels], cases: Sequence[Case], name: str) -> list[tuple[Case, Labels]]:
    """The images that the labels are about, in the order of the labels.

    A participant is a person with one image ("sub-…", the prefix may be left out), or the name of an image.

    :param name: the table's, for messages.
    :raises InputError: participants without an image, with several, or named twice; all in one message.
    """
    by_name = {case.id: [case] for case in cases}
    for case in cases:
        if case.person != case.id:
            by_name.setdefault(case.person, []).append(case)
    found, problems, taken = [], [], {}
    for person, known in labels.items():
        images = by_name.get(person) or by_name.get(f"sub-{person}") or []
        if not images:
            problems.append(f"there is no image of {person}")
        elif len(images) > 1:
            problems.append(f"{person} has {len(images)} images, name one ({images[0].id})")
        elif (before := taken.setdefault(images[0].id, person)) != person:
            problems.append(f"{before} and {person} are the same image")
        else:
            found.append((images[0], known))
    _refuse(name, problems)
    return found


def _rows(path):
    """Line number and the wanted columns, stripped, of each row that is not empty."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            delimiter = max(",;\t", key=header.count)
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
            if missing := [name for name in COLUMNS if name not in names]:
                raise InputError(
                    f"{path.name} has no column {' and no column '.join(missing)}: needed are {', '.join(COLUMNS)}."
                )
            places = {name: names.index(name) for name in COLUMNS}
            reader = csv.reader(stream, delimiter=delimiter)
            for row in reader:
                if any(cell.strip() for cell in row):
                    row += [""] * len(names)
                    yield reader.line_num + 1, {name: row[place].strip() for name, place in places.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The table {path} cannot be read ({reason}): it must be text in UTF-8.") from None


def _refuse(path, problems):
    if problems:
        more = len(problems) - MOST_PROBLEMS
        told = "; ".join(problems[:MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(f"{Path(path).name}: {told}.")
