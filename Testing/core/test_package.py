import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from U2ADLib import package
from U2ADLib.config import Architecture
from U2ADLib.errors import ModelError
from U2ADLib.mae import EdgeMAE
from U2ADLib.package import install_model, list_models, load_model, remove_model, save_model, verify_model


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A small package outside the user's models, and an empty place for those."""
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "mine"))
    network = EdgeMAE(Architecture(depth=1, decoder_depth=1)).initialise(torch.Generator().manual_seed(0))
    thresholds = [{"segment": 0.1, "patient": 0.2, "slices": "all", "origin": "made up"}]
    save_model(tmp_path / "small", network, {"thresholds": thresholds}, dtype="float32")
    return tmp_path / "small", network


def test_round_trip(made):
    folder, network = made
    model = load_model(folder)
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)
    assert model.network.architecture == network.architecture
    assert model.thresholds_for("all").segment == 0.1
    assert model.thresholds_for("middle") is None
    assert {p.name for p in folder.iterdir()} == {"model.json", "weights.safetensors"}


def test_half_precision_is_computed_in_single(made, tmp_path):
    _, network = made
    save_model(tmp_path / "half", network, {})
    loaded = load_model(tmp_path / "half").network.state_dict()
    for name, value in network.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float())


def test_one_changed_byte_is_found(made):
    folder, _ = made
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match="do not match their checksum"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(format=2), "update U2AD"),
        (lambda card: card.pop("architecture"), "lacks its architecture"),
        (lambda card: card["architecture"].update(depth=2), "do not fit its card"),
        (lambda card: card["architecture"].update(attention="new"), "newer version"),
    ],
)
def test_cards_that_do_not_fit(made, change, message):
    folder, _ = made
    card = json.loads((folder / "model.json").read_text())
    change(card)
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_install_from_folder_and_zip_list_and_remove(made, tmp_path):
    folder, _ = made
    install_model(folder)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for part in ("model.json", "weights.safetensors"):
            packed.write(folder / part, f"deep/inside/{part}")
    install_model(tmp_path / "packed.zip", name="second")
    assert {e.name for e in list_models() if not e.bundled} == {"small", "second"}
    verify_model(package.find_model("second"))
    with pytest.raises(ModelError, match="already"):
        install_model(folder)
    remove_model("small")
    assert {e.name for e in list_models() if not e.bundled} == {"second"}
    with pytest.raises(ModelError, match="no model 'small'"):
        load_model("small")


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_an_installed_package_is_open_to_all(made):
    assert install_model(made[0]).folder.stat().st_mode & 0o777 == 0o755


def test_what_may_not_be_looked_into_is_told(made, tmp_path, monkeypatch):
    """Packages of others in a shared folder; the tests may run as root, whom nothing stops."""
    install_model(made[0])
    install_model(made[0], "private")
    locked = tmp_path / "mine" / "private"
    originals = {name: getattr(Path, name) for name in ("stat", "read_text", "iterdir")}

    def guarded(name):
        def call(path, *arguments, **options):
            if path.parent == locked or (name == "iterdir" and path == locked):
                raise PermissionError(13, "Permission denied")
            return originals[name](path, *arguments, **options)

        return call

    for name in originals:
        monkeypatch.setattr(Path, name, guarded(name))
    problems = {entry.name: entry.problem for entry in list_models() if not entry.bundled}
    assert problems["small"] is None
    assert "Permission denied" in problems["private"]
    for given in ("private", locked):
        with pytest.raises(ModelError, match="'private' cannot be read"):
            package.find_model(given)
    locked = tmp_path / "mine"
    assert all(entry.bundled for entry in list_models())
    assert package.find_model().is_dir()


def test_refused_archives_leave_nothing(made, tmp_path):
    folder, _ = made
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as packed:
        for place in ("a", "b"):
            packed.write(folder / "model.json", f"{place}/model.json")
    (tmp_path / "text.zip").write_text("not a zip")
    for name, message in (("twice.zip", "must hold one"), ("text.zip", "nor a readable zip"), ("none.zip", "no file")):
        with pytest.raises(ModelError, match=message):
            install_model(tmp_path / name)
    for name in ("../escape", "default", ".hidden"):
        with pytest.raises(ModelError, match="cannot be the name"):
            install_model(folder, name=name)
    assert not any((tmp_path / "mine").iterdir())


def test_bundled_models_cannot_be_removed(made):
    bundled = [e for e in list_models() if e.bundled]
    assert bundled
    assert all(e.problem is None for e in bundled)
    with pytest.raises(ModelError, match="part of U2AD"):
        remove_model(bundled[0].name)


def test_listing_needs_no_torch():
    code = "import sys, U2ADLib.package as p; p.list_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
