"""What CMake packs for Slicer and what pip packs equal the tree: a file that is not listed is not delivered."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLICER_STAND_IN = ROOT / "Testing" / "slicer_bench" / "cmake"
DELIVERED = ("Experiments", "Models", "Sample")


def cmake_list(folder: str, name: str) -> list[str]:
    """Items of `set(NAME …)` in the folder's CMakeLists.txt."""
    text = (ROOT / folder / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = re.search(rf"^set\({name}\s(.*?)\)", text, re.DOTALL | re.MULTILINE)[1]
    return [item.replace("${MODULE_NAME}", "U2AD") for item in listed.split()]


def cmake_value(name: str) -> str:
    """Text of `set(NAME "…")` in the top CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf'^set\({name} "(.*)"\)$', text, re.MULTILINE)[1]


def files_below(folder: Path, pattern: str = "*") -> list[str]:
    found = (p.relative_to(folder) for p in folder.rglob(pattern) if p.is_file() and "__pycache__" not in p.parts)
    return sorted(path.as_posix() for path in found)


@pytest.mark.parametrize(
    ("folder", "name", "tree"),
    [
        ("U2AD", "MODULE_PYTHON_SCRIPTS", files_below(ROOT / "U2AD", "*.py")),
        ("U2AD", "MODULE_PYTHON_RESOURCES", [f"Resources/{f}" for f in files_below(ROOT / "U2AD" / "Resources")]),
        ("U2ADLib", "MODULE_PYTHON_SCRIPTS", files_below(ROOT / "U2ADLib", "*.py")),
        ("Resources", "BUNDLED_FILES", [f"{d}/{f}" for d in DELIVERED for f in files_below(ROOT / "Resources" / d)]),
    ],
    ids=["module", "module resources", "U2ADLib", "models, sample, experiments"],
)
def test_lists_equal_the_tree(folder, name, tree):
    listed = cmake_list(folder, name)
    assert sorted(listed) == sorted(tree)
    assert len(set(listed)) == len(listed)


def test_no_other_file_in_the_packages():
    """The method has no data of its own: models and sample lie in Resources/."""
    assert files_below(ROOT / "U2ADLib") == sorted([*files_below(ROOT / "U2ADLib", "*.py"), "CMakeLists.txt"])


def test_only_the_module_lies_at_the_top():
    """Slicer takes every Python file at the top of the folder for a module of its own."""
    assert [path.name for path in (ROOT / "U2AD").glob("*.py")] == ["U2AD.py"]


def test_build_and_installed_tree_are_complete(tmp_path):
    """CMake with a stand-in for Slicer; then the method runs from the installed folder and finds its models."""
    if not (shutil.which("cmake") and shutil.which("cc")):
        pytest.skip("cmake or a compiler is not installed: the package was not built")
    build, installed = tmp_path / "build", tmp_path / "installed"
    options = [f"-DSlicer_DIR={SLICER_STAND_IN}", f"-DCMAKE_INSTALL_PREFIX={installed}"]
    configure = ["cmake", "-S", ROOT, "-B", build, *options]
    for command in (configure, ["cmake", "--install", build]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for tree in (build, installed):
        assert_works_from(tree / "lib" / "Slicer" / "qt-scripted-modules")


def assert_works_from(folder: Path) -> None:
    """The folder holds module, method and resources, and the method reads its bundled models from there."""
    for name in ("U2AD.py", "U2ADScene/__init__.py", "Resources/UI/U2AD.ui", "Resources/Icons/U2AD.png"):
        assert (folder / name).is_file(), name
    print_models = (
        "import U2ADLib\n"
        "from U2ADLib.package import list_models, verify_model\n"
        "from U2ADLib.resources import resource\n"
        "models = list_models()\n"
        "assert models and all(model.bundled and not model.problem for model in models), models\n"
        "for model in models: verify_model(model.folder)\n"
        "print(U2ADLib.__file__, resource('Sample', 'sample_T2w.nii.gz'), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "U2AD_MODELS": str(folder / "none")}
    command = [sys.executable, "-c", print_models]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(folder) for line in done.stdout.split("\n") if line), done.stdout


def test_pip_delivers_the_same():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "U2ADLib").rglob("__init__.py")}
    assert set(settings["packages"]) == {name.replace("/", ".") for name in packages} | {"U2ADLib.Resources"}
    assert settings["package-dir"] == {"U2ADLib.Resources": "Resources"}
    resources = ROOT / "Resources"
    patterns = settings["package-data"]["U2ADLib.Resources"]
    packed = [path.relative_to(resources).as_posix() for pattern in patterns for path in resources.glob(pattern)]
    assert sorted(packed) == sorted(cmake_list("Resources", "BUNDLED_FILES"))


def test_catalogue_entry():
    entry = json.loads((ROOT / "U2AD.json").read_text(encoding="utf-8"))
    required = {"$schema", "category", "scm_url"}
    optional = {
        "scm_revision",
        "scm_type",
        "build_dependencies",
        "build_subdirectory",
        "dicom_support_rule",
        "tier",
        "enabled",
    }
    assert required <= set(entry) <= required | optional
    assert entry["build_dependencies"] == cmake_value("EXTENSION_DEPENDS").split()
    assert entry["scm_url"] == cmake_value("EXTENSION_HOMEPAGE") + ".git"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Homepage"] == cmake_value("EXTENSION_HOMEPAGE")


def test_extension_description():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(U2AD)" in text  # the catalogue entry's name
    assert cmake_value("EXTENSION_CONTRIBUTORS")
    assert 50 < len(cmake_value("EXTENSION_DESCRIPTION")) < 400
    pictures = [cmake_value("EXTENSION_ICONURL"), *cmake_value("EXTENSION_SCREENSHOTURLS").split()]
    base = cmake_value("EXTENSION_HOMEPAGE").replace("github.com", "raw.githubusercontent.com") + "/main/"
    for address in pictures:
        assert address.startswith(base)
        assert address.endswith(".png")
        assert (ROOT / address.removeprefix(base)).is_file()
