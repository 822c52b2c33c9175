"""U²AD, its ablation and the default score as methods of the comparison."""

import json

import numpy as np
import pytest
import torch

from U2ADLib.anomaly import anomaly_map
from U2ADLib.config import MonteCarloConfig
from U2ADLib.errors import ModelError, UsageError
from U2ADLib.montecarlo import monte_carlo
from U2ADLib.rivals import make
from U2ADLib.rivals import u2ad as module
from U2ADLib.rivals.detector import Budget, MapDetector, Training, TrainingSlices
from U2ADLib.rivals.pace import Pace, measure, planned, steps_and_epochs
from U2ADLib.rivals.rules import signed_residual
from U2ADLib.training.adapt import AdaptConfig
from U2ADLib.training.checkpoint import load_state

TINY = {
    "width": 32, "heads": 4, "depth": 1, "decoder_width": 16, "decoder_heads": 2, "decoder_depth": 1,
    "batch": 4, "adapt_batch": 4, "k": 2, "epochs": 4, "refreshes": 2,
}  # fmt: skip
ABLATION = ("mae", "mae-mc", "mae-mc-signed", "eu-guided", "u2ad")


def made_slices(seed=0):
    """Four people with straight cords whose brightness is a smooth wave along them."""
    rng = np.random.default_rng(seed)
    cords = np.zeros((4, 256, 256), bool)
    cords[:, 60:140, 120:128] = True
    wave = 0.3 + 0.1 * np.sin(np.arange(256) / 20 + rng.uniform(0, 6, (4, 1)))
    images = np.where(cords, wave[:, :, None], 0.8).astype(np.float32)
    return TrainingSlices(images, cords, np.array(list("abcd")))


@pytest.fixture(scope="module")
def slices():
    return made_slices()


@pytest.fixture(scope="module")
def source(slices, tmp_path_factory):
    """A folder with what the source stage of the baseline left."""
    folder = tmp_path_factory.mktemp("source")
    method = make("mae-mc", **TINY)
    method.fit(slices, training(folder / "stage"))
    method.save(folder / "model")
    return folder


def training(folder, stage="source", steps=8, **rest):
    return Training(stage, folder, Budget(steps=steps), **rest)


def weights(method):
    return torch.cat([value.flatten() for value in method.network.state_dict().values()])


@pytest.mark.parametrize("name", ABLATION)
def test_each_makes_maps_of_the_shared_source(name, slices, source):
    method = make(name, **TINY)
    assert isinstance(method, MapDetector)
    assert (method.name, method.source_of) == (name, None if name == "mae-mc" else "mae-mc")
    method.load(source / "model")
    cords = slices.cords.copy()
    cords[3] = False
    made = method.anomaly_map(slices.images, cords, seed=3)
    assert made.anomaly.shape == slices.images.shape
    assert made.anomaly.min() >= 0
    assert made.anomaly[:3].max() > 0
    assert not made.anomaly[~cords].any()
    np.testing.assert_array_equal(made.reconstruction[~cords], slices.images[~cords])
    again = method.anomaly_map(slices.images, cords, seed=3)
    np.testing.assert_array_equal(made.anomaly, again.anomaly)
    assert (method.anomaly_map(slices.images, cords, seed=4).anomaly != made.anomaly).any()
    if name == "mae":
        assert made.uncertainty is None
        return
    rebuilt = monte_carlo(method.network, slices.images[:3], cords[:3], MonteCarloConfig(2), 3)
    np.testing.assert_array_equal(made.uncertainty[:3], rebuilt.epistemic)
    if name == "mae-mc-signed":
        expected = signed_residual(slices.images[1], rebuilt.mean[1], cords[1])
    else:
        expected = anomaly_map(slices.images[1], rebuilt.mean[1], cords[1])
    np.testing.assert_array_equal(made.anomaly[1], expected)


def test_the_single_pass_rebuilds_every_patch_once(slices):
    class Numbered(torch.nn.Module):
        """Every reconstruction is another number: the mean of two could not be one of them."""

        architecture = make("mae", **TINY).settings.architecture

        def forward(self, patches, visible, target, visible_valid=None, target_valid=None):
            made = 2.0 ** torch.arange(target.numel()).reshape(*target.shape, 1).expand(-1, -1, 64)
            return made, made

    method = make("mae", **TINY)
    method.network = Numbered()
    cord = slices.cords[:1]
    rebuilt = method.anomaly_map(slices.images[:1], cord).reconstruction[cord]
    patches = 11  # the cord's rows 60 … 139 touch rows 7 … 17 of the grid
    assert len(np.unique(rebuilt)) == patches
    assert (np.log2(rebuilt) % 1 == 0).all()


