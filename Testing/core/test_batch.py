import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_analysis import made_analysis

from U2ADLib import batch
from U2ADLib.batch import COLUMNS, Options, run_batch
from U2ADLib.cli import main
from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.dataset import Case, find_cases
from U2ADLib.derivatives import check_names, write_derivatives
from U2ADLib.errors import Cancelled, InputError, ModelError, UsageError
from U2ADLib.io import write_volume
from U2ADLib.package import BUNDLED_DEFAULT, update_card

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def options(tiny_model):
    return Options(model=str(tiny_model), region_model="none", device="cpu")


def models(options) -> list[str]:
    """Its models as arguments of the command."""
    return ["--model", options.model, "--region-model", options.region_model]


def write_dataset(root: Path, phantom) -> Path:
    """A BIDS dataset of three people: with all labels, without discs, and with nothing but an image."""
    for name, parts in (("01", ("cord", "discs")), ("02", ("cord",)), ("03", ())):
        anat = root / f"sub-{name}" / "anat"
        anat.mkdir(parents=True)
        write_volume(anat / f"sub-{name}_T2w.nii.gz", phantom.volume)
        for part, suffix in (("cord", "_label-SC_seg"), ("discs", "_label-discs_dlabel")):
            if part in parts:
                write_volume(anat / f"sub-{name}_T2w{suffix}.nii.gz", getattr(phantom, part))
    (root / "participants.tsv").write_text("participant_id\tpathology\nsub-02\tDCM\n")
    return root


@pytest.fixture
def dataset(phantom, tmp_path):
    return write_dataset(tmp_path / "data", phantom)


@pytest.fixture(scope="module")
def finished(phantom, options, tmp_path_factory):
    """The dataset analysed with derivatives: (dataset, out, rows, what was said, progress). Not to be changed."""
    root = write_dataset(tmp_path_factory.mktemp("finished") / "data", phantom)
    out, said, ticks = root.parent / "out", [], []
    before = files_below(root)
    rows = run_batch(
        find_cases(root), out, options, derivatives=True, say=said.append, progress=lambda *tick: ticks.append(tick)
    )
    assert files_below(root) == before
    return root, out, rows, said, ticks


