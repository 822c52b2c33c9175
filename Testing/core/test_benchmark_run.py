"""The benchmark from a folder to tables and pages, on simulated people."""

import csv
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from U2ADLib.errors import InputError, UsageError
from U2ADLib.evaluation.benchmark import cases, run, study, tables
from U2ADLib.evaluation.benchmark.methods import Fold
from U2ADLib.evaluation.benchmark.parts import METRICS
from U2ADLib.evaluation.benchmark.rules import row_smooth
from U2ADLib.io import write_volume
from U2ADLib.simulation.phantom import PhantomConfig, simulate_phantom


class Gain:
    """One map, one that is useless, and a reconstruction."""

    fits: list[Fold] = []  # noqa: RUF012

    def __init__(self, name="rules"):
        self.name = name

    def fit(self, fold):
        self.fits.append(fold)

    def maps(self, images, cords):
        gain = np.array([row_smooth(*pair) for pair in zip(images, cords, strict=True)], np.float32)
        return {"gain": gain, "noise": np.random.default_rng(0).normal(size=images.shape).astype(np.float32)}

    def reconstructions(self, images, cords):
        return np.where(cords, images.mean(), images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three simulated people of 1 mm voxels, the last without a mask."""
    root = tmp_path_factory.mktemp("people")
    for number in (1, 2, 3):
        config = PhantomConfig(
            spacing_mm=(1.0, 1.0, 1.0),
            thickness_mm=1.0,
            shape=(5, 190, 150),
            axes="RIP",
            bend_mm=0.0,
            cord_scale=(1.3, 1.1),
            sac_ap_mm=15.0,
            csf=3.5,
            noise=0.03 + 0.005 * number,
        )
        phantom = simulate_phantom(config, number)
        place = root / f"sub-p{number}" / "anat"
        place.mkdir(parents=True)
        name = f"sub-p{number}_T2w"
        write_volume(place / f"{name}.nii.gz", phantom.volume)
        write_volume(place / f"{name}_label-discs_dlabel.nii.gz", phantom.discs)
        if number < 3:
            write_volume(place / f"{name}_label-SC_seg.nii.gz", phantom.cord)
    return root


@pytest.fixture
def quick(monkeypatch):
    """A fast method, and few slices and kinds."""
    monkeypatch.setitem(run.METHODS, "rules", Gain)
    monkeypatch.setattr(Gain, "fits", [])
    monkeypatch.setattr(cases, "make_cases", few_kinds)
    run.person_of.cache_clear()
    run.fitted.cache_clear()


KINDS = ("h08", "h25", "h75", "A1")
every_kind = cases.make_cases


def few_kinds(person, condition, kinds=KINDS, *arguments, **named):
    return every_kind(person, condition, [kind for kind in kinds if kind in KINDS], *arguments, **named)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_from_a_folder_to_tables_and_pages(folder, tmp_path, quick, capsys):
    out = tmp_path / "out"
    command = [
        str(folder),
        "--out",
        str(out),
        "--conditions",
        "clinical",
        "negatives",
        "phantom",
        "--workers",
        "0",
    ]
    command += ["--seeds", "2", "--resamples", "20", "--phantoms", "2", "--alarm-phantoms", "2"]
    command += ["--pages", "gain, 1 px", "--reference", "gain, 1 px"]
    run.main(command)
    said = capsys.readouterr().out
    assert "sub-p3 has no cord mask and no region model" in said
    assert said.index("To do: 2 fits") < said.index("part 1 of")
    assert {fold.test for fold in Gain.fits} == {"sub-p1", "sub-p2"}
    assert all(fold.test not in [person.name for person in fold.training] for fold in Gain.fits)

    results = rows_of(out / "results.csv")
    assert {row["condition"] for row in results} == {"clinical", "phantom"}
    one = {(r["condition"], r["score"], r["group"], r["person"]): r for r in results}
    best = one["clinical", "gain, 1 px", "strong", "mean"]
    assert float(best["pixel AUROC"]) > 0.8 > float(one["clinical", "noise, 1 px", "strong", "mean"]["pixel AUROC"])
    each = [float(one["clinical", "gain, 1 px", "strong", p]["pixel AUROC"]) for p in ("sub-p1", "sub-p2")]
    assert float(best["pixel AUROC"]) == pytest.approx(np.mean(each), abs=1e-3)
    oracle, chosen = (one["clinical", name, "strong", "mean"] for name in (tables.ORACLE, tables.CHOSEN))
    for metric in METRICS[:3]:
        assert float(oracle[metric]) >= float(best[metric])
        assert float(chosen[metric]) > float(one["clinical", "noise, 1 px", "strong", "mean"][metric])

    differences = rows_of(out / "differences.csv")
    noise = next(
        row
        for row in differences
        if (row["condition"], row["score"], row["group"], row["metric"])
        == ("clinical", "noise, 1 px", "strong", "pixel AUROC")
    )
    assert 0 < float(noise["slices low"]) <= float(noise["difference"]) <= float(noise["slices high"])
    assert not any(row["score"] == "gain, 1 px" for row in differences)

    alarms = {(row["what"], row["score"]): row for row in rows_of(out / "false_alarms.csv")}
    whats = {what for what, _ in alarms}
    assert {"clinical", "negatives, central canal", "phantoms", "lesion-free phantoms"} <= whats
    row = alarms["clinical", "gain, 1 px"]
    assert int(row["slices"]) == 2 * int(row["slices"]) // 2 > 0
    assert float(row["slices low"]) <= float(row["slices share"]) <= float(row["slices high"])
    assert int(alarms["lesion-free phantoms", "gain, 1 px"]["volumes"]) == 2
    text = (out / "tables.md").read_text(encoding="utf-8")
    assert "best simple rule, chosen on others" in text
    assert "Largest standard deviation over repetitions" in text
    pages = sorted((out / "pages").iterdir())
    assert [page.stem.rsplit("-", 1)[1] for page in pages] == ["best", "false", "worst"]
    with Image.open(pages[0]) as page:
        assert page.width > 500

    # Nothing is done twice, and other settings are not mixed in.
    before = len(Gain.fits)
    run.fitted.cache_clear()
    run.main(command[:-4])
    assert len(Gain.fits) == before
    assert "To do: 0 fits, 0 parts" in capsys.readouterr().out
    with pytest.raises(UsageError, match="other settings"):
        run.main([*command, "--resamples", "30"])
    with pytest.raises(UsageError, match="names of their own"):
        run.main([*command[:-4], "--methods", "rules", f"{__name__}:Gain", "--people", "sub-p1"])
    with pytest.raises(UsageError, match="no score"):
        run.main([*command[:-4], "--pages", "unknown"])


def test_clean_slices_without_a_lesion_count_once(folder, tmp_path, quick):
    out = tmp_path / "out"
    command = [str(folder), "--out", str(out), "--conditions", "clean", "clinical", "--people", "sub-p1"]
    run.main([*command, "--seeds", "2", "--workers", "0", "--resamples", "0"])
    slices = len(cases.load_person(folder, "sub-p1").slices)
    alarms = {row["what"]: row for row in rows_of(out / "false_alarms.csv") if row["score"] == "gain, 1 px"}
    assert [int(alarms["clean"][unit]) for unit in ("slices", "volumes")] == [slices, 1]
    assert [int(alarms["clinical"][unit]) for unit in ("slices", "volumes")] == [2 * 4 * slices, 2 * 4]


def test_people_of_one_number_are_told_apart(folder, tmp_path):
    for place in (folder / "sub-p1").rglob("*.nii.gz"):
        for name in ("sub-amu01", "sub-bar1", "sub-bar12"):
            copy = tmp_path / name / "anat" / place.name.replace("sub-p1", name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(place)
    numbers = [cases.load_person(tmp_path, name).number for name in ("sub-amu01", "sub-bar1", "sub-bar12")]
    assert numbers == [crc32(b"sub-amu01"), crc32(b"sub-bar1"), 12]
    assert cases.load_person(folder, "sub-p1").number == 1


def test_found_masks_are_kept_and_people_without_a_mask_stand_apart(folder, tmp_path, quick, monkeypatch, capsys):
    calls = []

    def finder(region):
        def find(image, healthy):
            calls.append(1)
            return healthy.cord

        return find

    monkeypatch.setattr(cases, "cord_finder", finder)
    out = tmp_path / "out"
    command = [str(folder), "--out", str(out), "--conditions", "clinical", "found", "--workers", "0", "--seeds", "1"]
    command += ["--resamples", "0", "--people", "sub-p1", "sub-p3", "--methods", "rules", f"{__name__}:Gain:again"]
    run.main([*command, "--regions", "sub-p1=u2ad-region", "sub-p3=u2ad-region", "sub-p2=nowhere"])
    assert "No region model for sub-p2" in capsys.readouterr().out
    first = len(calls)
    assert first > 0
    results = rows_of(out / "results.csv")
    assert {row["people"] for row in results} == {tables.MANUAL, tables.AUTOMATIC}
    assert {row["person"] for row in results if row["people"] == tables.AUTOMATIC} == {"sub-p3", "mean"}
    scores = {row["score"] for row in results}
    assert {"gain, 1 px", "again: gain, 1 px"} <= scores
    kept = list((out / "found").rglob("*.safetensors"))
    assert len(kept) == 2 + 3  # everybody that a fold learns from or tests
    for path in (out / "parts").rglob("*found*"):
        path.unlink()
    run.main([*command, "--regions", "sub-p1=u2ad-region", "sub-p3=u2ad-region"])
    assert len(calls) == first  # the masks were read


def test_wrong_commands_say_what_is_wrong(folder, tmp_path, quick):
    command = [str(folder), "--out", str(tmp_path / "out"), "--workers", "0"]
    with pytest.raises(InputError, match="sub-nobody"):
        run.main([*command, "--people", "sub-nobody"])
    for name in ("nothing", "U2ADLib.config:nothing", "no.module:x"):
        with pytest.raises(UsageError, match="no method"):
            run.make_method(name)


def test_tables_are_never_half_written(folder, tmp_path, monkeypatch):
    """A run that ends while it writes leaves the tables of the run before."""
    setup, names = run.Setup(folder, tmp_path), ("results.csv", "differences.csv", "false_alarms.csv", "tables.md")
    tables.write_tables(setup, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        (tmp_path / name).write_text("before")

    def half(path, rows):
        path.write_text("cond")
        if path.name == "false_alarms.csv":
            raise KeyboardInterrupt

    monkeypatch.setattr(tables, "_write_csv", half)
    with pytest.raises(KeyboardInterrupt):
        tables.write_tables(setup, [])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "before")


def test_plan_learns_thresholds_on_others_and_tests_the_person_left_out(folder):
    setup = run.Setup(folder, folder / "out", (("sub-p1", "u2ad-region"),), 2, 2)
    jobs = run.plan(setup, ["rules"], ["sub-p1", "sub-p3"], ["clinical", "found", "negatives", "phantom"], 3)
    assert len({job.path(setup.out) for job in jobs}) == len(jobs)
    tested = [(job.fold, job.condition) for job in jobs if job.is_test and job.person == job.fold]
    assert tested.count(("sub-p1", "clinical")) == tested.count(("sub-p1", "found")) == 3
    assert ("sub-p3", "found") not in tested
    others = {(job.fold, job.person, job.condition) for job in jobs if not job.is_test}
    assert ("sub-p1", "sub-p2", "clinical") in others
    assert not any(condition == "negatives" for *_, condition in others)
    assert {person for fold, person, _ in others if fold == "sub-p3"} == {"sub-p1", "sub-p2"}
    assert {job.fold for job in jobs if job.condition == "phantom"} == {"sub-p1"}


def test_a_setting_is_chosen_among_all_of_a_map():
    """The maximum is better on the people learnt from, and so is the expected error."""
    names = [f"X{expected}, 1 px{across}" for expected in ("", " + expected error") for across in ("", ", max")]
    results, block = tables.Results.__new__(tables.Results), ("clinical", tables.MANUAL)
    results.test = {block: {name: {"p": np.full((4, 12, 1), float(k))} for k, name in enumerate(names)}}
    results.training = {"clinical": {name: {"p": np.full((4, 12), float(k))} for k, name in enumerate(names)}}
    results.rules = []
    results._add_chosen(block)
    assert set(results.test[block]) - set(names) == {"X, setting chosen on others"}
    assert (results.test[block]["X, setting chosen on others"]["p"] == 3).all()


def test_group_means_skip_what_is_missing():
    assert tables._nanmean([[1.0, np.nan], [3.0, np.nan]])[0] == 2
    assert np.isnan(tables._nanmean([[1.0, np.nan], [3.0, np.nan]])[1])
    judged = [np.array([[0.1, 0.9]]), np.array([[0.2, np.nan]])]
    values = [np.full((1, 2, 3), 1.0), np.full((1, 2, 3), 2.0)]
    assert tables._pick(judged, values)[0].tolist() == [[2.0] * 3, [1.0] * 3]
    assert set(study.GROUPS["mid"]) == {"h25", "small50"}
