"""The rivals that rebuild slices, and the loop and the files that all rivals with networks share."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from U2ADLib.errors import Cancelled, ModelError, U2ADError, UsageError
from U2ADLib.files import file_sha256, write_json
from U2ADLib.rivals import make
from U2ADLib.rivals.crop import middle, put_together, windows
from U2ADLib.rivals.detector import Budget, MapDetector, Training, TrainingSlices
from U2ADLib.rivals.learning import RECORD, WEIGHTS, learn
from U2ADLib.rivals.rebuilding import Batches, undistorted
from U2ADLib.training import augment
from U2ADLib.training.checkpoint import load_state
from U2ADLib.training.step import descend

pytest.importorskip("monai", reason="MONAI IS NOT INSTALLED: pip install 'u2ad[rivals]'; no rival was tested")

NAMES = ("vae", "dae", "vae-gan", "f-anogan", "anoddpm")
TINY = {
    "vae": {"channels": (8, 8, 8), "latent": 8},
    "dae": {"channels": (8, 8, 8, 8, 8)},
    "vae-gan": {"channels": (8, 8, 8), "latent": 8, "discriminator_channels": 8, "discriminator_layers": 2},
    "f-anogan": {"channels": (8, 8, 8), "latent": 8, "critic_steps": 2},
    "anoddpm": {"channels": (8, 8), "attention": (False, False), "blocks": 1, "groups": 4, "steps": 3},
}


def tiny(name, **settings):
    return make(name, **{"preset": "small", "rows": 64, "columns": 64, "batch": 2, **TINY[name], **settings})


def made_slices(people="aabc", seed=0):
    """A straight cord of 96 rows and 8 columns, a smooth wave along it, in CSF and tissue."""
    rng = np.random.default_rng(seed)
    count = len(people)
    cords = np.zeros((count, 256, 256), bool)
    cords[:, 80:176, 124:132] = True
    images = np.full((count, 256, 256), 0.5, np.float32)
    images[:, :, 118:138] = 0.9
    wave = 0.3 + 0.05 * np.sin(np.arange(256) / 15 + rng.uniform(0, 6, (count, 1)))
    images = np.where(cords, wave[:, :, None], images).astype(np.float32)
    return TrainingSlices(images, cords, np.array(list(people)))


@pytest.fixture(scope="module")
def slices():
    return made_slices()


def training(folder, steps=2, stage="source", **rest):
    return Training(stage, folder, Budget(steps=steps), **rest)


def weights(rival, network=None):
    chosen = [rival.networks[network]] if network else rival.networks.values()
    return torch.cat([value.flatten().float() for one in chosen for value in one.state_dict().values()])


# ------------------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize(
    ("rows", "columns", "size", "first"),
    [
        ((100, 140), (120, 130), (64, 64), (88, 93)),  # middles 120 and 125
        ((0, 20), (0, 6), (64, 64), (0, 0)),
        ((240, 256), (250, 256), (64, 64), (192, 192)),
        ((30, 226), (120, 130), (256, 64), (0, 93)),
        ((30, 226), (3, 9), (256, 256), (0, 0)),
    ],
)
def test_a_window_lies_about_the_cord_and_within_the_slice(rows, columns, size, first):
    cord = torch.zeros(1, 256, 256, dtype=torch.bool)
    cord[0, rows[0] : rows[1], columns[0] : columns[1]] = True
    where = windows(cord, size)
    assert (int(where.rows[0, 0]), int(where.columns[0, 0, 0])) == first
    assert where.cut(cord).shape == (1, *size)


def test_cut_and_put_back_are_exact_for_every_slice_of_a_batch():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 100, 90, generator=generator)
    cords = torch.zeros(3, 100, 90, dtype=torch.bool)
    cords[0, :5, :3] = cords[1, 40:60, 80:] = cords[2, 95:, 40:44] = True
    where = windows(cords, (32, 16))
    cut = where.cut(maps)
    back = where.put_back(cut)
    for k, (top, left) in enumerate([(0, 0), (34, 74), (68, 34)]):
        assert torch.equal(cut[k], maps[k, top : top + 32, left : left + 16])
        expected = torch.zeros(100, 90)
        expected[top : top + 32, left : left + 16] = maps[k, top : top + 32, left : left + 16]
        assert torch.equal(back[k], expected)


def test_columns_are_those_of_the_cord_that_the_window_shows():
    cord = torch.zeros(1, 256, 256, dtype=torch.bool)
    cord[0, 20:90, 40:48] = cord[0, 90:130, 100:110] = cord[0, 130:200, 200:208] = True
    where = windows(cord, (32, 64))  # rows 94 … 125
    assert int(where.columns[0, 0, 0]) == 105 - 32


def test_slices_without_cord_are_cut_in_the_middle_and_too_large_windows_refused():
    where = windows(torch.zeros(1, 256, 128, dtype=torch.bool), (64, 64))
    assert (int(where.rows[0, 0]), int(where.columns[0, 0, 0])) == (96, 32)
    with pytest.raises(UsageError, match="does not fit"):
        windows(torch.zeros(1, 256, 128, dtype=torch.bool), (64, 256))


def test_the_middle_of_a_window_with_margin_is_the_window_without():
    cords = torch.from_numpy(made_slices().cords)
    maps = torch.rand(cords.shape, generator=torch.Generator().manual_seed(0))
    for size in ((64, 64), (256, 64), (256, 256)):
        assert torch.equal(middle(windows(cords, size, 16).cut(maps), size), windows(cords, size).cut(maps))


def test_what_is_put_together_is_rebuilt_only_where_there_is_cord_in_the_window():
    images, cords = torch.full((1, 128, 128), 0.4), torch.zeros(1, 128, 128, dtype=torch.bool)
    cords[0, 10:120, 60:68] = True
    where = windows(cords, (64, 32))
    whole, anomaly = put_together(images, cords, torch.full((1, 64, 32), 0.9), where)
    seen = torch.zeros_like(cords)
    seen[0, 33:97, 60:68] = True
    assert torch.equal(whole, torch.where(seen, 0.9, 0.4))
    assert torch.equal(anomaly > 0, seen)


# ------------------------------------------------------------------------------------------------- training batches


def test_turning_a_narrow_window_does_not_shear_it():
    """A quarter turn moves a point 20 px above the centre of a 128×64 window 20 px to its left."""
    drawn = augment.draw(augment.AugmentConfig(noise_sigma=0), (1, 128, 64), torch.Generator().manual_seed(0))
    turned = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]])
    drawn = undistorted(replace(drawn, matrix=turned), (1, 128, 64))
    image = torch.zeros(1, 1, 128, 64)
    image[0, 0, 42:46, 30:34] = 1
    moved = augment.move(image, drawn)[0, 0]
    rows, columns = torch.nonzero(moved > 0.5).float().mean(0).tolist()
    assert (rows, columns) == pytest.approx((63.5, 31.5 - 20), abs=0.6)


def test_batches_hold_the_cord_in_every_window(slices):
    images, cords = Batches(slices, (256, 64), "cpu")(torch.tensor([0, 1, 2, 3]), torch.Generator().manual_seed(1))
    assert images.shape == cords.shape == (4, 1, 256, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert set(cords.unique().tolist()) == {0.0, 1.0}
    # Nothing of the cord is moved out of the window: scaled by up to 1.12 it has at least 96 · 8 / 1.12² pixels.
    assert cords.sum((1, 2, 3)).min() > 550


# ------------------------------------------------------------------------------------------------------------ the loop


class Line:
    """The simplest training there is: w → the slices' mean, one weight, Adam."""

    def __init__(self, slices, rate=0.1):
        self.network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.network.weight)
        self.means = torch.from_numpy(slices.images.mean((1, 2)))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=rate)
        self.chosen, self.rates = [], []

    def step(self, chosen, generator):
        self.chosen += chosen.tolist()
        self.rates.append(self.optimiser.param_groups[0]["lr"])
        noise = torch.rand(len(chosen), generator=generator) + torch.rand(len(chosen))  # torch's own, too
        loss = ((self.network.weight[0, 0] - self.means[chosen] - 0.1 * noise) ** 2).mean()
        descend(self.network, self.optimiser, loss, 1.0)
        return {"loss": loss}

    def learn(self, slices, told, batch=4, **rest):
        return learn(
            {"line": self.network}, {"line": self.optimiser}, self.step, slices, told, batch=batch, recipe={}, **rest
        )