def test_stages_of_a_stopped_training_end_in_the_same_weights(slices, tmp_path):
    def fitted(folder, stop_at=None):
        method = make("u2ad", **TINY)
        for stage in ("source", "target"):
            done = [0]

            def progress(*_, done=done):
                done[0] += 1
                if done[0] == stop_at:
                    raise KeyboardInterrupt

            try:
                method.fit(slices, training(folder / stage, stage, progress=progress))
            except KeyboardInterrupt:
                method.fit(slices, training(folder / stage, stage))
        return method

    whole, stopped = fitted(tmp_path / "whole"), fitted(tmp_path / "stopped", stop_at=6)
    assert torch.equal(weights(whole), weights(stopped))
    assert not torch.equal(weights(whole), torch.cat([v.flatten() for v in whole.source.state_dict().values()]))
    before = weights(whole)
    whole.fit(slices, training(tmp_path / "whole" / "target", "target"))  # it is finished: only read
    assert torch.equal(weights(whole), before)
    _, record = load_state(tmp_path / "whole" / "target")
    assert [line.get("stage") for line in record["curves"]] == [None, "EU", "EU", "EU", "AU"]


@pytest.mark.parametrize(
    ("name", "weight", "au_from"), [("mae-mc", "uniform", None), ("eu-guided", "text", None), ("u2ad", "text", 3)]
)
def test_what_leads_the_adaptation(name, weight, au_from, slices, source, tmp_path):
    method = make(name, **TINY)
    method.load(source / "model")
    method.fit(slices, training(tmp_path, "target"))
    _, record = load_state(tmp_path)
    config = record["recipe"]["config"]
    assert (config["eu_weight"], config["au_from"], config["epochs"]) == (weight, au_from, 4)


def test_the_target_alone_starts_with_random_masks(slices, tmp_path):
    method = make("u2ad", **TINY)
    method.fit(slices, training(tmp_path, "target", steps=8))
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("random", "guided")]
    assert [plan["budget"]["steps"] for plan in plans] == [4, 4]
    again = make("u2ad", **TINY)
    again.fit(slices, training(tmp_path, "target", steps=8))
    assert torch.equal(weights(method), weights(again))
    assert method.source is None


def test_another_architecture_budget_or_folder_is_refused(slices, source, tmp_path):
    with pytest.raises(ModelError, match="other settings"):
        make("u2ad", **TINY | {"depth": 2}).load(source / "model")
    with pytest.raises(ModelError):
        make("u2ad", **TINY).load(tmp_path)
    with pytest.raises(ModelError, match="another budget"):
        make("mae-mc", **TINY).fit(slices, training(source / "stage", steps=9))
    with pytest.raises(ModelError, match="other data or settings"):
        make("mae-mc", **TINY).fit(made_slices(1), training(source / "stage"))
    with pytest.raises(UsageError, match="not been trained"):
        make("u2ad").anomaly_map(slices.images, slices.cords)
    with pytest.raises(UsageError, match="no setting colour"):
        make("u2ad", colour=1)
    with pytest.raises(UsageError, match="no preset 'large'"):
        make("u2ad", preset="large")
    with pytest.raises(UsageError, match="minutes or steps"):
        make("u2ad", **TINY).fit(slices, Training("source", tmp_path / "new", Budget()))


def test_the_papers_settings_are_the_defaults():
    settings = make("u2ad").settings
    paper = AdaptConfig()
    assert (settings.depth, settings.decoder_depth, settings.k, settings.mask_ratio) == (24, 8, 10, 0.75)
    assert settings.epochs // settings.refreshes == paper.refresh
    assert int((1 - settings.au_share) * settings.epochs) == paper.au_from
    small = make("u2ad", preset="small", k=5).settings
    assert (small.depth, small.width, small.k) == (6, 128, 5)


# ---------------------------------------------------------------- budget


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"), [(1, 200, (1, 1)), (7, 40, (1, 7)), (100, 40, (4, 25)), (20_000, 200, (100, 200))]
)
def test_steps_are_used_up(steps, epochs, expected):
    assert steps_and_epochs(Budget(steps=steps), 0, None, epochs) == expected


