"""The comparison: configuration, plan, trainings, scores and the run from a configuration to a report."""

import csv
import json
import os
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from U2ADLib import rivals
from U2ADLib.cli import main
from U2ADLib.errors import Cancelled, InputError, InstallationError, U2ADError, UsageError
from U2ADLib.evaluation.experiments import pictures, run, workers
from U2ADLib.evaluation.experiments.config import OPTIONS, ExperimentConfig, bundled, read_config
from U2ADLib.evaluation.experiments.sets import SEEDS, SetConfig
from U2ADLib.evaluation.experiments.tables import EXPERIMENTS, case_pages, experiment
from U2ADLib.evaluation.experiments.tables.context import Context, jobs_of
from U2ADLib.evaluation.experiments.tables.scoring import Change, Job, quality_path
from U2ADLib.evaluation.experiments.training import Comparison, Stage
from U2ADLib.files import write_json
from U2ADLib.rivals.detector import Budget, Maps

# Those of the bundled smoke.toml: their images are made once for all tests.
PHANTOMS = """
[[source]]
phantoms = 1
kind = "space"
slices = 2
[[target]]
phantoms = 2
slices = 1
plant = ["A1"]
share = 1.0
[[test]]
phantoms = 6
plant = ["A1", "h75"]
"""
SMALL = """
strategies = [1, 3]
resamples = 20
experiments = ["table1"]
[folds]
count = 2
[budget]
minutes = 2
[options.table1]
methods = ["vae", "dae"]
[methods.vae]
[methods.dae]
[methods.all-positive]
"""


class Fake:
    """Brightness of the cord; what was asked of it is counted."""

    name, learns, supervised = "fake", True, False
    calls: list = []  # noqa: RUF012
    broken: set = set()  # noqa: RUF012

    def __init__(self, gain: float = 1.0):
        self.gain, self.stages = gain, []

    def fit(self, slices, training):
        self.calls.append(("fit", type(self).__name__, training.stage, tuple(sorted(set(slices.people)))))
        if training.stage in self.broken and type(self) is Fake:
            raise ValueError("does not converge")
        training.progress("Training", 1, 2)
        self.stages.append(training.stage)

    def save(self, folder):
        folder.mkdir(parents=True)
        write_json(folder / "fake.json", self.stages)

    def load(self, folder):
        self.stages = json.loads((folder / "fake.json").read_text())

    def anomaly_map(self, images, cords, seed=0):
        self.calls.append(("map", type(self).__name__, len(images), tuple(self.stages)))
        return Maps(np.where(cords, self.gain * images, 0).astype(np.float32), images.astype(np.float32))


class Sharing(Fake):
    """Its source stage is the other's."""

    source_of = "vae"


@pytest.fixture
def fakes(monkeypatch):
    """Two cheap methods in the place of two real ones."""
    module = ModuleType("U2ADLib.rivals.fake")
    module.Fake, module.Sharing = Fake, Sharing
    monkeypatch.setitem(sys.modules, "U2ADLib.rivals.fake", module)
    monkeypatch.setitem(rivals.RIVALS, "vae", ("fake", "Fake"))
    monkeypatch.setitem(rivals.RIVALS, "dae", ("fake", "Sharing"))
    Fake.calls.clear()
    Fake.broken.clear()


@pytest.fixture
def written(tmp_path):
    """Writes a configuration and reads it."""

    def write(text=SMALL + PHANTOMS, name="trial"):
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return read_config(path)

    return write


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The cache of the phantoms above, made once."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture
def out(tmp_path, images, monkeypatch):
    monkeypatch.setattr(Comparison, "cache", images)
    monkeypatch.setattr(case_pages, "PER_KIND", 1)  # drawing takes longest
    monkeypatch.setattr(pictures, "DPI", 40)
    return tmp_path / "out"


