import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_analysis import made_analysis

from U2ADLib import __version__, cli
from U2ADLib.cancel import Cancellation
from U2ADLib.cli import main
from U2ADLib.config import SEGMENT_NAMES
from U2ADLib.device import choose_device
from U2ADLib.errors import Cancelled
from U2ADLib.io import write_volume
from U2ADLib.report import write_results
from U2ADLib.roi import labels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def neck(phantom, tiny_model, tmp_path_factory):
    """Arguments that analyse the phantom, all but --out."""
    folder = tmp_path_factory.mktemp("neck")
    words = ["analyse", str(folder / "neck.nii.gz"), "--model", str(tiny_model), "--device", "cpu"]
    write_volume(words[1], phantom.volume)
    for name in ("cord", "discs"):
        write_volume(folder / f"{name}.nii.gz", getattr(phantom, name))
        words += [f"--{name}", str(folder / f"{name}.nii.gz")]
    return words


def python(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **options)


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# Start-up and arguments


def test_help_and_import_are_light():
    code = """
import sys, U2ADLib, U2ADLib.cli
try:
    U2ADLib.cli.main(["analyse", "--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "numpy", "scipy", "skimage", "SimpleITK", "PIL", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""
    process = python("-c", code, stdout=subprocess.PIPE)
    assert "--cancel-on-stdin-close" in process.communicate()[0]
    assert process.returncode == 0


def test_the_module_is_the_command():
    process = python("-m", "U2ADLib", "--version", stdout=subprocess.PIPE)
    assert process.communicate()[0] == f"u2ad {__version__}\n"
    assert process.returncode == 0


def test_conventions_are_those_of_the_labels():
    assert ("auto", *labels.CONVENTIONS) == cli.CONVENTIONS


def test_every_analysis_option_reaches_the_analysis():
    from U2ADLib.batch import Options

    given = {
        "series": "1.2.3", "cord_convention": "sct", "disc_convention": "spineps", "shift_levels": -1, "slices": "3",
        "model": "mine", "device": "cuda:1", "k": 4, "scheme": "random", "seed": 7, "region_model": "other",
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    parsed = cli.build_parser().parse_args(["analyse", "image", "--out", "out", *words])
    assert cli._pick(Options, parsed) == Options(**given)
    assert Options(**given) != Options()
    parsed = cli.build_parser().parse_args(["analyse", "image", "--out", "out"])
    assert cli._pick(Options, parsed) == Options()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["analyze"], "invalid choice"),
        (["analyse", "image"], "required: --out"),
        (["analyse", "image", "--out", "o", "--disc-convention", "mine"], "invalid choice: 'mine'"),
        (["analyse", "image", "--out", "o", "--shift-levels", "one"], "invalid int value"),
        (["analyse", "image", "--out", "o", "--over"], "unrecognized arguments: --over"),
        (["batch", "folder", "--out", "o", "--workers", "0"], "0 is not a positive number"),
        (["analyse", "image", "--out", "o", "--seed", "-1"], "'-1' is not a seed"),
        (["pretrain", "data", "--out", "o", "--seed", str(2**63)], "is not a seed"),
        (["simulate", "--out", "o", "--lesion", "C4-5:0.5:big"], "C4-5:0.5:4x12"),
        (["models"], "required: COMMAND"),
    ],
)
def test_usage_errors_of_the_parser(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "value"), [("segment", "0"), ("segment", "nan"), ("segment", "-1"), ("patient", "x")])
def test_thresholds_are_above_0(kind, value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["relabel", "results", "image", "--out", "o", f"--{kind}-threshold", value])
    assert end.value.code == 2
    assert f"'{value}' is not a threshold: give a number above 0" in capsys.readouterr().err


# Exit codes and messages


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--slices": "some"}, 2, "'all', 'middle' or a positive number"),
        ({"--k": "1"}, 2, "k must be at least 2"),
        ({"--device": "abacus"}, 2, "Unknown device 'abacus'"),
        ({"--discs": None, "--region-model": "none", "--shift-levels": "1"}, 2, "Levels can only be shifted"),
        ({"--cord": None, "--region-model": "none"}, 3, "No cord mask was given"),
        ({"--cord": "none.nii.gz"}, 3, "none.nii.gz"),
        ({"--disc-convention": "spineps"}, 3, "not in the convention of SPINEPS"),
        ({"--model": "unheard-of"}, 4, "There is no model 'unheard-of'"),
        ({"--device": "mps"}, 4, "cannot be used on this computer"),
    ],
)
@pytest.mark.parametrize("progress", ["none", "json"])
def test_exit_codes(neck, tmp_path, capsys, change, code, message, progress):
    if "mps" in change.values() and sys.platform == "darwin":
        pytest.skip("this computer may have that device")
    words = dict(zip(neck[2::2], neck[3::2], strict=True)) | change | {"--progress": progress}
    options = [word for pair in words.items() if pair[1] is not None for word in pair]
    assert main([*neck[:2], *options, "--out", str(tmp_path / "out")]) == code
    output = capsys.readouterr()
    error = output.err.splitlines()[-1]
    assert error.startswith("u2ad: error: ")
    assert message in error
    if progress == "json":
        last = json_lines(output.out)[-1]
        assert last == {"error": error.removeprefix("u2ad: error: "), "exit_code": code}
    else:
        assert output.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "package"), [("torch", "torch"), ("SimpleITK", "SimpleITK"), ("PIL", "Pillow")])
def test_a_missing_package_is_an_installation_error(neck, tmp_path, module, package):
    code = f"""
