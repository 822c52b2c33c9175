"""Trained packages in the benchmark."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from U2ADLib.config import Architecture
from U2ADLib.errors import UsageError
from U2ADLib.evaluation.benchmark import learned
from U2ADLib.evaluation.benchmark.learned import Discriminated, Rebuilt, standard
from U2ADLib.evaluation.benchmark.methods import Fold, scores_of
from U2ADLib.mae import EdgeMAE
from U2ADLib.package import save_model, update_card
from U2ADLib.reconstruction import Reconstruction
from U2ADLib.scoring.discriminator import Discriminator, DiscriminatorArchitecture
from U2ADLib.scoring.evidence import CERTAIN, discriminator_logits


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """`{person}`: a package that learnt from p1 with its network and from p2 with its discriminator."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("packages")
    small = Architecture(width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
    network = EdgeMAE(small).initialise(torch.Generator().manual_seed(0))
    discriminators = [Discriminator(DiscriminatorArchitecture(widths=(4, 8)))]
    card = {"training": {"people": ["p1"]}, "discriminator_training": {"people": ["p2"]}}
    for name in ("p1", "p2", "p3"):
        save_model(folder / name, network, card, "float32", discriminators)
    return str(folder / "{person}")


def made_slices():
    rng = np.random.default_rng(0)
    cord = np.zeros((144, 96), bool)
    cord[:, 44:52] = True
    images = np.where(cord, 0.4, 1.0) + rng.normal(0, 0.02, (2, 144, 96))
    return images.astype(np.float32), np.stack([cord, cord])


def test_it_gives_the_logits_of_an_analysis(packages):
    method = Discriminated(packages)
    method.fit(Fold("p1", (), Path("unused")))
    images, cords = made_slices()
    maps = method.maps(images, cords)
    wanted = discriminator_logits(method.model.discriminators, standard(images), cords, None)
    np.testing.assert_allclose(maps["default score"][cords], np.clip(wanted, -CERTAIN, CERTAIN)[cords], atol=1e-6)
    assert (maps["default score"][~cords] == -CERTAIN).all()
    names = [variant.name for variant in scores_of(method, maps)]
    assert names[:2] == ["default score, 0 px, max", "default score, 0 px"]


def test_it_rebuilds_in_the_middle_of_a_standard_slice(packages):
    method = Rebuilt(packages)
    method.fit(Fold("p2", (), Path("unused")))
    images, cords = made_slices()
    maps = method.maps(images, cords)
    assert set(maps) == {"AnoMap", "signed residual", "uncertainty"}
    for values in maps.values():
        assert values.shape == images.shape
        assert not values[~cords].any()
    # |x − μ| is the signed residual times the cord's level, which is about .4 of the range.
    ratio = maps["AnoMap"][cords] / np.abs(maps["signed residual"][cords])
    assert np.median(ratio) == pytest.approx(np.median(standard(images)[cords]), rel=0.1)


def test_the_network_sees_columns_from_front_to_back(packages, monkeypatch):
    given = []

    def untouched(network, images, cords, config):
        given.append(images[0, images.shape[1] // 2])
        return Reconstruction(images * 0, images, images * 0, 1, "cpu")

    monkeypatch.setattr(learned, "monte_carlo", untouched)
    images, cords = np.zeros((1, 144, 96), np.float32), np.zeros((1, 144, 96), bool)
    cords[:, 20:120, 40:46] = True
    images[cords], images[:, 20:120, 46:60] = 1, 0.5  # darkness behind the cord, some light in front of it
    method = Rebuilt(packages)
    method.fit(Fold("p2", (), Path("unused")))
    maps = method.maps(images, cords)
    assert np.flatnonzero(given[0] == 0.5).max() < np.flatnonzero(given[0] == 1).min()
    np.testing.assert_array_equal(maps["AnoMap"], images)
    np.testing.assert_array_equal(maps["signed residual"] > 0, cords)


@pytest.mark.parametrize("method", [Discriminated, Rebuilt])
@pytest.mark.parametrize("training", [{}, {"people": 3}])
def test_a_package_that_does_not_say_whom_it_learnt_from_is_not_tested(packages, tmp_path, method, training):
    copytree(packages.format(person="p3"), tmp_path / "p3")
    update_card(tmp_path / "p3", training=training, discriminator_training=training)
    with pytest.raises(UsageError, match="does not say whom"):
        method(str(tmp_path / "{person}")).fit(Fold("p3", (), Path("unused")))


@pytest.mark.parametrize(("method", "person"), [(Discriminated, "p2"), (Rebuilt, "p1")])
def test_whoever_was_learnt_from_is_not_tested(packages, method, person):
    with pytest.raises(UsageError, match=f"has learnt from {person}"):
        method(packages).fit(Fold(person, (), Path("unused")))