# ------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1\n" + SMALL + PHANTOMS, r"trial.toml: colour: there is no such key"),
        (SMALL + PHANTOMS + "colour = 1\n", r"trial.toml: test\[0\].colour: there is no such key"),
        (SMALL.replace("minutes = 2", "hours = 2") + PHANTOMS, "budget.source.hours: there is no such key"),
        (SMALL.replace("minutes = 2", "minutes = 0") + PHANTOMS, "budget.source: needs minutes or steps"),
        (SMALL.replace("minutes = 2", "minutes = true") + PHANTOMS, "budget.source.minutes: cannot be True"),
        (SMALL.replace("resamples = 20", 'resamples = "many"') + PHANTOMS, "resamples: must be a whole number"),
        (SMALL.replace("[1, 3]", "[1, 4]") + PHANTOMS, "strategies: are 1, 2 and 3, not 4"),
        (SMALL.replace("[1, 3]", "3") + PHANTOMS, "strategies: must be a list"),
        (SMALL.replace('["table1"]', '["table9"]') + PHANTOMS, "experiments: there is no 'table9'"),
        (SMALL.replace("[options.table1]", "[options.table9]") + PHANTOMS, "options.table9: there is no such exp"),
        (SMALL.replace('["vae", "dae"]', '["vea"]') + PHANTOMS, "options.table1.methods: there is no method 'vea'"),
        (SMALL + "[methods.vea]\n" + PHANTOMS, "methods.vea: there is no such method"),
        (SMALL.replace("[methods.vae]", "[methods.vae]\nloudness = 3") + PHANTOMS, "methods.vae: .*loudness"),
        (SMALL + PHANTOMS + '[options.table4]\nmethod = "uad"\n', "options.table4.method: there is no method 'uad'"),
        (SMALL + PHANTOMS + '[options.table4]\nmethod = "vae"\n', r"options.table4.k: .*'k'"),
        (SMALL + PHANTOMS + "[options.robustness]\nvariances = [-1]\n", "variances: must be at least 0, not -1"),
        (SMALL + PHANTOMS + "[options.robustness]\ndownsampling = [3]\n", "downsampling: must divide 256, .* not 3"),
        (SMALL + PHANTOMS + "[options.curves]\nshares = [1.5]\n", "shares: must lie between 0 and 1, not 1.5"),
        (SMALL.replace("[1, 3]", "[]") + PHANTOMS, "strategies: there must be at least one"),
        (SMALL.replace("count = 2", "count = 1") + PHANTOMS, "folds.count: there must be at least 2"),
        ('paper_data = "mine"\n' + SMALL + PHANTOMS, "paper_data: must be one of"),
        ("notes = []\n" + SMALL + PHANTOMS, "notes: there is no such key"),
        (SMALL, "test: there is nothing to test on"),
        (SMALL + "[[test]]\nphantoms = 2\n", "source: strategies 1 and 3 need a source set"),
        (SMALL + PHANTOMS.replace('kind = "space"', 'kind = "horse"'), r"source\[0\]: .*kind"),
        (SMALL + PHANTOMS + '[[test]]\nfolder = "nowhere"\n', r"test\[1\].folder: there is no folder nowhere"),
        ("name = [", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_key(fakes, written, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        written(text)
    assert "trial.toml" in str(caught.value)


def test_a_folder_that_may_be_absent_is_left_out_aloud(fakes, written):
    config = written(SMALL + PHANTOMS + '[[test]]\nfolder = "people"\nhealthy = true\noptional = true\n')
    assert [one.phantoms for one in config.test] == [6]
    assert config.notes == ("The folder people of the test set is not there: the comparison runs without its people.",)


def test_a_method_without_its_library_is_left_out_aloud(fakes, written, monkeypatch):
    class Missing(Fake):
        def __init__(self):
            raise InstallationError("dae needs a library.")

    monkeypatch.setattr(sys.modules["U2ADLib.rivals.fake"], "Sharing", Missing)
    config = written()
    assert list(config.methods) == ["vae", "all-positive"]
    assert config.notes == ("dae is left out: dae needs a library.",)


def test_folders_are_meant_from_the_file_and_stay_out_of_the_record(fakes, written, tmp_path):
    (tmp_path / "people").mkdir()
    config = written(SMALL + PHANTOMS + '[[test]]\nfolder = "people"\nhealthy = true\n')
    assert config.test[1].folder == str(tmp_path / "people")
    assert config.record()["test"][1] == {"folder": "people", "healthy": True}
    assert str(tmp_path) not in json.dumps(config.record())


def test_the_key_depends_on_what_matters_and_on_nothing_else(fakes, written):
    config = written()
    shuffled = written(SMALL.replace("[methods.dae]\n", "") + PHANTOMS + "[methods.dae]\n")
    assert shuffled.key() == config.key()
    for change in ({"experiments": ("table2",)}, {"name": "other"}, {"pictures_of": "all"}, {"notes": ("x",)}):
        assert replace(config, **change).key() == config.key()
    for change in ({"seeds": (1,)}, {"strategies": (1,)}, {"test": config.test[:0]}, {"methods": {"vae": {}}}):
        assert replace(config, **change).key() != config.key()


def test_every_experiment_has_a_module_and_options():
    assert tuple(OPTIONS) == EXPERIMENTS
    for name in EXPERIMENTS:
        module = experiment(name)
        assert module.TITLE
        assert callable(module.jobs)
        assert callable(module.run)


# ------------------------------------------------------------------------------------------------------------ the plan


def u2ad_comparison(tmp_path, **changes):
    """U²AD and its ablations with phantoms alone."""
    settings = {"depth": 1, "decoder_depth": 1}
    sets = {use: (SetConfig(phantoms=6, plant=("A1",)),) for use in ("source", "target", "test")}
    config = ExperimentConfig(
        "plan",
        methods={name: dict(settings) for name in ("mae", "mae-mc", "eu-guided", "u2ad", "z-scoring")},
        budget=dict.fromkeys(("source", "target"), Budget(minutes=3.0)),
        **sets,
    )
    return Comparison(replace(config, **changes), tmp_path / "out")


def test_source_stages_are_shared_and_everything_is_planned_once(tmp_path):
    comparison = u2ad_comparison(tmp_path, experiments=("table3", "table1", "strategies"))
    planned = run.plan(comparison)
    found = sorted((stage.method, stage.stage, stage.after is not None) for stage in planned.stages)
    assert found == [
        ("eu-guided", "target", True),
        ("mae-mc", "source", False),  # of all four
        ("mae-mc", "target", True),  # of the single pass, too
        ("u2ad", "target", False),
        ("u2ad", "target", True),
    ]
    assert len(set(planned.jobs)) == len(planned.jobs)
    order = {stage: number for number, stage in enumerate(planned.stages)}
    assert all(order[stage.after] < order[stage] for stage in planned.stages if stage.after)
    # 5 folds × (u2ad: 3 strategies, three ablations: the best one, z-scoring is in none of these tables)
    assert len(planned.jobs) == 5 * (3 + 3)


def test_the_estimate_counts_stages_and_minutes(tmp_path, capsys):
    comparison = u2ad_comparison(tmp_path, experiments=("table3",))
    found = run.estimate(comparison, run.plan(comparison))
    assert (found.images, found.stages, found.stages_left) == (18, 4, 4)
    assert found.seconds > 4 * 3 * 60
    assert found.unknown == 0
    assert "4 trainings (4 to do)" in found.text()
    steps = replace(comparison.config, budget=dict.fromkeys(("source", "target"), Budget(steps=5)))
    again = Comparison(steps, comparison.out)
    found = run.estimate(again, run.plan(again))
    assert found.unknown == 4
    assert found.seconds < 4 * 3 * 60


def test_table_4_trains_anew_only_what_changes_the_training(tmp_path):
    comparison = u2ad_comparison(tmp_path, experiments=("table4",), strategies=(3,))
    planned = run.plan(comparison)
    targets = [json.loads(stage.settings) for stage in planned.stages if stage.stage == "target"]
    assert sum(stage.stage == "source" for stage in planned.stages) == 1
    # K changes none; r = 0.75 and τ = 1 are U²AD itself.
    assert not any("k" in one for one in targets)
    assert len(targets) == 1 + 6 + 6
    assert len({job.entry.label for job in planned.jobs}) == 1 + 4 + 6 + 6


@pytest.fixture
def people(tmp_path):
    """A folder with four people whose files are there, but no images."""
    for number in range(1, 5):
        folder = tmp_path / "errsm" / f"sub-{number}" / "anat"
        folder.mkdir(parents=True)
        for end in ("", "_label-SC_seg", "_label-discs_dlabel"):
            (folder / f"sub-{number}_T2w{end}.nii.gz").write_text(f"{number}{end}")
    return tmp_path / "errsm"


def test_nobody_is_learnt_from_and_tested(tmp_path, people):
    everybody = SetConfig(folder=str(people), plant=("A1",))
    phantoms = SetConfig(phantoms=4, plant=("A1",))
    base = u2ad_comparison(tmp_path).config
    folds = replace(base.folds, count=2)
    config = replace(base, folds=folds, source=(everybody, phantoms), target=(everybody,), test=(everybody, phantoms))
    comparison = Comparison(config, tmp_path / "out")
    comparison.check()
    entry = comparison.entry("u2ad")
    for fold in (0, 1):
        last = comparison.stage(entry, 3, fold, 0)
        held_out = {name.removeprefix("errsm_") for name in comparison.held_out(fold) if name.startswith("errsm_")}
        assert 0 < len(held_out) < 4
        for stage in last.chain:
            sets = comparison._without(comparison._data_of(stage.stage)[0], stage.without)
            assert set(sets[0].without) == held_out
            assert len(sets) == (2 if stage.stage == "source" else 1)
    first, second = (comparison.stage(entry, 3, fold, 0) for fold in (0, 1))
    assert first.after.key != second.after.key
    # A set whose name begins as another's is not taken for it.
    shutil.copytree(people, tmp_path / "errsm_2")
    both = Comparison(
        replace(config, test=(everybody, replace(everybody, folder=str(tmp_path / "errsm_2")))), tmp_path / "out"
    )
    both.check()
    for fold in (0, 1):
        tested = {name for one in both._only(both.held_out(fold)) for name in one.people}
        assert tested <= {f"sub-{number}" for number in range(1, 5)}
    # Phantoms alone have other seeds in each set: both folds share their trainings.
    alone = Comparison(replace(config, source=(phantoms,), target=(phantoms,)), tmp_path / "out")
    assert alone.stage(entry, 3, 0, 0) == alone.stage(entry, 3, 1, 0)


@pytest.mark.parametrize("use", ["source", "target"])
def test_nobody_validates_and_is_learnt_from(tmp_path, people, use):
    def some(*names, folder=people):
        return (SetConfig(folder=str(folder), healthy=True, people=names),)

    def check(**sets):
        Comparison(replace(base, **sets), tmp_path / "out").check()

    base = u2ad_comparison(tmp_path).config
    check(**{use: some("sub-1", "sub-2"), "validation": some("sub-3", "sub-4")})
    with pytest.raises(InputError, match=f"{use.capitalize()} and validation share sub-2, sub-3: nobody may be"):
        check(**{use: some("sub-1", "sub-2", "sub-3"), "validation": some("sub-2", "sub-3", "sub-4")})
    # The same files in a folder of another name, as links make it.
    shutil.copytree(people, tmp_path / "copy")
    for path in people.glob("**/*_T2w.nii.gz"):
        link = tmp_path / "copy" / path.relative_to(people)
        link.unlink()
        link.symlink_to(path)
    with pytest.raises(InputError, match=f"{use.capitalize()} and validation share sub-2: "):
        check(**{use: some("sub-1", "sub-2", folder=tmp_path / "copy"), "validation": some("sub-2")})
    first = SEEDS["validation"] - SEEDS[use]
    phantoms = (SetConfig(phantoms=2, first=first - 1),)
    with pytest.raises(InputError, match="share phantom-10000000: "):
        check(**{use: phantoms, "validation": (SetConfig(phantoms=1, plant=("A1",)),)})


def test_adapting_to_the_test_images_is_one_training_for_all_folds(tmp_path, people):
    base = u2ad_comparison(tmp_path).config
    tested = SetConfig(folder=str(people), plant=("A1",))
    folds = replace(base.folds, count=2, transductive=True)
    comparison = Comparison(replace(base, folds=folds, test=(tested,), target=()), tmp_path / "out")
    comparison.check()
    first, second = (comparison.stage(comparison.entry("u2ad"), 3, fold, 0) for fold in (0, 1))
    assert first == second
    assert first.without == ()


def test_supervised_methods_train_on_three_of_five_folds(tmp_path, fakes, monkeypatch):
    monkeypatch.setattr(Fake, "supervised", True)
    tested = SetConfig(phantoms=10, plant=("A1",))
    base = u2ad_comparison(tmp_path).config
    folds = replace(base.folds, count=5, transductive=True)
    config = replace(base, folds=folds, test=(tested,), target=(), methods={"vae": {}})
    comparison = Comparison(config, tmp_path / "out")
    assert comparison.strategies("vae") == (2,)
    for fold in range(5):
        stage = comparison.stage(comparison.entry("vae"), 2, fold, 0)
        kept = {comparison.fold_of[name] for name in stage.people}
        assert kept == set(range(5)) - {fold, (fold + 1) % 5}
        assert len(stage.people) == 6


def test_shares_of_several_processes_are_whole_chains(tmp_path):
    comparison = u2ad_comparison(tmp_path, experiments=("table1", "table2", "table3"))
    planned = run.plan(comparison)
    parts = [run.share(comparison, planned, rank, 3) for rank in range(3)]
    assert sorted(task for part in parts for task in map(repr, part.tasks)) == sorted(map(repr, planned.tasks))
    for part in parts:
        mine = set(part.stages)
        assert all(stage.after is None or stage.after in mine for stage in part.stages)
        assert all(before is None or before in mine for job in part.jobs if [before := run.needs(comparison, job)])


# ------------------------------------------------------------------------------------------------------------- changes


def test_downsampling_keeps_means_and_noise_has_its_sigma():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.uniform(0.3, 0.7, (2, 16, 16)), np.ones((1, 4, 4)))
    coarse = Change(coarse=4).apply(blocks, 0)
    assert coarse.shape == blocks.shape
    # Between the middles of two blocks the values run from one to the other.
    assert coarse[0, 1:3, 1:3].mean() == pytest.approx(blocks[0, 0, 0], abs=0.1)
    flat = np.full((1, 64, 64), 0.5)
    assert np.allclose(Change(coarse=2).apply(flat, 0), 0.5)
    noisy = Change(noise=0.05).apply(flat, 7)
    assert noisy.std() == pytest.approx(0.05, rel=0.05)
    assert np.array_equal(noisy, Change(noise=0.05).apply(flat, 7))
    assert Change(noise=5.0).apply(flat, 0).max() <= 1


def test_every_change_has_a_file_of_its_own(tmp_path):
    entry = u2ad_comparison(tmp_path).entry("u2ad")
    jobs = [
        Job(entry, 3, 0), Job(entry, 3, 1), Job(entry, 1, 0), Job(entry, 3, 0, seed=1), Job(entry, 3, 0, inference=1),
        Job(entry, 3, 0, change=Change(noise=0.1)), Job(entry, 3, 0, change=Change(coarse=2)),
        Job(entry, 3, 0, use="validation"), Job(entry.variant("k-3", k=3), 3, 0),
    ]  # fmt: skip
    assert len({job.path(tmp_path) for job in jobs}) == len(jobs)
    assert jobs[0].path(tmp_path) == tmp_path / "scores" / "u2ad" / "strategy-3" / "fold-1.jsonl"


# ------------------------------------------------------------------------------------------------------------- the run


def test_a_run_trains_scores_and_reports_and_another_one_computes_nothing(fakes, written, out):
    config = written()
    said = []
    report = run.evaluate(config, out, say=said.append)
    assert report == out / "report.html"
    fits = [call for call in Fake.calls if call[0] == "fit"]
    # The source stage is the first one's; both have a target stage.
    assert [(kind, stage) for _, kind, stage, _ in fits] == [
        ("Fake", "source"),
        ("Fake", "target"),
        ("Sharing", "target"),
    ]
    assert not {name for *_, names in fits for name in names} & set(Comparison(config, out).people)
    stages = {call[3] for call in Fake.calls if call[0] == "map"}
    assert stages == {("source",), ("source", "target")}
    assert "3 trainings (3 to do)" in said[0]
    assert any("left" in line for line in said)
    table = (out / "tables" / "table1.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [
        ["–", "All positive"], ["1", "VAE"], ["1", "DAE"], ["3", "VAE"], ["3", "DAE"],
    ] or {tuple(line.split(",")[:2]) for line in table[1:]} == {
        ("–", "All positive"), ("1", "VAE"), ("1", "DAE"), ("3", "VAE"), ("3", "DAE"),
    }  # fmt: skip

    Fake.calls.clear()
    before = report.read_text()
    run.evaluate(config, out)
    assert Fake.calls == []
    assert report.read_text() == before

    # One file of scores that is lost is the only thing that is made again.
    entry = Comparison(config, out).entry("vae")
    lost = Job(entry, 3, 1).path(out)
    for path in (lost, lost.with_suffix(".json"), quality_path(lost)):
        path.unlink()
    run.evaluate(config, out)
    assert {call[0] for call in Fake.calls} == {"map"}
    assert len(Fake.calls) == 3 + 1  # images of the fold, the first twice: it is timed after a rehearsal

    # Scores that are deleted, as a message may ask for, are made again, too.
    Fake.calls.clear()
    lost.unlink()
    run.evaluate(config, out)
    assert len(Fake.calls) == 3 + 1

    other = replace(config, seeds=(1,))
    with pytest.raises(UsageError, match=r"another configuration .*; other seeds\)"):
        run.evaluate(other, out)


def test_scores_half_written_are_gone_on_with(fakes, written, out):
    config = written()
    run.evaluate(config, out)
    path = Job(Comparison(config, out).entry("vae"), 3, 0).path(out)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:9])
    record = json.loads(path.with_suffix(".json").read_text())
    write_json(path.with_suffix(".json"), record | {"done": False})
    Fake.calls.clear()
    run.evaluate(config, out)
    assert len(Fake.calls) == 2 + 1
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [json.loads(x)["id"] for x in lines]


