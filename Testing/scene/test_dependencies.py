import importlib.metadata
import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from urllib.request import url2pathname

import pytest
import slicer
import slicer.packaging
import slicer.util

from U2ADLib.errors import InstallationError
from U2ADScene import dependencies
from U2ADScene.dependencies import (
    described,
    install,
    install_pytorch_extension,
    missing,
    offline_hint,
    requirements,
)

ROOT = Path(__file__).resolve().parents[2]
PRESENT = {"torch": "2.11.0+cu128", "scikit-image": "0.26.0", "safetensors": "0.4.0", "scipy": "1.16.1"} | {
    "SimpleITK": "2.5.5",
    "numpy": "2.4.6",
    "vtk": "9.6.0",
}


@pytest.fixture
def installed(monkeypatch):
    """The distributions that there seem to be; may be changed by the test."""
    found = dict(PRESENT)

    def version(name):
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(dependencies, "version", version)
    return found


class Slicer:
    """Records what is installed by which way, and puts it among the installed ones."""

    def __init__(self, monkeypatch, app, installed):
        self.calls, self.kept, self.asked, self.installed = [], [], [], installed
        self.torch_result, self.failure = object(), None
        monkeypatch.setattr(type(app), "testingEnabled", lambda self: False)
        monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
        module = types.ModuleType("PyTorchUtils")
        module.PyTorchUtilsLogic = lambda: types.SimpleNamespace(installTorch=self.install_torch)
        monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
        monkeypatch.setattr(slicer.packaging, "pip_ensure", self.pip_ensure)
        monkeypatch.setattr(slicer.util, "pip_install", self.pip_install)

    def install_torch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
        self.calls.append(("PyTorch", askConfirmation, torchVersionRequirement))
        if self.torch_result is not None:
            self._installed(["torch>=2.2"])
        return self.torch_result

    def pip_ensure(self, requirements, prompt_install=True, requester=None):
        self.calls.append(("pip_ensure", requirements, prompt_install, requester))
        self._installed(requirements)

    def pip_install(self, requirements):
        self.calls.append(("pip_install", requirements))
        self._installed(requirements)

    def _installed(self, names):
        address = os.environ["PIP_CONSTRAINT"].split()[-1]
        self.kept.append(Path(url2pathname(address.removeprefix("file://"))).read_text().split())
        if self.failure:
            raise self.failure
        self.installed.update({name.split(">=")[0]: "9.9" for name in names})

    def yes(self, text):
        assert self.calls == []
        self.asked.append(text)
        return True


@pytest.fixture
def fakes(monkeypatch, app, installed):
    return Slicer(monkeypatch, app, installed)


def names(wanted):
    return [requirement.name for requirement in wanted]


# --- what is missing


def test_nothing_is_missing(installed, host):
    assert missing() == ()


@pytest.mark.parametrize(
    ("name", "found", "is_missing"),
    [
        ("torch", None, True),
        ("torch", "1.13.1", True),
        ("torch", "2.1.9", True),
        ("torch", "2.2.0+cpu", False),
        ("torch", "2.10.0", False),  # not less than 2.2
        ("torch", "3", False),
        ("scikit-image", "0.19.3", True),
        ("scikit-image", "0.22.0rc1", False),
        ("safetensors", "0.10", False),
        ("SimpleITK", "2.3.0rc2.dev366+gb5d60", False),
        ("numpy", "1.25.2", True),
    ],
)
def test_versions_are_compared_as_numbers(installed, host, name, found, is_missing):
    if found is None:
        del installed[name]
    else:
        installed[name] = found
    assert names(missing()) == ([name] if is_missing else [])


def test_the_ranges_are_those_of_the_package():
    with open(ROOT / "pyproject.toml", "rb") as stream:
        declared = set(tomllib.load(stream)["project"]["dependencies"])
    assert declared == {str(r) for r in requirements() if r.name != "scipy"}  # which comes with scikit-image
    needed = importlib.metadata.requires("scikit-image")
    assert any(line.startswith("scipy") for line in needed)