def test_minutes_are_used_up_and_whichever_limit_comes_first_ends_it():
    speed = Pace(step=0.1, epoch=0.5, refresh=2.0)
    steps, epochs = steps_and_epochs(Budget(minutes=2), 10, speed, 40, lambda epochs: 5)
    used = 10 + steps * epochs * 0.1 + epochs * 0.5 + 5 * 2
    assert 0.97 * 120 < used <= 120
    assert steps_and_epochs(Budget(minutes=2, steps=80), 10, speed, 40, lambda epochs: 5) == (2, 40)
    assert steps_and_epochs(Budget(minutes=0.1), 10, speed, 40) == (1, 1)


def test_a_step_and_all_else_are_told_apart():
    now = [0.0]

    def run(folder, steps):
        assert folder.is_dir()
        assert not any(folder.iterdir())
        (folder / "state").touch()
        now[0] += 3 + 0.25 * steps

    assert measure(run, "cpu", lambda device: now[0]) == (pytest.approx(0.25), pytest.approx(3))


def test_a_plan_is_kept(tmp_path):
    assert planned(tmp_path / "a", Budget(2.0), lambda: {"steps": 3}) == {"steps": 3}
    assert planned(tmp_path / "a", Budget(2.0), lambda: {"steps": 99}) == {"steps": 3}


@pytest.mark.parametrize("stage", ["source", "target"])
def test_a_budget_in_minutes_is_timed_first(stage, slices, source, tmp_path, monkeypatch):
    ran = []

    def timed(run, device):
        run(tmp_path / str(len(ran)), 1)
        ran.append(run)
        return 0.5, 1.0

    monkeypatch.setattr(module, "measure", timed)
    monkeypatch.setattr(module, "seconds_computed", lambda device: 0.0)
    method, said = make("u2ad", **TINY), []
    method.load(source / "model")
    method.fit(slices, Training(stage, tmp_path / "stage", Budget(minutes=0.2), say=said.append))
    assert said == ["The budget allows 3 epochs of 6 steps."]  # 3 · 1 s + 18 · 0.5 s
    assert len(ran) == {"source": 1, "target": 2}[stage]
    _, record = load_state(tmp_path / "stage")
    assert record["epoch"] == 3
    assert record["recipe"]["config"]["slices_per_epoch"] == 4 * 6


# ---------------------------------------------------------------- default score


def curved(count=3):
    """Cords of level 0.3 in CSF of 0.9."""
    images, cords = np.zeros((count, 256, 256), np.float32), np.zeros((count, 256, 256), bool)
    for k in range(count):
        for row in range(30, 226):
            middle = int(128 + 12 * np.sin(row / 40 + k))
            cords[k, row, middle - 4 : middle + 4] = True
            images[k, row, middle - 9 : middle + 9] = 0.9
        images[k][cords[k]] = 0.3
    return TrainingSlices(images, cords, np.array([f"p{k}" for k in range(count)]))


class InThisProcess:
    """A pool without processes: starting one takes seconds."""

    def __init__(self, workers, context, initialise, arguments):
        initialise(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    map = staticmethod(map)


def test_the_default_score_trains_saves_and_adapts(tmp_path, monkeypatch):
    monkeypatch.setattr("U2ADLib.training.discriminator.ProcessPoolExecutor", InThisProcess)
    data = curved()
    settings = {"count": 1, "widths": [4, 8], "batch": 2}
    method = make("u2ad-default", **settings)
    assert isinstance(method, MapDetector)
    method.fit(data, training(tmp_path / "source", steps=2))
    made = method.anomaly_map(data.images, data.cords)
    assert made.reconstruction is made.uncertainty is None
    assert not made.anomaly[~data.cords].any()
    assert 0 < made.anomaly.max() <= 1
    method.save(tmp_path / "model")
    other = make("u2ad-default", **settings)
    other.load(tmp_path / "model")
    np.testing.assert_array_equal(other.anomaly_map(data.images, data.cords).anomaly, made.anomaly)
    other.fit(data, training(tmp_path / "target", "target", steps=2))
    adapted = other.anomaly_map(data.images, data.cords).anomaly
    assert (adapted != made.anomaly).any()
    assert (
        len(json.loads((tmp_path / "target" / "discriminator-0" / "state.json").read_text())["recipe"]["start"]) == 64
    )
    with pytest.raises(ModelError, match="these settings"):
        make("u2ad-default", **settings | {"count": 2}).load(tmp_path / "model")
    with pytest.raises(ModelError, match="these settings"):
        make("u2ad-default").load(tmp_path / "nothing")