def test_other_settings_of_one_method_leave_the_others_alone(fakes, written, tmp_path):
    first = Comparison(written(), tmp_path)
    second = Comparison(written(SMALL.replace("[methods.dae]", "[methods.dae]\ngain = 2.0") + PHANTOMS), tmp_path)
    same = {
        name: first.stage(first.entry(name), 3, 0, 0) == second.stage(second.entry(name), 3, 0, 0)
        for name in ("vae", "dae")
    }
    assert same == {"vae": True, "dae": False}


def test_a_method_that_fails_is_named_and_tried_again(fakes, written, out):
    config = written()
    Fake.broken.add("target")
    report = run.evaluate(config, out)
    text = report.read_text()
    assert "Unexpected ValueError" in text
    assert "does not converge" in text
    table = (out / "tables" / "table1.csv").read_text()
    assert "3,DAE" in table
    assert "3,VAE" not in table
    assert "1,VAE" in table
    Fake.broken.clear()
    Fake.calls.clear()
    run.evaluate(config, out)
    assert [call[1:3] for call in Fake.calls if call[0] == "fit"] == [("Fake", "target")]
    assert "3,VAE" in (out / "tables" / "table1.csv").read_text()
    assert "does not converge" not in report.read_text()


def test_stopped_in_the_middle_it_goes_on_from_there(fakes, written, out):
    config = written()

    def stop(stage, done, total):
        if stage == "Comparison" and done > 0.6 * total:
            raise Cancelled()

    with pytest.raises(Cancelled):
        run.evaluate(config, out, progress=stop)
    done = [call for call in Fake.calls if call[0] == "fit"]
    assert done
    assert not (out / "report.html").exists()
    Fake.calls.clear()
    run.evaluate(config, out)
    again = [call[1:3] for call in Fake.calls if call[0] == "fit"]
    assert len(again) == 1  # the one that was stopped, or the one after it
    assert (out / "report.html").exists()


