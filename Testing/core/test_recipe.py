"""From a folder to a model package: who trains, who validates, what the card says."""

import json
from dataclasses import replace

import pytest

from U2ADLib.cli import main
from U2ADLib.config import Architecture
from U2ADLib.errors import InputError, UsageError
from U2ADLib.io import write_volume
from U2ADLib.package import load_model
from U2ADLib.simulation.phantom import PhantomConfig, simulate_phantom
from U2ADLib.training.discriminator import DiscriminatorConfig
from U2ADLib.training.discriminator_recipe import DEFAULT_SCORE, discriminators_from_folder
from U2ADLib.training.phantoms import TRAINING_SEEDS, phantom_seeds, phantom_slices
from U2ADLib.training.pretrain import PretrainConfig
from U2ADLib.training.recipe import SCORE, pretrain_from_folder

TINY = Architecture(width=32, heads=4, depth=1, decoder_width=16, decoder_heads=2, decoder_depth=1)
ONE_EPOCH = PretrainConfig(epochs=1, batch=4, warmup_steps=1)
SMALL = PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(5, 220, 180))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three people with cord masks and one without."""
    folder = tmp_path_factory.mktemp("people")
    for number, name in enumerate(("sub-a", "sub-b", "sub-c", "sub-nomask")):
        anat = folder / name / "anat"
        anat.mkdir(parents=True)
        phantom = simulate_phantom(SMALL, number)
        write_volume(anat / f"{name}_T2w.nii.gz", phantom.volume)
        if name != "sub-nomask":
            write_volume(anat / f"{name}_T2w_label-SC_seg.nii.gz", phantom.cord)
    return folder


def train(data, out, **options):
    folder = pretrain_from_folder(
        data, out, **{"architecture": TINY, "config": ONE_EPOCH, "device": "cpu", "threshold_phantoms": 0} | options
    )
    return json.loads((folder / "model.json").read_text())


def test_nobody_trains_and_validates(people, tmp_path):
    card = train(people, tmp_path / "model")
    trained, held = card["training"]["people"], card["training"]["validation_people"]
    assert len(held) == 1
    assert sorted(trained + held) == ["sub-a", "sub-b", "sub-c"]
    assert set(card["metrics"]["held_out"]) == {f"held_out_{name}" for name in ("mse", "psnr", "ssim", "variance")}
    assert card["scores"]["paper"]["erosion_px"] == SCORE.erosion_px
    assert load_model(tmp_path / "model").scores == {"paper": SCORE}


def test_who_validates_is_drawn_from_the_people_named(people, tmp_path):
    named = ["sub-a", "sub-b", "sub-c"]
    card = train(people, tmp_path / "model", people=named)
    trained, held = card["training"]["people"], card["training"]["validation_people"]
    assert len(held) == 1
    assert sorted(trained + held) == named


def test_people_are_chosen_by_name(people, tmp_path):
    other = people / "sub-c" / "anat" / "sub-c_T2w.nii.gz"
    card = train(people, tmp_path / "model", people=["sub-b"], validation=[str(other)])
    assert card["training"]["people"] == ["sub-b"]
    assert card["training"]["validation_people"] == ["sub-c"]


def test_what_cannot_be_learnt_from(people, tmp_path):
    with pytest.raises(InputError, match="sub-a would train and validate"):
        train(people, tmp_path / "m", people=["sub-a"], validation=["sub-a"])
    with pytest.raises(InputError, match="no image with a cord mask of sub-x"):
        train(people, tmp_path / "m", people=["sub-x"])
    with pytest.raises(InputError, match="'sub-nomask'"):
        train(people, tmp_path / "m", validation=["sub-nomask"])
    with pytest.raises(InputError, match="no slice to learn from"):
        train(people / "sub-nomask" / "anat", tmp_path / "m")
    with pytest.raises(InputError, match="needs at least 19 lesion-free phantoms, there are 3"):
        train(people, tmp_path / "m", threshold_phantoms=3)
    assert not (tmp_path / "m" / "model.json").exists()


def test_phantoms_are_kept_and_have_seeds_of_their_own(people, tmp_path):
    told = []
    card = train(people, tmp_path / "model", phantoms=2, progress=lambda *step: told.append(step))
    assert card["training"]["phantoms"] == 2
    assert str(TRAINING_SEEDS) in card["training"]["phantom_seeds"]
    assert ("Phantoms", 2, 2) in told
    told.clear()
    again = phantom_slices(2, 0, tmp_path / "model" / "training", lambda *step: told.append(step))
    assert told == []
    assert set(again.people) == {f"phantom-{TRAINING_SEEDS}", f"phantom-{TRAINING_SEEDS + 1}"}
    assert again.phantom.all()


def test_phantoms_that_models_are_judged_on_are_refused(people, tmp_path):
    assert phantom_seeds(3, 2) == range(1_020_000, 1_020_003)
    assert phantom_seeds(10_000, 99).stop == 2_000_000
    for count, seed in ((1, 100), (10_001, 99), (1, 200), (1, -1)):
        with pytest.raises(UsageError, match="a seed from 0 to 99"):
            phantom_seeds(count, seed)
    with pytest.raises(UsageError, match="judged on"):
        train(people, tmp_path / "model", phantoms=2, config=replace(ONE_EPOCH, seed=100))
    assert not (tmp_path / "model").exists()
    assert not phantom_seeds(0, 100)


def test_the_command(people, tmp_path, capsys):
    words = ["pretrain", str(people), "--people", "sub-a", "--out", str(tmp_path / "model"), "--epochs", "1"]
    assert main([*words, "--threshold-phantoms", "0", "--outside", "keep", "--context", "1", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    assert "Training on" in output.err
    assert str(tmp_path / "model") in output.out
    assert main(["models", "verify", str(tmp_path / "model")]) == 0
    network = load_model(tmp_path / "model").network
    assert (network.architecture.outside, network.architecture.context) == ("keep", 1)
    assert network.architecture.depth == 24


def test_context_needs_something_to_show():
    with pytest.raises(UsageError, match="outside = 'keep'"):
        Architecture(context=1)


def test_cords_that_lack_are_found_where_that_is_wanted(people, tmp_path):
    card = train(people, tmp_path / "model", people=["sub-a", "sub-nomask"], region_model="default")
    assert card["training"]["people"] == ["sub-a", "sub-nomask"]
    assert card["training"]["found_cords"] == ["sub-nomask"]
    with pytest.raises(InputError, match="sub-nomask"):
        train(people, tmp_path / "other", people=["sub-a", "sub-nomask"])


# ----------------------------------------------------------------------------------------------------- discriminators

BRIEF = DiscriminatorConfig(examples=50, steps=2, warmup_steps=1)


def discriminators(data, out, tiny_model, **options):
    settings = {"model": tiny_model, "phantoms": 0, "count": 1, "config": BRIEF, "device": "cpu"} | options
    return load_model(discriminators_from_folder(data, out, **settings))


def test_discriminators_learn_from_everybody_but_who_is_held_out(people, tiny_model, tmp_path):
    source = load_model(tiny_model)
    model = discriminators(people, tmp_path / "model", tiny_model, held_out=["sub-b"], count=2)
    card = model.card["discriminator_training"]
    assert (card["people"], card["held_out_people"]) == (["sub-a", "sub-c"], ["sub-b"])
    assert len(model.discriminators) == 2
    assert model.sha256.startswith(source.sha256)  # the network is the source's
    assert model.scores["default"] == DEFAULT_SCORE
    assert model.thresholds == source.thresholds  # of its other score; the new one has none


def test_discriminators_learn_from_simulated_necks_alone(tiny_model, tmp_path):
    model = discriminators(None, tmp_path / "model", tiny_model, phantoms=2)
    card = model.card["discriminator_training"]
    assert (card["people"], card["phantoms"]) == ([], 2)
    assert card["slices"] == len(phantom_slices(2, 0, tmp_path / "model" / "training", lambda *step: None))


def test_what_no_discriminator_can_learn_from(people, tiny_model, tmp_path):
    with pytest.raises(UsageError, match="nothing to learn from"):
        discriminators(None, tmp_path / "m", tiny_model)
    with pytest.raises(InputError, match="no image with a cord mask of sub-nomask"):
        discriminators(people, tmp_path / "m", tiny_model, held_out=["sub-nomask"])
    assert main(["train-discriminator", "--phantoms", "0", "--out", str(tmp_path / "m"), "--device", "cpu"]) == 2
    assert not (tmp_path / "m").exists()
