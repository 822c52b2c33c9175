"""Thresholds against values known in advance: hand-made scores, tables that are wrong, and tiny phantoms."""

import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from U2ADLib import montecarlo
from U2ADLib.analysis import analyse, rescored
from U2ADLib.annotations import Labels, labelled_cases, read_annotations
from U2ADLib.cli import main
from U2ADLib.config import SEGMENT_NAMES, Architecture, ScoreConfig
from U2ADLib.dataset import Case
from U2ADLib.errors import Cancelled, InputError, ModelError, UsageError
from U2ADLib.io import write_volume
from U2ADLib.mae import EdgeMAE
from U2ADLib.package import load_model, package_files, read_card, save_model
from U2ADLib.scoring.discriminator import Discriminator, DiscriminatorArchitecture
from U2ADLib.simulation.phantom import PhantomConfig, simulate_phantom
from U2ADLib.thresholds import (
    attained_rate,
    best_f1_threshold,
    cross_validated,
    deal_folds,
    fewest,
    sensitivity_threshold,
    upper_limit,
)
from U2ADLib.training import thresholds as recipe
from U2ADLib.training.phantoms import THRESHOLD_SEEDS, random_phantom
from U2ADLib.training.thresholds import ImageScores, image_scores, phantom_thresholds, set_thresholds

KEYS = {("paper", "all"), ("paper", "middle"), ("default", "all"), ("default", "middle")}


# Rules


def test_sensitivity_of_nine_in_ten_lets_one_of_ten_go():
    """Positives 1 … 10, negatives 0.5 and 1.5: 2 must be caught, 1.5 is the next lower score."""
    scores, labels = [*range(1, 11), 0.5, 1.5], [True] * 10 + [False] * 2
    assert sensitivity_threshold(scores, labels) == 1.75
    assert sensitivity_threshold(scores, labels, 1.0) == 0.75
    assert sensitivity_threshold(scores[:9], labels[:9]) < 1  # nine in ten of nine are all nine
    assert sensitivity_threshold([4.0] * 12, labels) < 4  # nothing lies lower: just below


def test_ties_are_caught_together():
    scores, labels = [3, 3, 3, 1, 2], [True, True, True, True, False]
    assert sensitivity_threshold(scores, labels, 0.5) == 2.5
    assert sensitivity_threshold(scores, labels, 0.9) < 1


def test_best_f1():
    """Calling 9, 8 gives F1 2·2/(2·2 + 1) = 0.8, calling all down to 5 gives 2·3/(2·3 + 2) = 0.75."""
    scores, labels = [9, 8, 7, 6, 5, 1], [True, True, False, False, True, False]
    assert best_f1_threshold(scores, labels) == 7.5


def test_best_f1_takes_the_highest_of_equals_and_cannot_find_the_infinite():
    assert best_f1_threshold([4, 3, 2, 1], [True, False, False, True]) == 3.5  # 2/3 with 1 or 4 called
    assert best_f1_threshold([4, 1, -np.inf], [True, False, True]) == 2.5
    assert best_f1_threshold([4, 1, -np.inf], [False, False, True]) == 4  # nothing is called
    with pytest.raises(InputError, match="None of the labelled segments"):
        best_f1_threshold([-np.inf], [True])


def test_neighbouring_numbers_have_no_middle():
    low = 0.1
    high = np.nextafter(low, 1)
    assert low <= best_f1_threshold([low, high], [False, True]) < high


def test_upper_limit_is_the_conformal_quantile():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 20))
    assert upper_limit(values, 0.05) == 19  # ⌈0.95 · 20⌉
    assert upper_limit(values, 0.1) == 18
    assert upper_limit(np.arange(1.0, 101), 0.05) == 96  # ⌈0.95 · 101⌉
    assert attained_rate(19, 0.05) == pytest.approx(0.05)
    assert attained_rate(100, 0.05) == pytest.approx(5 / 101)
    assert [fewest(rate) for rate in (0.5, 0.1, 0.05, 0.01)] == [1, 9, 19, 99]
    with pytest.raises(InputError, match=r"5 % needs at least 19 lesion-free scores, there are 18: .* at least 5.3 %"):
        upper_limit(values[:18], 0.05)
    for rate in (0, 1, -0.1, 5):
        with pytest.raises(UsageError, match="between 0 and 1"):
            upper_limit(values, rate)


