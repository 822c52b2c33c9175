"""The default score's own adaptation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from U2ADLib.config import MonteCarloConfig, Preprocessing, ScoreConfig
from U2ADLib.montecarlo import monte_carlo
from U2ADLib.package import Model, load_model
from U2ADLib.scoring.discriminator import Discriminator, DiscriminatorArchitecture
from U2ADLib.training import adapt_discriminator as module
from U2ADLib.training.adapt_discriminator import adapt_discriminators, may_be_lesions
from U2ADLib.training.data import SliceSet
from U2ADLib.training.discriminator import DiscriminatorConfig

TINY = DiscriminatorArchitecture(widths=(4, 8))


class BrightIsSuspicious(Discriminator):
    """Logit 5 where the cord is a fifth brighter than thereabouts, −5 elsewhere."""

    def forward(self, x):
        return torch.where(x[:, 0] > 0.2, 5.0, -5.0)


class CountsFromTheEnd(Discriminator):
    """Logit 5 in 10 of 30 rows, −5 elsewhere: how long the strip is decides in which."""

    def forward(self, x):
        rows = (torch.arange(x.shape[2]) - x.shape[2]) % 30
        return torch.where(rows < 10, 5.0, -5.0)[:, None].expand(len(x), x.shape[2], x.shape[3])


@pytest.fixture(scope="module")
def model():
    default = ScoreConfig(evidence="discriminator", components=0, bottom_fraction=0, across="max")
    scores = {"paper": ScoreConfig(), "default": default}
    network = load_model().network
    return Model("made", network, {}, Preprocessing(), MonteCarloConfig(), scores, (), "0", (BrightIsSuspicious(TINY),))


def made_slices():
    """Two people; in the second the cord is brighter in rows 100 … 109."""
    images, cords = np.zeros((2, 256, 256), np.float16), np.zeros((2, 256, 256), bool)
    cords[:, 20:230, 124:132] = True
    images[:, :, 118:138] = 0.9
    images[cords] = 0.4
    images[1, 100:110, 126:130] = 0.6
    return SliceSet(images, cords, np.array(["a", "b"]), np.zeros(2, bool))


def test_what_the_discriminators_suspect_is_left_out(model):
    slices = made_slices()
    marked = may_be_lesions(model, model.network, slices)
    assert marked[1, 100:110, 126:130].all()
    assert not marked[~slices.cords].any()
    assert marked[0][slices.cords[0]].mean() < 0.25  # the top components of AU, with their margin


def test_a_few_slices_at_a_time_give_the_same(model, monkeypatch):
    slices = made_slices()
    cords = np.concatenate([slices.cords, slices.cords])
    cords[1, :60], cords[2, 200:] = False, False
    slices = SliceSet(np.concatenate([slices.images, slices.images]), cords, np.array(list("abcd")), np.zeros(4, bool))
    own, seen = replace(model, discriminators=(CountsFromTheEnd(TINY),)), []

    def counted(*arguments, **options):
        seen.append(len(arguments[1]))
        return monte_carlo(*arguments, **options)

    monkeypatch.setattr(module, "monte_carlo", counted)
    at_once = may_be_lesions(own, own.network, slices)
    assert 0.1 < at_once[cords].mean() < 0.9
    monkeypatch.setattr(module, "AT_A_TIME", 1)
    np.testing.assert_array_equal(may_be_lesions(own, own.network, slices), at_once)
    assert seen == [4, 1, 2, 2, 2]


def test_they_go_on_from_the_models_own_and_leave_it_as_it_is(model, tmp_path):
    torch.manual_seed(0)
    own = replace(model, discriminators=(Discriminator(TINY).eval(),))
    before = {name: value.clone() for name, value in own.discriminators[0].state_dict().items()}
    config = DiscriminatorConfig(examples=50, steps=2, batch=4, learning_rate=1e-5, averaging=1.0)
    said = []
    (adapted,) = adapt_discriminators(
        own, own.network, made_slices(), tmp_path, config=config, phantoms=0, say=said.append
    )
    assert "may be lesions: left out" in said[0]
    weights = {name: value for name, value in adapted.state_dict().items() if name.endswith("weight")}
    assert any(not torch.equal(value, before[name]) for name, value in weights.items())
    for name, value in weights.items():
        torch.testing.assert_close(value, before[name], atol=1e-4, rtol=0)
    for name, value in own.discriminators[0].state_dict().items():
        assert torch.equal(value, before[name])


def test_progress_runs_once_from_beginning_to_end(model, tmp_path):
    torch.manual_seed(0)
    own = replace(model, discriminators=(Discriminator(TINY).eval(), Discriminator(TINY).eval()))
    config = DiscriminatorConfig(examples=50, steps=2, batch=4)
    seen = []
    adapt_discriminators(
        own, own.network, made_slices(), tmp_path, config=config, phantoms=0,
        progress=lambda stage, done, total: seen.append((stage, done / total)),
    )  # fmt: skip
    assert {stage for stage, _ in seen} == {"Adapting, score"}
    parts = [part for _, part in seen]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)