def test_looking_imports_nothing():
    code = (
        "import sys; sys.path[:0] = ['Testing', 'U2AD', '.']\n"
        "from slicer_bench import fixtures\n"
        "from U2ADScene import dependencies\n"
        "dependencies.missing()\n"
        "assert not {'torch', 'skimage', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_each_is_described():
    lines = described(requirements()).splitlines()
    assert lines[0].startswith("torch>=2.2 (about 200 MB")
    assert all(r.size and r.why and line.endswith(r.why) for r, line in zip(requirements(), lines, strict=True))


# --- installing


def test_everything_is_installed_after_asking_once(fakes, installed):
    for name in ("torch", "scikit-image", "safetensors"):
        del installed[name]
    assert install(missing(), fakes.yes)
    assert fakes.calls == [
        ("PyTorch", False, ">=2.2"),
        ("pip_ensure", ["scikit-image>=0.22", "safetensors>=0.4"], False, "U2AD"),
    ]
    (text,) = fakes.asked
    assert "torch>=2.2 (about 200 MB" in text
    assert "safetensors>=0.4 (below 1 MB)" in text
    assert missing() == ()


def test_slicers_own_packages_are_kept(fakes, installed, monkeypatch):
    del installed["torch"], installed["scikit-image"], installed["vtk"]
    monkeypatch.setenv("PIP_CONSTRAINT", "theirs.txt")
    install(missing(), fakes.yes)
    assert fakes.kept == [["numpy==2.4.6", "SimpleITK==2.5.5"]] * 2
    assert os.environ["PIP_CONSTRAINT"] == "theirs.txt"


def test_nothing_of_the_environment_stays(fakes, installed):
    del installed["scipy"]
    install(missing(), fakes.yes)
    assert "PIP_CONSTRAINT" not in os.environ


def test_pip_honours_what_is_kept(installed, tmp_path, monkeypatch):
    """pip itself: a version is refused that is not the kept one, also from a folder with a space in its name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "with space"))
    (tmp_path / "with space").mkdir()
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "numpy>=9"]
    with dependencies._kept_versions():
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode
    assert "The user requested (constraint) numpy==2.4.6" in result.stdout + result.stderr


def test_before_5_12_pip_is_asked_directly(fakes, installed, monkeypatch):
    del installed["safetensors"]
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    assert install(missing(), fakes.yes)
    assert fakes.calls == [("pip_install", ["safetensors>=0.4"])]


def test_saying_no_changes_nothing(fakes, installed):
    del installed["torch"], installed["scipy"]
    assert install(missing(), lambda text: False) is False
    assert fakes.calls == []


def test_nothing_to_do_asks_nothing(fakes):
    assert install((), fakes.yes)
    assert fakes.asked == []


def test_torch_may_be_declined_in_the_extension(fakes, installed):
    del installed["torch"], installed["scipy"]
    fakes.torch_result = None
    assert install(missing(), fakes.yes) is False
    assert names(missing()) == ["torch", "scipy"]


def test_without_the_pytorch_extension_the_user_is_told(fakes, installed, monkeypatch):
    del installed["torch"]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(InstallationError, match="install it in the Extensions Manager and restart Slicer") as error:
        install(missing(), fakes.yes)
    assert 'pip install --no-index --find-links FOLDER "torch>=2.2"' in str(error.value)
    assert fakes.asked == []


def test_the_pytorch_extension_is_offered(fakes, installed, monkeypatch):
    calls = []
    model = types.SimpleNamespace(installExtensionFromServer=lambda *given: calls.append(given) or True)
    monkeypatch.setattr(type(slicer.app), "extensionsManagerModel", lambda self: model, raising=False)
    del installed["torch"]
    assert not install_pytorch_extension(missing(), fakes.yes)  # it is there
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    assert not install_pytorch_extension(missing(), lambda text: False)
    assert calls == []
    assert install_pytorch_extension(missing(), fakes.yes)
    assert calls == [("PyTorch", True)]


def test_the_extension_is_not_needed_for_the_others(fakes, installed, monkeypatch):
    del installed["scipy"]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    assert install(missing(), fakes.yes)


@pytest.mark.parametrize("name", ["numpy", "SimpleITK"])
def test_slicers_own_packages_are_never_installed(fakes, installed, name):
    installed[name] = "1.0"
    with pytest.raises(InstallationError, match=f"{name}>=.* part of Slicer"):
        install(missing(), fakes.yes)
    assert fakes.asked == fakes.calls == []


def test_a_failure_says_what_to_do_without_network(fakes, installed):
    del installed["safetensors"]
    fakes.failure = subprocess.CalledProcessError(1, "pip install")
    with pytest.raises(InstallationError, match=r"Installing safetensors>=0.4 failed: .*exit status 1") as error:
        install(missing(), fakes.yes)
    assert offline_hint(missing()) in str(error.value)
    assert "PIP_CONSTRAINT" not in os.environ


def test_what_is_still_missing_is_told(fakes, installed, monkeypatch):
    del installed["safetensors"]
    monkeypatch.setattr(fakes, "installed", {})
    with pytest.raises(InstallationError, match=r"safetensors>=0.4 cannot be found .* restart Slicer"):
        install(missing(), fakes.yes)


def test_tests_of_slicer_install_nothing(fakes, app, installed, monkeypatch):
    del installed["torch"], installed["scipy"]
    monkeypatch.setattr(type(app), "testingEnabled", lambda self: True)
    with pytest.raises(InstallationError, match=r"Missing: torch>=2.2, scipy>=1.9"):
        install(missing(), fakes.yes)
    assert fakes.asked == fakes.calls == []