def table(out: Path) -> dict[str, dict]:
    with open(out / "summary.csv", newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = {row["id"]: row for row in reader}
    assert tuple(reader.fieldnames) == COLUMNS
    return rows


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_with_a_bad_case(finished):
    _, out, rows, said, ticks = finished
    assert [row["status"] for row in rows] == ["done", "done", "refused"]
    assert ticks[0] == ("Cases", 0, 3)
    assert ticks[-1] == ("Cases", 3, 3)
    assert len(said) == 1
    assert said[0].startswith("sub-03_T2w: No cord mask was found: expected is sub-03_T2w_label-SC_seg.nii.gz or")
    written = table(out)
    record = json.loads((out / "sub-01_T2w" / "analysis.json").read_text())
    first = written["sub-01_T2w"]
    assert float(first["patient_score"]) == record["patient"]["score"] > 0
    assert first["patient_flagged"] == str(record["patient"]["flagged"]).lower()
    assert first["flagged"].split() == [s["name"] for s in record["segments"] if s["flagged"]] != []
    assert [float(first[name]) for name in SEGMENT_NAMES.values()] == [s["score"] for s in record["segments"]]
    assert "Spinal Cord Toolbox" in first["message"]
    second = written["sub-02_T2w"]
    assert (second["person"], second["pathology"], second["flagged"], second["C4-5"]) == ("sub-02", "DCM", "", "")
    assert second["patient_score"] == first["patient_score"]
    assert written["sub-03_T2w"]["patient_score"] == ""
    assert {path.name for path in (out).iterdir()} == {"sub-01_T2w", "sub-02_T2w", "summary.csv", "derivatives"}


def test_the_command(dataset, options, tmp_path, capsys):
    words = [
        "batch",
        str(dataset),
        "--out",
        str(tmp_path / "out"),
        "--model",
        options.model,
        "--region-model",
        "none",
        "--progress",
        "json",
    ]
    assert main(words) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["result"] == str(tmp_path / "out" / "summary.csv")
    assert lines[-1]["summary"].startswith("2 of 3 cases done, 2 of them flagged.")
    assert all(row["patient_flagged"] in ("true", "") for row in table(tmp_path / "out").values())
    assert [line["done"] for line in lines if line.get("stage") == "Cases"] == [0, 1, 2, 3]
    (dataset / "sub-03" / "anat" / "sub-03_T2w.nii.gz").unlink()
    assert main(words) == 0


@pytest.fixture
def analysed(monkeypatch):
    """Names of the images that were analysed, in turn."""
    names = []
    original = batch.analyse_files

    def spy(image, *rest):
        names.append(image.name.split(".")[0])
        return original(image, *rest)

    monkeypatch.setattr(batch, "analyse_files", spy)
    return names


def test_only_what_is_left_is_done(dataset, options, tmp_path, analysed, phantom, tiny_model):
    out = tmp_path / "out"
    model = shutil.copytree(tiny_model, tmp_path / "model")
    options = replace(options, model=str(model))
    cases = find_cases(dataset)[:2]

    def run(change=options, cases=cases[:1]):
        analysed.clear()
        return run_batch(cases, out, change), list(analysed)

    first, done = run()
    assert done == ["sub-01_T2w"]
    again, done = run(cases=cases)
    assert done == ["sub-02_T2w"]
    assert again[0] == first[0]
    assert run(cases=cases) == (again, [])
    assert run(replace(options, device="auto"))[1] == []

    assert run(replace(options, seed=1))[1] == ["sub-01_T2w"]
    corrected = phantom.cord.array.copy()
    corrected[tuple(np.argwhere(corrected)[0])] = 0
    write_volume(cases[0].cord, phantom.cord.with_array(corrected))
    assert run(replace(options, seed=1))[1] == ["sub-01_T2w"]
    update_card(model, thresholds=[{"segment": 9.0, "patient": 9.0, "slices": "all", "origin": "made up"}])
    rows, done = run(replace(options, seed=1), cases)
    assert done == ["sub-01_T2w", "sub-02_T2w"]
    assert [row["patient_flagged"] for row in rows] == [False, False]
    shutil.rmtree(out / "sub-02_T2w")
    assert run(replace(options, seed=1), cases)[1] == ["sub-02_T2w"]


def test_a_bug_in_one_case_is_told_and_the_rest_goes_on(dataset, options, tmp_path, monkeypatch, capsys):
    original = batch.analyse_files

    def faulty(image, *rest):
        if "sub-01" in image.name:
            raise ZeroDivisionError("oh")
        return original(image, *rest)

    monkeypatch.setattr(batch, "analyse_files", faulty)
    words = [
        "batch",
        str(dataset),
        "--out",
        str(tmp_path / "out"),
        "--model",
        options.model,
        "--region-model",
        "none",
        "--progress",
        "none",
    ]
    assert main(words) == 1
    rows = table(tmp_path / "out")
    assert [row["status"] for row in rows.values()] == ["failed", "done", "refused"]
    assert rows["sub-01_T2w"]["message"].startswith("Unexpected ZeroDivisionError at test_batch.py:")


def test_a_record_of_another_program_is_left_alone(dataset, options, tmp_path):
    folder = tmp_path / "out" / "sub-01_T2w"
    folder.mkdir(parents=True)
    (folder / "analysis.json").write_text("[]")
    rows = run_batch(find_cases(dataset)[:2], tmp_path / "out", options)
    assert [row["status"] for row in rows] == ["refused", "done"]
    assert "was not written by this version" in rows[0]["message"]
    assert (folder / "analysis.json").read_text() == "[]"


def test_results_do_not_lie_in_a_dicom_folder(options, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    cases = [Case("series", "series", None, series)]
    for out in (series, series / "deep" / "out"):
        with pytest.raises(UsageError, match="cannot lie in the DICOM folder series"):
            run_batch(cases, out, options)
    assert not any(series.iterdir())


def test_a_series_is_told_apart_but_not_stored(finished, options):
    uid = "1.3.12.2.1107.5.2.43.66012.2026010112300012345"  # a scanner's serial number and a date
    case = find_cases(finished[0])[0]
    requests = [
        batch._request(case.image, case.cord, case.discs, replace(options, series=series))
        for series in (uid, uid + "6", uid, None)
    ]
    assert requests[0] == requests[2]
    assert len({json.dumps(request) for request in requests}) == 3
    assert "66012" not in json.dumps(requests)


def test_workers_get_absolute_paths_and_names(dataset, options, tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def spy(case, out, options, *rest, **more):
        seen.append(options)
        return batch._row(case, "done")

    monkeypatch.setattr(batch, "run_case", spy)
    for name in ("model", "region", "default"):
        shutil.copytree(tiny_model, tmp_path / name)
    (tmp_path / BUNDLED_DEFAULT["region"]).mkdir()  # a folder of that name that is no package
    cases = find_cases(dataset)[:1]  # has all labels: what finds them is not looked at
    run_batch(cases, Path("out"), replace(options, model="model", region_model="region", nnunet="net"))
    run_batch(cases, Path("out"), replace(options, model="default", region_model=BUNDLED_DEFAULT["region"]))
    assert [seen[0].model, seen[0].region_model, seen[0].nnunet] == [
        str(tmp_path / name) for name in ("model", "region", "net")
    ]
    assert (seen[1].model, seen[1].region_model, seen[1].nnunet) == ("default", BUNDLED_DEFAULT["region"], None)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "unheard-of"}, ModelError),
        ({"slices": "some"}, UsageError),
        ({"k": 1}, UsageError),
        ({"scheme": "wild"}, UsageError),
    ],
)
def test_what_is_wrong_for_all_cases_stops_before_the_first(dataset, options, tmp_path, change, error):
    with pytest.raises(error):
        run_batch(find_cases(dataset), tmp_path / "out", replace(options, **change))
    assert not (tmp_path / "out").exists()