import sys
sys.modules[{module!r}] = None  # importing it now raises ModuleNotFoundError
from U2ADLib.cli import main
sys.exit(main({[*neck, "--out", str(tmp_path / "out")]}))
"""
    process = python("-c", code, stderr=subprocess.PIPE)
    error = process.communicate()[1]
    assert process.returncode == 4
    assert error.splitlines()[-1].startswith(f"u2ad: error: The package {package} is not installed: run `pip install")
    assert list(tmp_path.iterdir()) == []


def test_a_bug_is_not_hidden(monkeypatch):
    import U2ADLib.package

    monkeypatch.setattr(U2ADLib.package, "list_models", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["models", "list"])


# analyse


def test_analyse(neck, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*neck, "--out", str(out), "--progress", "json"]) == 0
    lines = json_lines(capsys.readouterr().out)
    stages = [line for line in lines if "stage" in line]
    assert {line["stage"] for line in stages} >= {"Reading", "Preparing", "Reconstruction", "Scoring", "Writing"}
    assert all(line["done"] <= line["total"] for line in stages)
    assert stages[-1]["stage"] == "Writing"
    assert stages[-1]["done"] == stages[-1]["total"]
    assert lines[-1]["result"] == str(out)
    assert "Disc labels: Spinal Cord Toolbox" in lines[-1]["summary"]
    record = json.loads((out / "analysis.json").read_text())
    assert {segment["name"] for segment in record["segments"]} | set(record["missing"]) == set(SEGMENT_NAMES.values())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_analyse_for_a_person(neck, tmp_path, capsys):
    assert main([*neck, "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert "Reconstruction: done" in output.err
    assert "C4-5" in output.out
    assert "{" not in output.out


def test_results_are_not_overwritten_unasked(neck, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*neck, "--out", str(out), "--seed", "1"]) == 0
    before = (out / "analysis.json").read_bytes()
    assert main([*neck, "--out", str(out)]) == 3
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "analysis.json").read_bytes() == before
    assert main([*neck, "--out", str(out), "--overwrite"]) == 0
    assert json.loads((out / "analysis.json").read_text())["provenance"]["seed"] == 0


def test_the_seed_is_the_result(neck, tmp_path):
    scores = {}
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert main([*neck, "--out", str(tmp_path / name), "--seed", seed, "--progress", "none"]) == 0
        scores[name] = json.loads((tmp_path / name / "analysis.json").read_text())["patient"]["score"]
    assert scores["a"] == scores["b"] != scores["c"]


# relabel


@pytest.mark.parametrize(("discs", "shift"), [((), "1"), (None, "9")])
def test_levels_cannot_be_shifted_away(monkeypatch, tmp_path, capsys, discs, shift):
    analysis = made_analysis(monkeypatch, **({} if discs is None else {"discs": discs}))
    write_results(analysis, tmp_path / "out")
    write_volume(tmp_path / "image.nii.gz", analysis.volume)
    words = ["relabel", str(tmp_path / "out"), str(tmp_path / "image.nii.gz"), "--out", str(tmp_path / "other")]
    assert main([*words, "--shift-levels", shift, "--progress", "none"]) == 2
    assert "No disc from C2/3 to C7/T1" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


# Cancelling


def test_cancellation():
    cancellation = Cancellation("Stopped: all is well.")
    cancellation.check()
    cancellation.request()
    with pytest.raises(Cancelled, match="all is well"):
        cancellation.check()


def test_signals_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    cancellation = Cancellation()
    with cancellation.on_signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Cancelled):
            cancellation.check()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def cancelled_run(neck, out, stop, *options):
    """Start a run that would last for minutes and call `stop(process)` at its first line of progress."""
    words = [*neck, "--out", str(out), "--k", "3000", "--progress", "json", *options]
    process = python(
        "-m", "U2ADLib", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=out.parent
    )
    first = json.loads(process.stdout.readline())
    if "--cancel-on-stdin-close" in options:
        assert first == {"pid": process.pid}
        first = json.loads(process.stdout.readline())
    assert "stage" in first
    stop(process)
    output = "" if process.stdout.closed else process.stdout.read()
    error = process.stderr.read()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    return process.wait(), json_lines(output), error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(sys.platform == "win32", reason="no signals between processes")
def test_a_signal_leaves_nothing_behind(neck, tmp_path, number):
    code, lines, error = cancelled_run(neck, tmp_path / "out", lambda process: process.send_signal(number))
    assert code == 130
    assert lines[-1] == {"error": "Cancelled: nothing was written.", "exit_code": 130}
    assert error == "u2ad: error: Cancelled: nothing was written.\n"
    assert list(tmp_path.iterdir()) == []


def test_closed_standard_input_cancels_when_asked_to(neck, tmp_path):
    code, lines, _ = cancelled_run(
        neck, tmp_path / "out", lambda process: process.stdin.close(), "--cancel-on-stdin-close"
    )
    assert code == 130
    assert lines[-1]["exit_code"] == 130
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_went_away_cancels(neck, tmp_path):
    code, _, error = cancelled_run(neck, tmp_path / "out", lambda process: process.stdout.close())
    assert (code, error) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_never_read_otherwise(neck, tmp_path):
    process = python(
        "-m", "U2ADLib", *neck, "--out", str(tmp_path / "out"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "out" / "analysis.json").exists()


# Models


def test_models_commands(tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.setenv("U2AD_MODELS", str(tmp_path / "mine"))
    assert main(["models", "verify", str(tiny_model)]) == 0
    assert main(["models", "install", str(tiny_model), "--name", "first"]) == 0
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("first")] == [
        ["first", "analysis", "yours"]
    ]
    assert main(["models", "show", "first"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "first"
    assert main(["models", "remove", "first"]) == 0
    assert main(["models", "remove", "first"]) == 4
    assert "no model 'first'" in capsys.readouterr().err


def test_devices(capsys):
    assert main(["devices", "--progress", "none"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("cpu ")
    assert main(["devices", "--progress", "json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["devices"]
    assert found[-1]["device"] == "cpu"
    for device in found:
        choose_device(device["device"])  # whatever is listed can be chosen