def test_upper_limit_keeps_its_promise():
    """A further value exceeds it as often as stated, also where values are few; numpy's percentile twice as often."""
    rng = np.random.default_rng(1)
    draws = rng.random((20000, 20))
    ours = np.mean([one[-1] > upper_limit(one[:-1], 0.05) for one in draws])
    assert ours == pytest.approx(0.05, abs=0.005)
    assert np.mean(draws[:, -1] > np.percentile(draws[:, :-1], 95, axis=1)) > 0.08


def test_folds_are_even_and_always_the_same():
    ranks = {f"p{i}": (3, True) if i < 7 else (0, True) if i < 12 else (0, False) for i in range(31)}
    folds = deal_folds(ranks)
    assert folds == deal_folds(dict(reversed(ranks.items())))
    for kind in set(ranks.values()):
        counts = np.bincount([fold for name, fold in folds.items() if ranks[name] == kind], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert [folds[f"p{i}"] for i in range(7)] != sorted(folds[f"p{i}"] for i in range(7))


def test_cross_validation_by_hand():
    """Two folds. Without fold 1 the rule sets the middle of 1 and 3 = 2, without fold 0 that of 4 and 6 = 5."""
    scores, labels, folds = [1, 3, 4, 6], [False, True, False, True], [0, 0, 1, 1]
    found = cross_validated(scores, labels, folds, best_f1_threshold)
    assert found.thresholds == (5, 2)  # judged on fold 0: nothing called; on fold 1: both
    assert (found.sensitivity, found.specificity, found.f1) == (0.5, 0.5, 0.5)
    assert found.f1_of_all == pytest.approx(2 / 3)
    assert (found.positives, found.negatives) == ((1, 1), (1, 1))


def test_only_what_is_above_a_threshold_is_called():
    found = cross_validated([3, 4, 3, 4], [True] * 4, [0, 0, 1, 1], lambda scores, labels: 3.0)
    assert found.sensitivity == 0.5


def test_degenerate_folds():
    with pytest.raises(InputError, match="All positives are in one fold"):
        cross_validated([1, 2, 3], [True, False, False], [0, 1, 2], best_f1_threshold)
    only = cross_validated([1, 2, 3, 4], [True] * 4, [0, 1, 0, 1], sensitivity_threshold)
    assert (only.specificity, only.negatives) == (None, (0, 0))


# Tables


def table(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table(tmp_path):
    path = table(
        tmp_path,
        "\ufeffage;Segment;participant_id;hyperintensity\n50;C4-5;sub-1;1\n;c5/6;sub-1;no\n;;sub-2;0\n;;;\n"
        ";C7/T1;sub-3;0.0\n;C3/C4;sub-3;0\n;n/a;sub-4;yes\n;C2-3;sub-4;n/a\n;;sub-5;\n",
    )
    assert read_annotations(path) == {
        "sub-1": Labels(True, {"C4-5": True, "C5-6": False}),
        "sub-2": Labels(False, dict.fromkeys(SEGMENT_NAMES.values(), False)),
        "sub-3": Labels(False, {"C7-T1": False, "C3-4": False}),
        "sub-4": Labels(True, {}),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id,hyperintensity\na,1\n", "has no column segment: needed are participant_id, segment"),
        ("", "no column participant_id and no column segment"),
        ("participant_id,segment,hyperintensity\n", "labels nobody"),
        (
            "participant_id,segment,hyperintensity\na,C45,1\na,C8,0\n",
            "line 2: 'C45' is not .*; line 3: 'C8' is not a seg",
        ),
        ("participant_id,segment,hyperintensity\na,,maybe\n", "line 2: hyperintensity is 'maybe' and not 1 or 0"),
        ("participant_id,segment,hyperintensity\n,C4-5,1\n", "line 2 names no participant"),
        ("participant_id,segment,hyperintensity\na,C4-5,1\na,C4/5,0\n", "line 3 says otherwise of a C4/5 than a line"),
        ("participant_id,segment,hyperintensity\na,C4-5,1\na,,0\n", "a has no hyperintensity as a patient, but one in"),
        ("participant_id,segment,hyperintensity\n" + "a,x,1\n" * 7, "line 6: .*; and 2 more"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_annotations(table(tmp_path, text))


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_annotations(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("participant_id,segment,hyperintensity\nJürgen,,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="must be text in UTF-8"):
        read_annotations(tmp_path / "latin.csv")


def test_labels_find_their_images(tmp_path):
    one, before, after = (
        Case(f"sub-{name}_T2w", f"sub-{name[0]}", None, tmp_path / name) for name in ("1", "2_ses-a", "2_ses-b")
    )
    yes, no = Labels(True), Labels(False)
    cases = [one, before, after]
    assert labelled_cases({"1": yes, "sub-2_ses-b_T2w": no}, cases, "t.csv") == [(one, yes), (after, no)]
    with pytest.raises(
        InputError, match=r"t.csv: there is no image of sub-9; sub-2 has 2 images, name one \(sub-2_ses-a_T"
    ):
        labelled_cases({"sub-9": yes, "sub-2": no}, cases, "t.csv")
    with pytest.raises(InputError, match="1 and sub-1 are the same image"):
        labelled_cases({"1": yes, "sub-1": no}, cases, "t.csv")


# A package, and folders whose scores are known


@pytest.fixture(scope="module")
def two_scores(tmp_path_factory):
    """A tiny untrained package with both scores."""
    random = torch.Generator().manual_seed(0)
    network = EdgeMAE(Architecture(depth=1, decoder_depth=1)).initialise(random)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "two"
    old = [{"segment": 0.1, "patient": 0.2, "slices": slices, "origin": "made up"} for slices in ("all", "3")]
    settings = {"bottom_fraction": 0.0, "components": 0, "across": "max"}
    card = {
        "scores": {"paper": {}, "default": {"evidence": "discriminator", **settings}},
        "training": {"people": ["sub-trained"]},
        "metrics": {"held_out": {"mse": 1}},
        "thresholds": old,
    }
    tell = Discriminator(DiscriminatorArchitecture(channels=("gain", "inside", "depth"), widths=(4, 8)))
    save_model(folder, network, card, discriminators=[tell])
    return folder


@pytest.fixture
def mine(two_scores, tmp_path, monkeypatch):
    """A copy that may be changed, and an empty place for the user's models."""
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "mine"))
    return shutil.copytree(two_scores, tmp_path / "two")


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Makes a folder of images whose scores are known: name → (patient score, segment scores), or an error."""

    def make(scores):
        folder = tmp_path / "images"
        for name in scores:
            (folder / name / "anat").mkdir(parents=True)
            (folder / name / "anat" / f"{name}_T2w.nii.gz").touch()

        def look_up(path, model, *, rules, say, **settings):
            found = scores.get(path.name) or scores[path.name.partition("_")[0]]
            if isinstance(found, Exception):
                raise found
            patient, segments = found
            return {
                (score, rule): ImageScores(k * patient, {name: k * value for name, value in segments.items()})
                for score, k in (("paper", 1), ("default", 10))
                for rule in rules
            }

        monkeypatch.setattr(recipe, "read_volume", lambda path: path)
        monkeypatch.setattr(recipe, "image_scores", look_up)
        return folder

    return make


def patients():
    """Twelve patients with scores 11 … 22 and a lesion at C4-5, twelve people with 1 … 12 and none."""
    other = dict.fromkeys(("C2-3", "C3-4", "C5-6"), 0.5)
    scores = {f"sub-sick{i}": (11.0 + i, {"C4-5": 11.0 + i, **other}) for i in range(12)}
    scores |= {f"sub-well{i}": (1.0 + i, {"C4-5": 1.0 + i, **other}) for i in range(12)}
    rows = [f"{name},C4-5,1\n{name},C5-6,0\n" if "sick" in name else f"{name},,0\n" for name in scores]
    return scores, "participant_id,segment,hyperintensity\n" + "".join(rows)


def test_thresholds_from_a_table(mine, known, tmp_path):
    """Of 12 positives 11 must be caught: the lowest is 12, the score below it (another's) 11."""
    scores, text = patients()
    scores["sub-unlisted"] = (99.0, {})
    said = []
    folder, setting = set_thresholds(
        mine, table=table(tmp_path, text), data=known(scores), region_model="none", say=said.append
    )
    assert folder == mine
    assert {(t.score, t.slices) for t in setting.thresholds} == KEYS
    for one in setting.thresholds:
        k = {"paper": 1, "default": 10}[one.score]
        assert one.patient == pytest.approx(11.5 * k)
        assert one.segment == pytest.approx(10.5 * k)  # F1 24/26; at 12.5 it is 20/22, less
        assert "12 with and 12 without hyperintensity among 24 people" in one.origin
        assert "12 with and 60 without hyperintensity among 72 segments" in one.origin
        assert "sick" not in one.origin
    assert said[0].startswith("1 of 25 images are not in the table")
    figures = {(f["score"], f["slices"]): f for f in setting.figures}
    for kind, total in (("patients", 12), ("segments", 12)):
        found = figures["paper", "all"][kind]
        assert sum(found.positives) == total
        assert max(found.positives) - min(found.positives) <= 1
        assert found.sensitivity >= 10 / 12
        assert found.specificity >= 10 / 12


def test_what_the_card_says(mine, known, tmp_path, capsys):
    scores, text = patients()
    words = ["thresholds", str(mine), "--table", str(table(tmp_path, text)), "--data", str(known(scores))]
    assert main([*words, "--region-model", "none", "--progress", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"stage", "done", "total", "seconds_left"} <= set(lines[3])
    assert lines[3]["seconds_left"] is not None
    assert len(lines[-1]["thresholds"]) == len(lines[-1]["figures"]) == 4
    card = read_card(mine)
    stored = {(t.get("score", "paper"), t["slices"]): t for t in card["thresholds"]}
    assert set(stored) == KEYS | {("paper", "3")}
    assert stored["paper", "3"]["origin"] == "made up"
    assert stored["paper", "all"]["patient"] == 11.5
    assert card["metrics"]["held_out"] == {"mse": 1}
    assert card["metrics"]["thresholds"] == lines[-1]["figures"]
    assert load_model(mine).thresholds_for("all", "default").patient == 115
    # Set anew from elsewhere, the figures are gone with the thresholds they were about.
    assert main(["thresholds", str(mine), "--healthy", words[-1], "--region-model", "none", "--progress", "none"]) == 0
    assert "thresholds" not in read_card(mine)["metrics"]
    capsys.readouterr()
    assert main(["models", "show", str(mine)]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == read_card(mine)
    assert [line.split()[:2] for line in output.err.splitlines()[1:6]] == [
        ["default", "all"], ["default", "middle"], ["paper", "3"], ["paper", "all"], ["paper", "middle"],
    ]  # fmt: skip


def test_segments_that_were_not_found_are_missed(mine, known, tmp_path):
    """Positive: below any threshold. Negative: not counted, as nobody knows what it would have got."""
    scores, text = patients()
    del scores["sub-sick3"][1]["C4-5"], scores["sub-well3"][1]["C4-5"], scores["sub-well3"][1]["C2-3"]
    _, setting = set_thresholds(mine, table=table(tmp_path, text), data=known(scores), region_model="none")
    assert "12 with and 58 without hyperintensity among 70 segments" in setting.thresholds[0].origin
    assert setting.figures[0]["segments"].sensitivity <= 11 / 12


def test_patients_only(mine, known, tmp_path):
    scores, _ = patients()
    text = "participant_id,segment,hyperintensity\n" + "".join(f"{name},,{int('sick' in name)}\n" for name in scores)
    path, folder = table(tmp_path, text), known(scores)
    with pytest.raises(InputError, match="no segment threshold yet for the score 'paper' with --slices middle"):
        set_thresholds(mine, table=path, data=folder, region_model="none")
    set_thresholds(mine, healthy=folder, rate=0.2, region_model="none")
    before = load_model(mine).thresholds_for("all", "paper")
    _, setting = set_thresholds(mine, table=path, data=folder, region_model="none")
    after = setting.thresholds[0]
    assert (after.patient, after.segment) == (11.5, before.segment)
    assert before.origin in after.origin
    assert setting.figures[0]["segments"] is None


def test_too_few_positives(mine, known, tmp_path):
    scores, text = patients()
    folder = known(scores)
    for kind, word in (("sick", "with"), ("well", "without")):
        few = "".join(line for line in text.splitlines(True) if f"{kind}1" not in line)  # three of twelve leave
        with pytest.raises(InputError, match=f"At least 10 labelled people {word} a hyperintensity .* there are 9: "):
            set_thresholds(mine, table=table(tmp_path, few), data=folder, region_model="none")
    few = text.replace("C4-5,1", ",1", 9)
    with pytest.raises(InputError, match=r"At least 10 labelled segments with .* there are 3: "):
        set_thresholds(mine, table=table(tmp_path, few), data=folder, region_model="none")
    crowded = "".join(f"sub-sick{i},{s},1\n" for i in range(2) for s in SEGMENT_NAMES.values())
    crowded += "".join(f"sub-sick{i},,1\n" for i in range(2, 12)) + "".join(f"sub-well{i},,0\n" for i in range(12))
    with pytest.raises(
        InputError, match=r"At least 5 people with a hyperintensity in a labelled segment.* there are 2"
    ):
        set_thresholds(
            mine, table=table(tmp_path, text.partition("\n")[0] + "\n" + crowded), data=folder, region_model="none"
        )


def test_images_that_cannot_be_analysed_do_not_count(mine, known, tmp_path):
    scores, text = patients()
    scores["sub-sick0"] = InputError("it is not a neck.")
    folder, said = known(scores), []
    _, setting = set_thresholds(
        mine, table=table(tmp_path, text), data=folder, region_model="none", say=said.append
    )  # fmt: skip
    assert said == ["sub-sick0_T2w is left out: it is not a neck."]
    assert "11 with and 12 without" in setting.thresholds[0].origin
    assert setting.thresholds[0].origin.endswith("; 1 of 24 images could not be analysed")
    before = read_card(mine)
    scores["sub-sick1"] = scores["sub-sick2"] = scores["sub-sick0"]
    with pytest.raises(InputError, match="there are 9"):
        set_thresholds(mine, table=tmp_path / "labels.csv", data=folder, region_model="none")
    assert read_card(mine) == before


def test_thresholds_from_lesion_free_people(mine, known):
    """Scores 1 … 20 of people, twice as many of segments. The highest of a person's images counts."""
    scores = {f"sub-{i:02d}": (float(i), {"C4-5": i - 0.5, "C5-6": float(i)}) for i in range(1, 20)}
    scores["sub-trained"] = (20.0, {"C4-5": 19.5, "C5-6": 20.0})
    folder = known(scores)
    again = folder / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_T2w.nii.gz"
    again.parent.mkdir(parents=True)
    again.touch()
    scores[again.name] = (30.0, {"C4-5": 0.1})
    said = []
    _, setting = set_thresholds(mine, healthy=folder, rate=0.1, region_model="none", say=said.append)
    found = {(t.score, t.slices): t for t in setting.thresholds}
    assert set(found) == KEYS
    assert found["paper", "all"].patient == 20  # ⌈0.9 · 21⌉ = 19th of 2 … 20 and 30
    assert found["paper", "all"].segment == 19  # the highest of each person's: ⌈0.9 · 21⌉ = 19th of 1 … 20
    assert found["default", "middle"].patient == 200
    assert (
        "10 % of 20 lesion-free people with a false alarm, and as many with any segment flagged"
        in found["paper", "all"].origin
    )
    assert "(20 resolve steps of 4.8 %; attained: 9.5 %)" in found["paper", "all"].origin
    assert "1 of the people trained this model" in said[0]
    with pytest.raises(InputError, match=r"1 % needs at least 99 lesion-free people, there are 20"):
        set_thresholds(mine, healthy=folder, rate=0.01, region_model="none")
    for name in ("sub-02", "sub-03"):
        scores[name] = InputError("no.")
    with pytest.raises(InputError, match="at least 19 lesion-free people who can be analysed, there are 18"):
        set_thresholds(mine, healthy=folder, region_model="none")


def test_people_without_named_segments_are_told_of(mine, known):
    scores = {f"sub-{i:02d}": (float(i), {"C4-5": float(i)} if i < 20 else {}) for i in range(1, 25)}
    _, setting = set_thresholds(mine, healthy=known(scores), region_model="none")
    assert (
        "(24 resolve steps of 4.0 %; attained: 4.0 %; for segments, which can be named in fewer, 19 resolve steps of "
        "5.0 %; attained: 5.0 %)"
    ) in setting.thresholds[0].origin


def test_of_people_and_phantoms_the_higher_limit_holds(mine, known, monkeypatch):
    """Three people are too few for 5 %: their highest score counts, 3 for patients and 2 for segments."""
    folder = known({f"sub-{i}": (float(i), {"C4-5": i - 1.0, "C5-6": 0.0}) for i in (1, 2, 3)})

    def made(model, count, rate, **_):
        assert (count, rate) == (40, 0.05)
        keys = [(score, rule) for score in model.scores for rule in ("all", "middle")]
        return [
            {"segment": 2.5, "patient": 2.5, "slices": rule, "origin": "made up", "score": score}
            for score, rule in keys
        ]

    monkeypatch.setattr(recipe, "phantom_thresholds", made)
    _, setting = set_thresholds(mine, healthy=folder, phantoms=40, region_model="none")
    found = {(t.score, t.slices): t for t in setting.thresholds}
    assert set(found) == KEYS
    assert (found["paper", "all"].patient, found["paper", "all"].segment) == (3, 2.5)
    assert "25 % of 3 lesion-free people" in found["paper", "all"].origin
    assert found["paper", "all"].origin.endswith("; and made up")


def test_options_that_do_not_fit(mine, tmp_path, capsys):
    for both in ({"healthy": tmp_path}, {"phantoms": 30}):
        with pytest.raises(UsageError, match="choose one of these"):
            set_thresholds(mine, table=tmp_path, data=tmp_path, **both)
    for wrong in ({"table": tmp_path}, {"data": tmp_path}):
        with pytest.raises(UsageError, match="belong together"):
            set_thresholds(mine, **wrong)
    with pytest.raises(UsageError, match="not for a table"):
        set_thresholds(mine, table=tmp_path, data=tmp_path, rate=0.1)
    assert main(["thresholds", str(mine), "--phantoms", "5", "--progress", "none"]) == 3
    assert "needs at least 19 lesion-free phantoms" in capsys.readouterr().err
    assert main(["thresholds", str(mine), "--false-positive-rate", "5", "--progress", "none"]) == 2
    with pytest.raises(ModelError, match="is for region, not for analysis"):
        set_thresholds("u2ad-region")


def test_bundled_packages_are_copied(mine, known, tmp_path, monkeypatch):
    scores, text = patients()
    settings = {"table": table(tmp_path, text), "data": known(scores), "region_model": "none"}
    with pytest.raises(ModelError, match="is part of U2AD and is not changed: add --out NAME"):
        set_thresholds("default", **settings)
    for name, message in (("no/name", "cannot be the name"), ("u2ad-t2w", "already")):
        with pytest.raises(ModelError, match=message):
            set_thresholds("default", out=name, **settings)
    before = (mine / "model.json").read_bytes()
    folder, _ = set_thresholds(mine, out="ours", **settings)
    assert folder == tmp_path / "mine" / "ours"
    assert (mine / "model.json").read_bytes() == before
    copy = load_model("ours")
    assert (copy.name, copy.sha256) == ("ours", load_model(mine).sha256)
    assert copy.thresholds_for("all", "paper").patient == 11.5
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["ours"]
    # Bundled ones lie in Resources/Models, whatever way they are named.
    monkeypatch.setattr(recipe, "resource", lambda *parts: tmp_path)
    with pytest.raises(ModelError, match="is part of U2AD"):
        set_thresholds(mine / ".." / "two", **settings)


def test_a_package_that_changed_meanwhile(mine, known, tmp_path, monkeypatch):
    """Thresholds of other weights would be wrong; a card that another program wrote to is not set back."""
    scores, text = patients()
    folder, path = known(scores), table(tmp_path, text)
    look_up = recipe.image_scores

    def meanwhile(change):
        def scores_of(*args, **settings):
            card = read_card(mine)
            change(card)
            (mine / "model.json").write_text(json.dumps(card))
            return look_up(*args, **settings)

        monkeypatch.setattr(recipe, "image_scores", scores_of)
        return set_thresholds(mine, table=path, data=folder, region_model="none")

    meanwhile(lambda card: card.update(licence="new"))
    assert read_card(mine)["licence"] == "new"
    with pytest.raises(ModelError, match="other weights meanwhile"):
        meanwhile(lambda card: card["weights"].update(sha256="0"))


# Real computations


@pytest.fixture(scope="module")
def small():
    return simulate_phantom(PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(5, 220, 180)), 3)


def test_one_monte_carlo_serves_all_scores(two_scores, small, monkeypatch):
    """And what comes out is what `analyse` gives."""
    model, runs = load_model(two_scores), []
    true = montecarlo.monte_carlo
    monkeypatch.setattr(montecarlo, "monte_carlo", lambda *args, **kw: runs.append(len(args[1])) or true(*args, **kw))
    labels = {"cord": small.cord, "discs": small.discs}
    found = image_scores(small.volume, model, **labels, device="cpu")
    assert set(found) == KEYS
    assert len(runs) == 2
    assert runs[1] == 1
    assert runs[0] > 1
    for (score, rule), scores in found.items():
        single = analyse(
            small.volume, **labels, region_model=None, model=model, device="cpu", slices=rule, score=score
        )  # fmt: skip
        assert scores.patient == single.patient_score
        assert scores.segments == {segment.name: segment.score for segment in single.segments}
    assert found["paper", "all"] != found["default", "all"]


def test_rescored_is_analysed_with_the_other_score(two_scores, small):
    model = load_model(two_scores)
    settings = {"cord": small.cord, "discs": small.discs, "region_model": None, "model": model, "device": "cpu"}
    paper, default = (analyse(small.volume, **settings, score=score) for score in ("paper", "default"))
    for first, second in ((paper, default), (default, paper)):
        again = rescored(first, model, second.score, device="cpu")
        assert np.array_equal(again.anomaly, second.anomaly)
        assert (again.patient_score, again.thresholds, again.notes) == (
            second.patient_score, second.thresholds, second.notes,
        )  # fmt: skip
        assert again.provenance["configuration"] == second.provenance["configuration"]
        assert len(again.lesions) == len(second.lesions)
    with pytest.raises(UsageError, match="no score 'best'"):
        rescored(paper, model, "best")
    with pytest.raises(UsageError, match="not made with the model"):
        rescored(paper, replace(model, sha256="0"), "paper")


def test_phantoms_from_the_command_line(mine, monkeypatch, capsys):
    """Against scores computed one by one: with three people and a rate of one half, the second of three."""
    words = ["thresholds", str(mine), "--phantoms", "3", "--false-positive-rate", "0.5", "--device", "cpu"]
    assert main([*words, "--out", "ours"]) == 0
    assert "Thresholds: done" in capsys.readouterr().err
    model = load_model("ours")
    assert model.scores["default"] != ScoreConfig()
    for rule in ("all", "middle"):
        segments, people = [], []
        for seed in range(THRESHOLD_SEEDS, THRESHOLD_SEEDS + 3):
            phantom = random_phantom(seed, "clinical")
            assert not phantom.lesions.array.any()
            result = analyse(
                phantom.volume, cord=phantom.cord, discs=phantom.discs, model=model, device="cpu", slices=rule
            )
            segments.append(max(segment.score for segment in result.segments))
            people.append(result.patient_score)
        found = model.thresholds_for(rule, "default")
        assert found.patient == sorted(people)[1]
        assert found.segment == sorted(segments)[1]
        assert "3 lesion-free clinical phantoms" in found.origin
        assert "not set on patients" in found.origin


def test_lesion_free_people_from_their_files(mine, small, tmp_path):
    """Masks beside the image are taken. With two people and a rate of 0.4 the higher one counts."""
    other = simulate_phantom(PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(5, 220, 180)), 4)
    folder, scores = tmp_path / "healthy", []
    folder.mkdir()
    model = load_model(mine)
    for name, one in (("a", small), ("b", other)):
        for suffix, volume in (("", one.volume), ("_seg", one.cord), ("_discs", one.discs)):
            write_volume(folder / f"{name}{suffix}.nii.gz", volume)
        scores.append(image_scores(one.volume, model, cord=one.cord, discs=one.discs, device="cpu"))
    words = ["thresholds", str(mine), "--healthy", str(folder), "--false-positive-rate", "0.4", "--device", "cpu"]
    assert main([*words, "--region-model", "none", "--progress", "none"]) == 0
    for score, rule in KEYS:
        found = load_model(mine).thresholds_for(rule, score)
        assert found.patient == pytest.approx(max(one[score, rule].patient for one in scores), rel=1e-4)
    assert "found by the model" not in found.origin


def test_cancelling_leaves_the_card(mine, small, monkeypatch):
    """At any step, also in the middle of an image."""
    monkeypatch.setattr(recipe, "random_phantom", lambda seed, kind: small)
    before = (mine / "model.json").read_bytes()
    steps = []
    phantom_thresholds(load_model(mine), 2, device="cpu", progress=lambda *step: steps.append(step), rate=0.5)
    assert steps[0] == ("Thresholds", 0, 2)
    assert steps[-1] == ("Thresholds", 2, 2)
    assert all(first[1] <= second[1] for first, second in pairwise(steps))
    assert len(steps) > 10
    for last in (1, len(steps) // 2, len(steps)):
        left = iter(range(last - 1))

        def progress(*step, left=left):
            if next(left, None) is None:
                raise Cancelled

        with pytest.raises(Cancelled):
            set_thresholds(mine, phantoms=2, rate=0.5, device="cpu", progress=progress)
        assert (mine / "model.json").read_bytes() == before
        assert {path.name for path in mine.iterdir()} == set(package_files(read_card(mine)))


def test_ctrl_c(mine, small, monkeypatch, capsys):
    def phantom_and_signal(seed, kind):
        os.kill(os.getpid(), signal.SIGINT)
        return small

    monkeypatch.setattr(recipe, "random_phantom", phantom_and_signal)
    before = (mine / "model.json").read_bytes()
    assert main(["thresholds", str(mine), "--device", "cpu", "--progress", "none"]) == 130
    assert "the model keeps the thresholds it had" in capsys.readouterr().err
    assert (mine / "model.json").read_bytes() == before
