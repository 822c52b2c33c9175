"""Models for another contrast than T2w: found by name, stated in the card, not judged as T2w."""

import json

import numpy as np
import pytest

from U2ADLib.analysis import analyse
from U2ADLib.cli import main
from U2ADLib.config import Architecture, Purpose
from U2ADLib.dataset import find_cases
from U2ADLib.errors import InputError, UsageError
from U2ADLib.io import write_volume
from U2ADLib.package import load_model
from U2ADLib.roi.doubt import refuse_other_contrast
from U2ADLib.simulation.phantom import PhantomConfig, simulate_phantom
from U2ADLib.training.pretrain import PretrainConfig
from U2ADLib.training.recipe import pretrain_from_folder

TINY = Architecture(width=32, heads=4, depth=1, decoder_width=16, decoder_heads=2, decoder_depth=1)
ONE_EPOCH = PretrainConfig(epochs=1, batch=4, warmup_steps=1)
T1W = Purpose("T1w")


@pytest.fixture(scope="module")
def neck():
    return simulate_phantom(PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(5, 220, 180)), 0)


@pytest.fixture(scope="module")
def dark_fluid(neck):
    """The neck with fluid half as bright as the cord and nothing brighter than it nearby, as in T1w."""
    array = neck.volume.array.astype(np.float32)
    cord = np.median(array[neck.cord.array > 0])
    return neck.volume.with_array(np.where(neck.cord.array > 0, array, np.minimum(array, cord / 2)))


@pytest.fixture(scope="module")
def folder(neck, dark_fluid, tmp_path_factory):
    anat = tmp_path_factory.mktemp("bids") / "sub-a" / "anat"
    anat.mkdir(parents=True)
    for name, volume in (("T2w", neck.volume), ("acq-STIR_T2w", neck.volume), ("T1w", dark_fluid)):
        write_volume(anat / f"sub-a_{name}.nii.gz", volume)
        write_volume(anat / f"sub-a_{name}_label-SC_seg.nii.gz", neck.cord)
    return anat.parent.parent


@pytest.mark.parametrize(
    ("contrast", "names"),
    [("T1w", ["sub-a_T1w"]), ("STIR", ["sub-a_acq-STIR_T2w"]), ("T2w", ["sub-a_T2w", "sub-a_acq-STIR_T2w"])],
)
def test_images_of_a_contrast_are_found_with_their_masks(folder, contrast, names):
    found = find_cases(folder, contrast)
    assert sorted(case.id for case in found) == names
    assert {case.cord.name for case in found} == {f"{name}_label-SC_seg.nii.gz" for name in names}


def test_only_where_fluid_is_known_to_be_bright_is_it_asked_for():
    cords = np.zeros((1, 64, 64), bool)
    cords[0, 10:50, 28:36] = True
    images = np.where(cords, 0.6, 0.2).astype(np.float32)
    for contrast in ("T2w", "STIR"):
        with pytest.raises(InputError, match=r"0\.33 times as bright"):
            refuse_other_contrast("neck", images, cords, Purpose(contrast))
    assert refuse_other_contrast("neck", images, cords, T1W) == ()
    with pytest.raises(InputError, match="no signal"):
        refuse_other_contrast("neck", images * ~cords, cords, T1W)


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "t1"
    return pretrain_from_folder(
        folder, out, purpose=T1W, threshold_phantoms=0, architecture=TINY, config=ONE_EPOCH, device="cpu"
    )


def test_a_model_states_its_contrast_and_is_used_for_it(model, neck, dark_fluid):
    card = json.loads((model / "model.json").read_text())
    assert card["purpose"] == {"contrast": "T1w", "region": "cervical spinal cord"}
    assert load_model(model).purpose == T1W
    given = {"cord": neck.cord, "discs": neck.discs, "device": "cpu", "slices": "middle"}
    assert len(analyse(dark_fluid, model=load_model(model), **given).segments) == 6
    with pytest.raises(InputError, match="does not look T2-weighted"):
        analyse(dark_fluid, **given)


def test_simulated_necks_serve_no_other_contrast(folder, model, tmp_path, capsys):
    with pytest.raises(UsageError, match="Simulated necks are T2-weighted"):
        pretrain_from_folder(folder, tmp_path / "model", purpose=T1W, phantoms=2, device="cpu")
    assert main(["thresholds", str(model), "--phantoms", "100"]) == 2
    assert "--healthy" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_by_default_none_are_asked_for(folder, tmp_path):
    """The command line trains for another contrast without a word about phantoms."""
    out = tmp_path / "stir"
    arguments = ["pretrain", str(folder), "--contrast", "STIR", "--region", "cervical cord, fat suppressed"]
    assert main([*arguments, "--epochs", "1", "--context", "0", "--progress", "none", "--out", str(out)]) == 0
    card = json.loads((out / "model.json").read_text())
    assert card["purpose"] == {"contrast": "STIR", "region": "cervical cord, fat suppressed"}
    assert card["thresholds"] == []