class FakeClock:
    """Every look at it takes a second."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self, device):
        self.seconds += 1
        return self.seconds


def test_every_person_is_drawn_equally_often(slices, tmp_path):
    line = Line(slices)
    line.learn(slices, training(tmp_path, steps=300), batch=8)
    shares = np.bincount(line.chosen, minlength=4) / len(line.chosen)
    assert shares == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=0.03)


def test_the_learning_rate_falls_to_nothing_over_the_budget(slices, tmp_path):
    line = Line(slices, rate=2.0)
    line.learn(slices, training(tmp_path, steps=200))
    wanted = [(1 + np.cos(np.pi * n / 200)) for n in range(200)]
    assert line.rates[10:] == pytest.approx(wanted[10:])  # 5 % of the budget are the warm-up
    assert line.rates[0] == pytest.approx(2.0 / 50)
    assert line.rates[-1] < 1e-3


def test_resumed_ends_in_the_same_bits_as_uninterrupted(slices, tmp_path):
    whole, seen = Line(slices), []
    rows = whole.learn(slices, training(tmp_path / "whole", steps=20))

    def stop(stage, done, total):
        seen.append((done, total))
        if done == 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        Line(slices).learn(slices, training(tmp_path / "cut", steps=20, progress=stop))
    again, said = Line(slices), []
    resumed = again.learn(slices, training(tmp_path / "cut", steps=20, say=said.append))
    assert seen == [(n, 20) for n in range(8)]
    assert said == ["Resuming after 7 steps."]
    assert len(again.rates) == 13
    assert torch.equal(again.network.weight, whole.network.weight)
    assert [row["step"] for row in resumed] == [row["step"] for row in rows] == list(range(1, 21))
    assert [row["loss"] for row in resumed[7:]] == [row["loss"] for row in rows[7:]]
    assert (tmp_path / "cut" / "curves.csv").read_text().startswith("step,minutes,rate,loss\n1,")


def test_a_kill_loses_no_more_than_the_steps_since_the_last_state(slices, tmp_path):
    """Nothing is written at the kill itself; with a state after every row the next run goes on from the last step."""

    def killed(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Line(slices).learn(slices, training(tmp_path / "a", steps=9, progress=killed), save_seconds=0)
    assert load_state(tmp_path / "a")[1]["epoch"] == 5
    again, whole = Line(slices), Line(slices)
    again.learn(slices, training(tmp_path / "a", steps=9))
    whole.learn(slices, training(tmp_path / "b", steps=9))
    assert torch.equal(again.network.weight, whole.network.weight)


def test_a_finished_training_is_only_read(slices, tmp_path):
    first, again = Line(slices), Line(slices)
    rows = first.learn(slices, training(tmp_path, steps=5))
    assert again.learn(slices, training(tmp_path, steps=5)) == rows
    assert again.chosen == []
    assert torch.equal(again.network.weight, first.network.weight)


@pytest.mark.parametrize("changed", ["seed", "budget", "stage", "images", "cords"])
def test_another_training_is_refused(slices, tmp_path, changed):
    Line(slices).learn(slices, training(tmp_path, steps=2))
    told, data = training(tmp_path, steps=2), slices
    if changed == "budget":
        told = training(tmp_path, steps=3)
    elif changed in ("images", "cords"):
        data = replace(slices, **{changed: np.roll(getattr(slices, changed), 1, axis=1)})
    else:
        told = replace(told, **{changed: {"seed": 1, "stage": "target"}[changed]})
    with pytest.raises(ModelError, match="other data or settings"):
        Line(slices).learn(data, told)


def test_minutes_end_a_training_and_those_before_a_stop_count(slices, tmp_path):
    """A step takes one second of this clock; what is kept is the time of its last look."""
    told = Training("source", tmp_path / "whole", Budget(minutes=0.5), progress=lambda *seen: progress.append(seen))
    progress, line = [], Line(slices)
    rows = line.learn(slices, told, clock=FakeClock())
    assert len(line.rates) == 30
    assert rows[-1]["minutes"] == 0.5
    assert progress[0] == ("Training", 0, 30)
    assert progress[-1] == ("Training", 30, 30)

    def stop(stage, done, total):
        if done == 10:
            raise Cancelled

    told = Training("source", tmp_path / "cut", Budget(minutes=0.5), progress=stop)
    with pytest.raises(Cancelled):
        Line(slices).learn(slices, told, clock=FakeClock())
    rest = Line(slices)
    rest.learn(slices, replace(told, progress=lambda *seen: None), clock=FakeClock())
    assert 30 - 10 - 1 <= len(rest.rates) <= 30 - 10


def test_the_first_of_two_limits_ends_a_training(slices, tmp_path):
    by_steps, by_time = Line(slices), Line(slices)
    by_steps.learn(slices, Training("source", tmp_path / "a", Budget(1.0, 5)), clock=FakeClock())
    by_time.learn(slices, Training("source", tmp_path / "b", Budget(0.1, 500)), clock=FakeClock())
    assert (len(by_steps.rates), len(by_time.rates)) == (5, 6)


def test_no_budget_and_losses_that_are_not_finite_are_refused(slices, tmp_path):
    with pytest.raises(UsageError, match="budget"):
        Line(slices).learn(slices, Training("source", tmp_path, Budget()))
    line = Line(slices)
    line.means = line.means * torch.nan
    with pytest.raises(U2ADError, match="diverged"):
        line.learn(slices, training(tmp_path))


def test_the_callers_random_numbers_stay_as_they_are(slices, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    rival = tiny("dae")
    rival.fit(slices, training(tmp_path))
    rival.anomaly_map(slices.images, slices.cords)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_parameters_without_gradient_and_tied_ones_are_kept(slices, tmp_path):
    def network():
        made = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in ("used", "unused")})
        made["tied"] = made["used"]
        return made

    def fit(folder, steps, progress=lambda *seen: None):
        torch.manual_seed(0)
        net = network()
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)

        def step(chosen, generator):
            loss = F.mse_loss(net["tied"](torch.ones(1, 1)), torch.zeros(1, 1))
            descend(net, optimiser, loss, 1.0)
            return {"loss": loss}

        told = training(folder, steps, progress=progress)
        learn({"net": net}, {"net": optimiser}, step, slices, told, batch=1, recipe={})
        return net["used"].weight

    def stop(stage, done, total):
        if done == 2:
            raise Cancelled

    with torch.random.fork_rng():
        whole = fit(tmp_path / "whole", 4)
        with pytest.raises(Cancelled):
            fit(tmp_path / "cut", 4, stop)
        assert torch.equal(fit(tmp_path / "cut", 4), whole)


# ----------------------------------------------------------------------------------------------------------- each rival


@pytest.fixture(scope="module")
def fitted(slices, tmp_path_factory):
    """Each rival after two steps, by name."""
    folder = tmp_path_factory.mktemp("rivals")
    rivals = {}
    for name in NAMES:
        rivals[name] = tiny(name)
        rivals[name].fit(slices, training(folder / name))
    return rivals


@pytest.mark.parametrize("name", NAMES)
def test_each_makes_maps_of_the_cord_in_the_window(fitted, slices, name):
    rival = fitted[name]
    assert isinstance(rival, MapDetector)
    assert rival.name == name
    cords = slices.cords.copy()
    cords[3] = False
    maps = rival.anomaly_map(slices.images, cords)
    seen = cords.copy()
    seen[:, :96] = seen[:, 160:] = False  # the cord's middle is at row 128
    assert maps.anomaly.shape == maps.reconstruction.shape == slices.images.shape
    assert maps.anomaly.dtype == maps.reconstruction.dtype == np.float32
    assert maps.uncertainty is None
    assert (maps.anomaly[~seen] == 0).all()
    assert (maps.anomaly[seen] > 0).mean() > 0.9
    assert np.array_equal(maps.reconstruction[~seen], slices.images[~seen])
    assert maps.anomaly == pytest.approx(np.abs(slices.images - maps.reconstruction), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_slice_has_the_same_map_whatever_is_computed_with_it(fitted, slices, name):
    rival = fitted[name]
    together = rival.anomaly_map(slices.images, slices.cords, seed=3)
    alone = rival.anomaly_map(slices.images[:1], slices.cords[:1], seed=3)
    assert together.anomaly[:1] == pytest.approx(alone.anomaly, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_the_same_after_saving_and_loading(fitted, slices, tmp_path, name):
    rival, again = fitted[name], tiny(name)
    rival.save(tmp_path / name)
    assert sorted(one.name for one in (tmp_path / name).iterdir()) == [RECORD, WEIGHTS]
    again.load(tmp_path / name)
    one, other = (each.anomaly_map(slices.images, slices.cords, seed=1) for each in (rival, again))
    assert np.array_equal(one.anomaly, other.anomaly)
    rival.save(tmp_path / name)  # there may be one already


@pytest.mark.parametrize("name", NAMES)
def test_each_resumes_to_the_same_bits(fitted, slices, tmp_path, name):
    stopped = tiny(name)
    calls = []

    def stop(stage, done, total):
        calls.append(done)
        if done == 1:
            raise Cancelled

    if name == "f-anogan":  # one step for the GAN, and one for the encoder

        def stop(stage, done, total):
            calls.append((done, total))
            if calls[-1] == (0, 1) and calls.count((0, 1)) == 2:
                raise Cancelled

    with pytest.raises(Cancelled):
        stopped.fit(slices, training(tmp_path, progress=stop))
    again = tiny(name)
    again.fit(slices, training(tmp_path))
    assert torch.equal(weights(again), weights(fitted[name]))


@pytest.mark.parametrize("name", NAMES)
def test_a_target_stage_starts_from_the_source_stage_or_from_what_was_loaded(fitted, slices, tmp_path, name):
    """With a learning rate of nearly nothing the target stage ends where it started."""
    still = {"learning_rate": 1e-9} | ({"discriminator_rate": 1e-9} if name == "vae-gan" else {})
    still |= {"encoder_rate": 1e-9} if name == "f-anogan" else {}
    rival = tiny(name, **still)
    rival.fit(slices, training(tmp_path / "source", seed=5))
    source = weights(rival)
    rival.save(tmp_path / "model")
    rival.fit(slices, training(tmp_path / "target", stage="target", seed=6))
    assert weights(rival) == pytest.approx(source, abs=1e-6)
    loaded = tiny(name, **still)
    loaded.load(tmp_path / "model")
    loaded.fit(slices, training(tmp_path / "target", stage="target", seed=6))  # the same: only read
    assert torch.equal(weights(loaded), weights(rival))
    alone = tiny(name, **still)
    with pytest.raises(ModelError, match="other data or settings"):
        alone.fit(slices, training(tmp_path / "target", stage="target", seed=6))
    alone.fit(slices, training(tmp_path / "alone", stage="target", seed=6))
    assert (weights(alone) - source).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------------- what is kept


def test_what_is_not_this_method_is_not_loaded(fitted, tmp_path):
    fitted["vae"].save(tmp_path / "vae")
    with pytest.raises(ModelError, match="another method"):
        tiny("vae-gan").load(tmp_path / "vae")
    with pytest.raises(ModelError, match="other settings"):
        tiny("vae", latent=4).load(tmp_path / "vae")
    with pytest.raises(ModelError, match="does not hold vae"):
        tiny("vae").load(tmp_path)
    tiny("vae", maps_batch=1).load(tmp_path / "vae")  # does not change what was learnt


def test_damaged_weights_are_not_loaded(fitted, tmp_path):
    fitted["vae"].save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match="checksum"):
        tiny("vae").load(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    save_file({name: value for name, value in tensors.items() if name != first}, tmp_path / WEIGHTS)
    write_json(tmp_path / RECORD, record | {"sha256": file_sha256(tmp_path / WEIGHTS)})
    with pytest.raises(ModelError, match="do not fit"):
        tiny("vae").load(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="checksum"):
        tiny("vae").load(tmp_path)


def test_wrong_wishes_are_refused(slices):
    with pytest.raises(UsageError, match="no setting colour"):
        make("vae", colour=1)
    with pytest.raises(UsageError, match="no preset"):
        make("vae", preset="huge")
    with pytest.raises(UsageError, match="multiples of 32"):
        make("vae", rows=100)
    with pytest.raises(UsageError, match="300 steps back after a training to level 200 of 1000"):
        make("anoddpm", preset="small", steps=300)
    with pytest.raises(UsageError, match="has not been trained"):
        tiny("vae").anomaly_map(slices.images, slices.cords)


@pytest.mark.parametrize("name", NAMES)
def test_the_small_networks_have_at_most_a_million_weights_and_see_a_strip(name):
    rival = make(name, preset="small")
    networks = rival.build()
    assert (rival.settings.rows, rival.settings.columns) == (256, 64)
    assert sum(one.numel() for network in networks.values() for one in network.parameters()) < 1e6


# -------------------------------------------------------------------------------------------- what each does otherwise


def test_the_dae_learns_to_take_noise_away_and_marks_a_bright_blob(slices, tmp_path):
    rival = tiny("dae", batch=4, learning_rate=5e-3, groups=2)
    rival.fit(slices, training(tmp_path, steps=100))
    losses = [float(line.split(",")[-1]) for line in (tmp_path / "curves.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    images, blob = slices.images.copy(), np.zeros(slices.images.shape, bool)
    blob[:, 120:130, 126:130] = True
    images[blob] += 0.4
    anomaly = rival.anomaly_map(images, slices.cords).anomaly
    elsewhere = slices.cords & ~blob
    elsewhere[:, :96] = elsewhere[:, 160:] = False
    assert anomaly[blob].mean() > 1.5 * anomaly[elsewhere].mean()


def test_coarse_noise_is_coarse():
    from U2ADLib.rivals.dae import coarse_noise

    noise = coarse_noise((64, 1, 256, 64), 0.2, 16, torch.Generator().manual_seed(0))[:, 0]
    assert noise.shape == (64, 256, 64)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert 0.1 < float(noise.std()) < 0.2  # between the cells it is an average
    step = (noise[:, 1:] - noise[:, :-1]).std()
    assert float(step) < 0.2 * float(noise.std())  # white noise: √2


def test_simplex_noise_is_as_rough_as_the_librarys_sum_of_six_octaves():
    from opensimplex import OpenSimplex

    from U2ADLib.rivals.simplex import simplex_noise

    noise = simplex_noise((48, 256, 64), torch.Generator().manual_seed(0))
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise, simplex_noise((48, 256, 64), torch.Generator().manual_seed(0)))
    # Pixels 1, 2 and 4 px apart differ as much as in the slow sum, of which each octave has a spread of 0.355.
    points, library = np.arange(96) / 64, OpenSimplex(77)
    slow = sum(0.8**k * library.noise2array(points * 2**k, points * 2**k + 50) for k in range(6))
    slow = slow / 0.355 / sum(0.8 ** (2 * k) for k in range(6)) ** 0.5
    for apart in (1, 2, 4):
        for axis in (1, 2):
            left = noise.shape[axis] - apart
            change = noise.narrow(axis, apart, left) - noise.narrow(axis, 0, left)
            assert float(change.std()) == pytest.approx((slow[apart:] - slow[:-apart]).std(), rel=0.15)


def test_one_step_back_is_the_librarys_mean():
    from monai.networks.schedulers import DDPMScheduler

    from U2ADLib.rivals.anoddpm import one_step_back

    scheduler = DDPMScheduler(1000)
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(2, 1, 8, 8, generator=generator) * 0.3 for _ in range(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for level in (0, 1, 39, 999):
            mean, spread = one_step_back(scheduler, image, noise, level)
            drawn = torch.stack([scheduler.step(noise, level, image)[0] for _ in range(400)])
            assert mean == pytest.approx(drawn.mean(0), abs=5 * spread / 20 + 1e-5)
            if level:
                assert spread == pytest.approx(float((drawn - mean).std()), rel=0.02)


def test_the_noise_of_anoddpm_follows_its_seed(fitted, slices):
    one, same, other = (
        fitted["anoddpm"].anomaly_map(slices.images[:1], slices.cords[:1], seed=seed).anomaly for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_encoder_of_f_anogan_learns_alone(slices, tmp_path):
    rival = tiny("f-anogan")
    rival.fit(slices, training(tmp_path, steps=4))  # 2 and 2
    gan = load_state(tmp_path / "gan")[0]
    for name in ("generator", "critic"):
        for key, value in rival.networks[name].state_dict().items():
            assert torch.equal(value, gan[f"{name}.network.{key}"])
    start = rival._built(0)["encoder"].state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in rival.networks["encoder"].state_dict().items())


def test_the_encoder_of_f_anogan_does_not_go_on_with_another_generator(slices, tmp_path):
    tiny("f-anogan").fit(slices, training(tmp_path / "one", steps=4))
    tiny("f-anogan").fit(slices, training(tmp_path / "other", steps=4))
    state = tmp_path / "other" / "gan" / "state-00002.safetensors"
    tensors = load_file(state)
    name = next(name for name in tensors if name.startswith("generator.network."))
    save_file({**tensors, name: tensors[name] + 1}, state)
    record = json.loads((state.parent / "state.json").read_text())
    write_json(state.parent / "state.json", record | {"sha256": file_sha256(state)})
    with pytest.raises(ModelError, match="beside another generator"):
        tiny("f-anogan").fit(slices, training(tmp_path / "other", steps=4))
    tiny("f-anogan").fit(slices, training(tmp_path / "one", steps=4))  # with its own it is only read


def test_f_anogan_sees_nothing_but_the_cord(fitted, slices):
    outside = np.where(slices.cords, slices.images, 0.123).astype(np.float32)
    one, other = (fitted["f-anogan"].anomaly_map(images, slices.cords).anomaly for images in (slices.images, outside))
    assert np.array_equal(one, other)
    one, other = (fitted["vae"].anomaly_map(images, slices.cords).anomaly for images in (slices.images, outside))
    assert not np.array_equal(one, other)


def test_the_gradient_penalty_of_a_plane():
    from U2ADLib.rivals.f_anogan import gradient_penalty

    generator = torch.Generator().manual_seed(0)
    true, false = (torch.rand(3, 1, 4, 4, generator=generator) for _ in range(2))
    assert float(gradient_penalty(lambda x: 0.5 * x.flatten(1).sum(1), true, false, generator)) == pytest.approx(1.0)
    assert float(gradient_penalty(lambda x: x.flatten(1).sum(1), true, false, generator)) == pytest.approx(9.0)


def test_the_encoder_of_the_vae_gan_does_not_learn_to_deceive(slices, tmp_path):
    """Without features, pixels and KL divergence only the decoder has anything to learn."""
    nothing = {"feature_weight": 0.0, "pixel_weight": 0.0, "kl_weight": 0.0, "adversarial_weight": 1.0}
    rival = tiny("vae-gan", **nothing)
    rival.fit(slices, training(tmp_path, steps=1))
    before, after = rival._built(0)["autoencoder"].state_dict(), rival.networks["autoencoder"].state_dict()
    changed = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert "encode" not in changed
    assert "decode" in changed


def test_the_kl_divergence_of_a_vae():
    from U2ADLib.rivals.vae import encode

    class Encoder:
        def encode_forward(self, seen):
            return torch.full((2, 3), 2.0), torch.full((2, 3), np.log(4.0))

    z, kl = encode(Encoder(), None, torch.Generator().manual_seed(0))
    prior, posterior = torch.distributions.Normal(0, 1), torch.distributions.Normal(2, 2)
    assert z.shape == (2, 3)
    assert float(kl) == pytest.approx(3 * float(torch.distributions.kl_divergence(posterior, prior)), rel=1e-5)