def test_tasks_wait_for_what_they_need_in_a_pool(fakes, written, out):
    config = written()
    comparison = Comparison(config, out)
    planned = run.plan(comparison)
    comparison.make_images(1, lambda *_: None, lambda _: None)
    out.mkdir(exist_ok=True)
    watch = run._Watch(comparison, dict.fromkeys(planned.tasks, 1.0), lambda *_: None, lambda _: None)
    tasks = [*planned.jobs, *reversed(planned.stages)]  # the wrong way round
    with ThreadPoolExecutor(2) as pool:
        assert run._spread(comparison, tasks, pool, 2, watch) == {}
    assert all(run.is_done(comparison, task) for task in planned.tasks)
    assert next(call[2] for call in Fake.calls if call[0] == "fit") == "source"
    assert not list(out.glob(".stop-*"))


class LostWorker:
    """An executor whose workers vanish."""

    def submit(self, *arguments):
        future = Future()
        future.set_exception(RuntimeError("worker 3 is gone\nand why"))
        return future


def test_a_worker_that_is_lost_is_no_end(fakes, written, out):
    comparison = Comparison(written(), out)
    planned = run.plan(comparison)
    out.mkdir()
    watch = run._Watch(comparison, dict.fromkeys(planned.tasks, 1.0), lambda *_: None, lambda _: None)
    failed = run._spread(comparison, planned.tasks, LostWorker(), 2, watch)
    assert set(failed) == set(planned.tasks)
    assert set(failed.values()) == {"The worker failed: worker 3 is gone", run.NEEDS_FAILED}


