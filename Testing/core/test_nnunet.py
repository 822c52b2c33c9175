"""The cord from an nnU-Net: the program is run as it wants to be, in its own process; a stand-in takes its place."""

import csv
import json
import sys

import numpy as np
import pytest

from U2ADLib.cli import main
from U2ADLib.errors import Cancelled, InputError, InstallationError, ModelError
from U2ADLib.io import write_volume
from U2ADLib.roi.nnunet import PROGRAM, check_nnunet, cord_by_nnunet, nnunet_checksum

STAND_IN = """#!{python}
import argparse, pathlib, sys, time
sys.path[:0] = {path!r}
import numpy as np
from U2ADLib.io import read_volume, write_volume
parser = argparse.ArgumentParser()
for name in "iomf":
    parser.add_argument("-" + name, nargs="+" if name == "f" else None, required=True)
for name in ("device", "npp", "nps"):
    parser.add_argument("-" + name)
parser.add_argument("--disable_progress_bar", action="store_true")
options = parser.parse_args()
{action}
volume = read_volume(pathlib.Path(options.i, "volume_0000.nii.gz"))
out = pathlib.Path(options.o)
out.mkdir()
pathlib.Path({log!r}).write_text(" ".join([*options.f, options.device]))
cord = np.zeros(volume.array.shape, np.uint8)
cord[tuple(slice(n // 4, 3 * n // 4) for n in cord.shape)] = 7
cord[0] = 3
write_volume(out / "volume.nii.gz", volume.with_array(cord))
"""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    for fold in (0, 3):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(b"a pickle that nobody loads")
    labels = {"background": 0, "disc": 3, "spinal_cord": 7}
    describe(folder, {"channel_names": {"0": "T2w"}, "labels": labels, "file_ending": ".nii.gz"})
    (folder / "plans.json").write_text("{}")
    return folder


def describe(folder, description):
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def install(tmp_path, monkeypatch):
    def make(action=""):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / PROGRAM
        text = STAND_IN.format(python=sys.executable, path=sys.path, action=action, log=str(tmp_path / "log"))
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return tmp_path / "log"

    return make