# Cancelling


def test_cancelled_batch_goes_on_later(dataset, options, tmp_path, analysed):
    def stop_in_second(stage, done, total):
        if done == 1:
            raise Cancelled

    cases = find_cases(dataset)[:2]
    with pytest.raises(Cancelled):
        run_batch(cases, tmp_path / "out", options, progress=stop_in_second)
    assert list(table(tmp_path / "out")) == ["sub-01_T2w"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sub-01_T2w", "summary.csv"}
    analysed.clear()
    run_batch(cases, tmp_path / "out", options)
    assert analysed == ["sub-02_T2w"]


def test_cancelled_before_anything_is_done_leaves_nothing(dataset, options, tmp_path):
    def stop(*_):
        raise Cancelled

    with pytest.raises(Cancelled):
        run_batch(find_cases(dataset), tmp_path / "out", options, progress=stop)
    assert not (tmp_path / "out").exists()


# Workers


def test_workers_give_the_same_results(finished, options, tmp_path):
    root, out, alone, *_ = finished
    shared = run_batch(find_cases(root), tmp_path, options, workers=2, derivatives=True)
    for one, other in zip(alone, shared, strict=True):
        for column in COLUMNS:
            if isinstance(one[column], float) and column != "seconds":  # the number of threads rounds differently
                assert other[column] == pytest.approx(one[column], rel=1e-4)
            elif column != "seconds":
                assert other[column] == one[column]
    assert files_below(tmp_path) == files_below(out)


def test_cancelled_workers_stop_and_tidy_up(dataset, options, tmp_path):
    ticks = []

    def stop(*stage):
        ticks.append(stage)
        if len(ticks) == 3:  # the processes were started after the first
            raise Cancelled

    endless = replace(options, k=3000)
    with pytest.raises(Cancelled):
        run_batch(find_cases(dataset)[:2], tmp_path / "out", endless, workers=2, progress=stop)
    assert not (tmp_path / "out").exists()
    assert multiprocessing.active_children() == []


def die_on_the_second(stop, case, *task):
    """Stands in for `batch._run_in_worker` and for a kernel that is out of memory."""
    if case.id == "sub-02_T2w":
        os.kill(os.getpid(), signal.SIGKILL)
    return batch._run_in_worker(stop, case, *task)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_worker_that_dies_takes_only_its_case_along(dataset, options, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_run_in_worker", die_on_the_second)
    rows = run_batch(find_cases(dataset), tmp_path / "out", options, workers=2)
    assert [row["status"] for row in rows] == ["done", "failed", "refused"]
    assert "memory ran out" in rows[1]["message"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see the workers")
def test_workers_end_with_their_parent(dataset, options, tmp_path):
    words = [
        "-m",
        "U2ADLib",
        "batch",
        str(dataset),
        "--out",
        str(tmp_path / "out"),
        "--model",
        options.model,
        "--region-model",
        "none",
    ]
    process = subprocess.Popen(
        [sys.executable, *words, "--workers", "2", "--k", "3000", "--progress", "none"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:  # a worker and Python's resource tracker
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=100)  # ends when the last process that holds the pipe has ended


def test_dask_is_optional(dataset, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["batch", str(dataset), "--out", str(tmp_path / "out"), *models(options), "--dask", "tcp://x:1"]
    assert main(words) == 4
    assert "pip install u2ad[dask]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed", reason="DASK NOT INSTALLED: pip install u2ad[dask]")
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None) as running:
        yield running.scheduler_address


def test_dask(dataset, options, tmp_path, cluster):
    rows = run_batch(find_cases(dataset), tmp_path / "out", options, dask=cluster)
    assert [row["status"] for row in rows] == ["done", "done", "refused"]
    assert set(table(tmp_path / "out")) == {case.id for case in find_cases(dataset)}
    with pytest.raises(ModelError):
        run_batch(find_cases(dataset), tmp_path / "out", replace(options, model="unheard-of"), dask=cluster)


def test_cancelled_dask(dataset, options, tmp_path, cluster):
    ticks = []

    def stop(*stage):
        ticks.append(stage)
        if len(ticks) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_batch(find_cases(dataset)[:2], tmp_path / "out", replace(options, k=3000), dask=cluster, progress=stop)
    assert not (tmp_path / "out").exists()


# BIDS derivatives


def test_derivatives(finished, phantom):
    dataset, out, *_ = finished
    root = out / "derivatives" / "u2ad"
    common = ["label-SC_seg", "label-lesion_seg", "desc-anomaly_map"]
    stems = {f"sub-01/anat/sub-01_T2w_{suffix}" for suffix in [*common, "label-discs_dlabel"]}
    stems |= {f"sub-02/anat/sub-02_T2w_{suffix}" for suffix in common}
    assert files_below(root) == {
        "dataset_description.json",
        *(f"{name}{extension}" for name in stems for extension in (".nii.gz", ".json")),
    }
    description = json.loads((root / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "U2AD"
    original = nibabel.load(dataset / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    images = {}
    for name in sorted(stems):
        image = nibabel.load(root / f"{name}.nii.gz")
        np.testing.assert_allclose(image.affine, original.affine, atol=1e-4)
        assert image.shape == original.shape
        sidecar = json.loads((root / f"{name}.json").read_text())
        assert sidecar["SpatialReference"] == "orig"
        assert sidecar["GeneratedBy"][0]["Version"]
        images[name.split("_", 2)[-1] if "sub-01" in name else None] = np.asarray(image.dataobj)
    np.testing.assert_array_equal(images["label-SC_seg"], phantom.cord.array)
    np.testing.assert_array_equal(images["label-discs_dlabel"], phantom.discs.array)
    written = nibabel.load(out / "sub-01_T2w" / "anomaly.nii.gz")
    np.testing.assert_array_equal(images["desc-anomaly_map"], np.asarray(written.dataobj))
    with open(out / "sub-01_T2w" / "lesions.csv", newline="", encoding="utf-8") as stream:
        labels = {int(row["label"]) for row in csv.DictReader(stream)}
    assert labels
    assert set(np.unique(images["label-lesion_seg"])) == {0} | labels
    assert images["desc-anomaly_map"][images["label-lesion_seg"] > 0].min() > 0


def test_derivatives_of_an_earlier_run_are_not_left(tmp_path, monkeypatch):
    case, root = Case("sub-1_T2w", "sub-1", None, tmp_path / "sub-1_T2w.nii.gz"), tmp_path / "u2ad"
    names = {f"sub-1/anat/sub-1_T2w_{suffix}" for suffix in ("label-lesion_seg", "label-discs_dlabel")}
    optional = {f"{name}{ending}" for name in names for ending in (".nii.gz", ".json")}
    write_derivatives(made_analysis(monkeypatch), case, root)
    others = root / "sub-1" / "anat" / "sub-1_T2w_label-lesion_seg-mine.nii.gz"
    others.touch()
    before = files_below(root)
    assert optional < before
    write_derivatives(made_analysis(monkeypatch, thresholds=None, discs=()), case, root)
    assert files_below(root) == before - optional


def test_missing_derivatives_are_made_up_for(finished, options, tmp_path, analysed):
    dataset, finished_out, *_ = finished
    cases = find_cases(dataset)[:2]
    out = shutil.copytree(finished_out, tmp_path / "out")
    run_batch(cases, out, options, derivatives=True)
    assert analysed == []
    next(out.glob("derivatives/u2ad/sub-02/anat/*_map.json")).unlink()
    run_batch(cases, out, options)
    assert analysed == []
    run_batch(cases, out, options, derivatives=True)
    assert analysed == ["sub-02_T2w"]


def test_names_of_derivatives(tmp_path):
    for name in ("Anna B. 2", "Anna B 3"):
        (tmp_path / f"{name}.nrrd").touch()
    check_names(find_cases(tmp_path))
    (tmp_path / "AnnaB2.nii").touch()
    with pytest.raises(InputError, match="as that of Anna"):
        check_names(find_cases(tmp_path))