def test_processes_share_the_cores(monkeypatch):
    import torch

    for name in workers.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 2)
    with workers.worker_processes(2) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert not set(workers.THREADS) & set(os.environ)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with workers.worker_processes(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_process_that_dies_says_what_helps():
    with pytest.raises(U2ADError, match="fewer --workers"), workers.worker_processes(1) as pool:
        pool.submit(os._exit, 1).result()


def test_an_experiment_that_fails_costs_no_other(fakes, written, out, monkeypatch):
    monkeypatch.setattr(experiment("making"), "run", lambda context: 1 / 0)
    report = run.evaluate(replace(written(), experiments=("making", "table1")), out).read_text()
    assert "How a pseudo-anomaly is made (Fig. A1) failed: Unexpected ZeroDivisionError" in report
    assert "3,VAE" in (out / "tables" / "table1.csv").read_text()


def test_only_some_experiments_and_a_dry_run(fakes, written, out, capsys):
    config = written()
    assert run.evaluate(config, out, dry_run=True) is None
    assert not out.exists()
    run.evaluate(config, out, only=["making"])
    assert Fake.calls == []
    assert (out / "figures" / "making.png").exists()
    with pytest.raises(UsageError, match="no experiment 'table9'"):
        run.evaluate(config, out, only=["table9"])
    out2 = out / "figures"
    with pytest.raises(UsageError, match="something else"):
        run.evaluate(config, out2)


def test_several_seeds_are_averaged(fakes, written, out):
    config = replace(written(), seeds=(0, 1))
    run.evaluate(config, out)
    comparison = Comparison(config, out)
    context = Context(comparison)
    entry = comparison.entry("vae")
    assert {job.seed for job in jobs_of(comparison, entry)} == {0, 1}
    assert "mean of 2 seeds, SD 0.000" in context.figures(entry)["patient AUROC"].note
    assert (
        len({stage.id for job in jobs_of(comparison, entry) if (stage := comparison.stage(entry, 3, 0, job.seed))}) == 2
    )


def test_thresholds_are_fixed_on_validation_images(fakes, written, out):
    config = written(SMALL + PHANTOMS + '[[validation]]\nphantoms = 2\nplant = ["h75"]\n')
    run.evaluate(config, out)
    comparison = Comparison(config, out)
    context = Context(comparison)
    entry = comparison.entry("vae")
    limits = context.thresholds(entry, 3, 0)
    assert set(limits) == {0, 1}
    found = context.figures(entry, 3)
    called = [scores.patient > limits[0] for scores in context.scores(entry, 3).values()]
    truth = [one.patient for one in context.truths]
    by_id = dict(zip(context.scores(entry, 3), called, strict=True))
    hit = np.mean([by_id[one.id] for one in context.truths if one.patient])
    assert sum(truth) == 3
    assert found["patient sensitivity (fixed threshold)"].value == pytest.approx(hit)
    assert "Sensitivity, fixed threshold" in (out / "tables" / "table1.csv").read_text()


def test_thresholds_that_come_later_are_not_missed(fakes, written, out):
    """The first table needs no scores of validation images; those that are kept of it are not enough for the next."""
    config = written(SMALL + PHANTOMS + '[[validation]]\nphantoms = 2\nplant = ["h75"]\n')
    config = replace(config, options={**config.options, "strategies": OPTIONS["strategies"](("vae",))})
    run.evaluate(config, out, only=["strategies"])
    run.evaluate(config, out, only=["table1"])
    rows = list(csv.reader((out / "tables" / "table1.csv").read_text().splitlines()))
    column = next(n for n, title in enumerate(rows[0]) if title.endswith("Sensitivity, fixed threshold"))
    assert all(row[column] for row in rows[1:])


# ------------------------------------------------------------------------------------------------ what is bundled


def test_the_bundled_configurations_can_be_read():
    assert set(bundled()) >= {"smoke", "two-cores", "full"}
    for name in ("smoke", "two-cores", "full"):
        config = read_config(name)
        assert config.name == name
        assert config.experiments


@pytest.fixture
def little_noise(monkeypatch):
    """AnoDDPM's noise takes seconds to make: less of it."""
    from U2ADLib.rivals import simplex

    simplex._fields.cache_clear()
    monkeypatch.setattr(simplex, "FIELD_POINTS", 80)
    yield
    simplex._fields.cache_clear()


def test_smoke_from_the_command_line_to_the_report(out, little_noise, capsys):
    assert main(["evaluate", "smoke", "--out", str(out), "--progress", "none"]) == 0
    said = capsys.readouterr()
    assert str(out / "report.html") in said.out
    text = (out / "report.html").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        assert f'<section id="{name}">' in text
    assert "failed" not in text.lower().replace("failed and left out", "failed")
    shutil.rmtree(out)


def test_stages_are_hashable_and_say_their_budget():
    source = Stage("vae", "{}", "source", "x", minutes=3.0)
    target = Stage("vae", "{}", "target", "y", minutes=1.5, after=source)
    assert target.chain == (source, target)
    assert target.budget == Budget(1.5, None)
    assert target.id.startswith("vae-target-")
    assert replace(target, after=replace(source, seed=1)).id != target.id