def test_its_cord_lies_on_the_image(phantom, model, install):
    log, told = install(), []
    cord = cord_by_nnunet(phantom.volume, model, device="cpu", say=told.append)
    assert cord.same_grid(phantom.volume)
    expected = np.zeros(phantom.volume.array.shape, np.uint8)
    expected[tuple(slice(n // 4, 3 * n // 4) for n in expected.shape)] = 1
    expected[0] = 0
    np.testing.assert_array_equal(cord.array, expected)
    assert log.read_text() == "0 3 cpu"
    assert "pickles" in told[0]


def test_what_cannot_be_run_is_said_before(model, install, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallationError, match="pip install nnunetv2"):
        check_nnunet(model)
    install()
    assert check_nnunet(model) == (0, 3)
    with pytest.raises(ModelError, match="no model folder"):
        check_nnunet(tmp_path)
    for labels in ({"background": 0, "disc": 1, "bone": 2}, {"background": 0, "cord": [1, 2]}, None):
        describe(model, {"channel_names": {"0": "T2w"}, "labels": labels})
        with pytest.raises(ModelError, match="label"):
            check_nnunet(model)
    describe(model, {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "lesion": 1}})
    check_nnunet(model)  # the only one it has
    before = nnunet_checksum(model)
    (model / "plans.json").write_text("{} ")
    assert nnunet_checksum(model) != before
    for path in model.glob("fold_*/*"):
        path.unlink()
    with pytest.raises(ModelError, match="not trained to its end"):
        check_nnunet(model)


def test_its_failures_are_told(phantom, model, install):
    install('sys.exit("CUDA error: no kernel image")')
    with pytest.raises(InputError, match=f"{phantom.volume.name}: nnU-Net failed: .*no kernel image"):
        cord_by_nnunet(phantom.volume, model, device="cpu")
    install("sys.exit(0)")
    with pytest.raises(InputError, match="without a result"):
        cord_by_nnunet(phantom.volume, model, device="cpu")
    install()
    describe(model, {"channel_names": {"0": "T2w"}, "labels": {"cord": 5}})
    with pytest.raises(InputError, match="found no spinal cord"):
        cord_by_nnunet(phantom.volume, model, device="cpu")


def test_cancelling_stops_it(phantom, model, install, tmp_path):
    log = install("time.sleep(600)")
    calls = []

    def progress(stage, done, total):
        calls.append(stage)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        cord_by_nnunet(phantom.volume, model, device="cpu", progress=progress)
    assert not log.exists()


TRUE_CORD = """
volume = read_volume(pathlib.Path(options.i, "volume_0000.nii.gz"))
if not volume.array.any():
    sys.exit("nothing to see")
pathlib.Path(options.o).mkdir()
cord = 7 * (np.load({cord!r}) > 0)
write_volume(pathlib.Path(options.o, "volume.nii.gz"), volume.with_array(cord.astype(np.uint8)))
sys.exit()
"""


@pytest.fixture
def finds_the_cord(phantom, install, tmp_path):
    np.save(tmp_path / "cord.npy", phantom.cord.array)
    install(TRUE_CORD.format(cord=str(tmp_path / "cord.npy")))


def test_a_batch_goes_on_and_says_who_found_the_cord(phantom, model, finds_the_cord, tiny_model, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    write_volume(folder / "bad.nii.gz", phantom.volume.with_array(np.zeros_like(phantom.volume.array)))
    write_volume(folder / "good.nii.gz", phantom.volume)
    run = ["batch", str(folder), "--out", str(out), "--model", str(tiny_model), "--region-model", "none"]
    run += ["--nnunet", str(model), "--cord-convention", "spineps", "--device", "cpu", "--progress", "none"]
    assert main(run) == 3
    with open(out / "summary.csv", newline="", encoding="utf-8") as stream:
        bad, good = csv.DictReader(stream)
    assert (bad["status"], good["status"]) == ("refused", "done")
    assert "nothing to see" in bad["message"]
    record = json.loads((out / "good" / "analysis.json").read_text())
    assert record["provenance"]["configuration"]["cord_convention"] == "nnunet"
    assert record["notes"][0] == f"The cord was found by the nnU-Net model {model.name}: look at its outline."
    assert not any("Spinal Cord Toolbox" in note for note in record["notes"])


@pytest.mark.parametrize("defect", ["#!/nowhere/python\n", "#!/bin/sh\necho No module named torch\nexit 1\n"])
def test_a_batch_stops_before_it_begins_where_it_cannot_start(
    phantom, model, install, tiny_model, tmp_path, capsys, defect
):
    """Also where some cases would not need it."""
    install()
    (tmp_path / "bin" / PROGRAM).write_text(defect)
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for name in "abc":
        write_volume(folder / f"{name}.nii.gz", phantom.volume)
    write_volume(folder / "a_seg.nii.gz", phantom.cord)
    run = ["batch", str(folder), "--out", str(out), "--model", str(tiny_model), "--region-model", "none"]
    assert main([*run, "--nnunet", str(model), "--device", "cpu", "--progress", "none"]) == 4
    assert capsys.readouterr().err.count("cannot be started") == 1
    assert not out.exists()


def test_locate_says_who_found_the_cord(phantom, model, finds_the_cord, tmp_path):
    for name in ("volume", "discs"):
        write_volume(tmp_path / f"{name}.nii.gz", getattr(phantom, name))
    run = ["locate", str(tmp_path / "volume.nii.gz"), "--discs", str(tmp_path / "discs.nii.gz"), "--progress", "none"]
    run += ["--nnunet", str(model), "--cord-convention", "spineps", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(run) == 0
    record = json.loads((tmp_path / "out" / "region.json").read_text())
    assert record["cord"] == "nnunet"
    assert model.name in record["notes"][0]
    assert not any("Cord mask" in note for note in record["notes"])


def test_the_command_uses_it(phantom, model, install, tmp_path, capsys):
    install()
    write_volume(tmp_path / "a.nii.gz", phantom.volume)
    run = ["locate", str(tmp_path / "a.nii.gz"), "--progress", "none", "--device", "cpu", "--nnunet"]
    assert main([*run, str(tmp_path), "--out", str(tmp_path / "x")]) == 4
    assert not (tmp_path / "x").exists()
    assert main([*run, str(model), "--out", str(tmp_path / "out")]) in (0, 3)  # a box has no discs
    assert "pickles" in capsys.readouterr().err
