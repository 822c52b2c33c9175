"""Stand-ins for the Python modules of Slicer that `slicer-core` lacks, made importable under their real names.

Every public function and class is compared with the real signatures in `slicer_api.json` when the bench starts.
"""

import hashlib
import importlib.metadata
import inspect
import sys
import types
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import slicer

from .facts import PYTHON_MODULES

# --- slicer.i18n: no translation is loaded, so every text is itself


def tr(text):
    return text


def translate(context, text):
    return text


# --- slicer.packaging: nothing is installed; what would have been is kept in `asked_to_install`

asked_to_install: list[list[str]] = []


def load_requirements(path):
    from packaging.requirements import Requirement

    lines = (line.split("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def pip_check(req, _seen=None):
    from packaging.requirements import Requirement

    for one in req if isinstance(req, list) else [req]:
        wanted = Requirement(str(one))
        try:
            if not wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True):
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    parent=None,
    logCallback=None,
    completedCallback=None,
):
    asked_to_install.append([requirements] if isinstance(requirements, str) else [str(r) for r in requirements])


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    missing = [str(r) for r in (requirements if isinstance(requirements, list) else [requirements]) if not pip_check(r)]
    if missing and not (skip_in_testing and slicer.app.testingEnabled()):
        pip_install(missing)


# --- SampleData: sources are registered, and read from local files or their own downloader; nothing is fetched


class SampleDataSource:
    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
        loadFileType=None,
    ):
        def listed(value):
            return value if isinstance(value, list) else [value]

        self.sampleName, self.sampleDescription = sampleName, sampleDescription
        self.uris, self.fileNames, self.nodeNames = listed(uris), listed(fileNames), listed(nodeNames)
        self.checksums, self.loadFiles = listed(checksums), listed(loadFiles)
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName
        self.loadFileTypes, self.loadFileProperties = listed(loadFileTypes or loadFileType), loadFileProperties or {}


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties={},  # noqa: B006 (the real signature)
        checksums=None,
        loadFileType=None,
    ):
        source = SampleDataSource(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            checksums=checksums,
            loadFiles=loadFiles,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            loadFileTypes=loadFileTypes,
            loadFileProperties=loadFileProperties,
            loadFileType=loadFileType,
        )
        if thumbnailFileName and not Path(thumbnailFileName).is_file():
            raise FileNotFoundError(thumbnailFileName)
        SampleDataLogic.sampleDataSourcesByCategory().setdefault(category, []).append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category=None):
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        sources = slicer.modules.sampleDataSources
        return sources if category is None else sources[category]

    def __init__(self, logMessage=None):
        self._log = logMessage

    def sourceForSampleName(self, sampleName):
        sources = (s for listed in self.sampleDataSourcesByCategory().values() for s in listed)
        return next((s for s in sources if s.sampleName == sampleName), None)

    def downloadFromSource(self, source, maximumAttemptsCount=3, forceDownload=False):
        if source.customDownloader:
            return source.customDownloader(source)
        return [self._loaded(source, index) for index in range(len(source.uris))]

    def _loaded(self, source, index):
        address = urlparse(source.uris[index])
        if address.scheme != "file":
            raise RuntimeError(f"the bench fetches nothing: {source.uris[index]}")
        path = Path(url2pathname(address.path))
        if checksum := source.checksums[index]:
            method, digest = checksum.split(":")
            if hashlib.new(method, path.read_bytes()).hexdigest() != digest:
                raise ValueError(f"{path.name} does not match its checksum")
        return slicer.util.loadVolume(str(path), {"name": source.nodeNames[index]})

    def downloadSample(self, sampleName):
        return self.downloadSamples(sampleName)[0]

    def downloadSamples(self, sampleName):
        source = self.sourceForSampleName(sampleName)
        if source is None:
            raise ValueError(f"Sample {sampleName} is not available")
        return self.downloadFromSource(source)


def _parameters(signature: str) -> list[str]:
    """Parameter names of a recorded signature such as `pip_check(req: str, _seen=None)`, without `self`."""
    stub: dict = {}
    exec(f"from __future__ import annotations\nimport logging\ndef {signature}: ...", stub)
    function = next(v for k, v in stub.items() if inspect.isfunction(v))
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _compare(module: str, name: str, stand_in, recorded: str) -> None:
    ours = [p for p in inspect.signature(stand_in).parameters if p != "self"]
    assert ours == _parameters(recorded), f"{module}.{name} takes {_parameters(recorded)} in Slicer, here {ours}"


def _check_signatures(module: str, contents: dict) -> None:
    """Every public name exists in the real module, with the same parameters."""
    real = PYTHON_MODULES[module]
    for name, stand_in in contents.items():
        if name in real["functions"]:
            _compare(module, name, stand_in, real["functions"][name])
            continue
        methods = {m.split("(")[0]: m for m in real["classes"][name]["methods"]}  # KeyError: no such class in Slicer
        for method, function in vars(stand_in).items():
            if (method.startswith("_") and method != "__init__") or not (
                callable(function) or isinstance(function, staticmethod)
            ):
                continue
            _compare(module, f"{name}.{method}", getattr(stand_in, method), methods[method])


def install() -> None:
    """Make the modules importable. Needs `qt`, `ctk` and the widget stand-ins in place."""
    from . import parameter_nodes, scripted_module

    modules = {
        "slicer.i18n": {"tr": tr, "translate": translate},
        "slicer.packaging": {f.__name__: f for f in (load_requirements, pip_check, pip_install, pip_ensure)},
        "SampleData": {"SampleDataLogic": SampleDataLogic, "SampleDataSource": SampleDataSource},
        "slicer.ScriptedLoadableModule": {n: getattr(scripted_module, n) for n in scripted_module.__all__},
    }
    for name, contents in modules.items():
        _check_signatures(name, contents)
        module = types.ModuleType(name)
        vars(module).update(contents)
        _register(name, module)
    _register("slicer.parameterNodeWrapper", parameter_nodes)


def _register(name: str, module: types.ModuleType) -> None:
    sys.modules[name] = module
    if name.startswith("slicer."):
        setattr(slicer, name.removeprefix("slicer."), module)
