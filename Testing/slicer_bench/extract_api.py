#!/usr/bin/env python3
"""Reads facts about Slicer's and CTK's public interfaces out of their git directories, into `slicer_api.json`.

    extract_api.py SLICER_GIT CTK_GIT OUT.json SLICER_REF CTK_REF

Only the standard library and git are needed; nothing is built or checked out. Per C++ class: bases, properties,
signals, public slots, invokable functions, enumerations, and what PythonQt decorators add to it. Per Python module:
functions and classes with their signatures. The headers are read by patterns, not by a compiler: good for Qt's style.
"""

import argparse
import ast
import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

_NAMES = """
qMRMLNodeComboBox qMRMLSubjectHierarchyTreeView qMRMLSubjectHierarchyComboBox qMRMLVolumeThresholdWidget
qMRMLSliderWidget qMRMLSpinBox qMRMLRangeWidget qMRMLSegmentSelectorWidget qMRMLSegmentsTableView qMRMLPlotWidget
qMRMLPlotView qMRMLSliceWidget qMRMLSliceView qMRMLSliceControllerWidget qMRMLLayoutManager qSlicerLayoutManager
qMRMLColorTableComboBox qMRMLCheckableNodeComboBox qMRMLTableView qMRMLTableWidget qMRMLThreeDWidget qMRMLThreeDView
qMRMLWidget qMRMLTreeView qMRMLCollapsibleButton qMRMLVolumeInfoWidget qMRMLSortFilterProxyModel qMRMLTransformSliders
qMRMLLabelComboBox qMRMLScalarsDisplayWidget qMRMLSequenceBrowserPlayWidget qMRMLWindowLevelWidget qMRMLVolumeWidget
qMRMLSliceVerticalControllerWidget qMRMLMarkupsSelectorWidget qSlicerMarkupsPlaceWidget qSlicerSimpleMarkupsWidget
qSlicerWidget ctkCollapsibleButton ctkCollapsibleGroupBox ctkPathLineEdit ctkSliderWidget ctkComboBox ctkDoubleSpinBox
ctkCheckableComboBox ctkDirectoryButton ctkMessageBox ctkErrorLogWidget ctkErrorLogModel ctkDoubleSlider ctkRangeWidget
ctkDoubleRangeSlider ctkRangeSlider ctkCheckableHeaderView ctkPushButton ctkMenuButton ctkFittedTextBrowser
ctkExpandableWidget ctkDynamicSpacer ctkColorPickerButton ctkCoordinatesWidget ctkCheckBox ctkSearchBox ctkFontButton
ctkVTKAbstractView ctkVTKChartView ctkVTKSliceView ctkVTKRenderView ctkLayoutManager ctkDICOMBrowser ctkDICOMDatabase
qSlicerApplication qSlicerCoreApplication qSlicerScriptedLoadableModule qSlicerScriptedLoadableModuleWidget
qSlicerAbstractModule qSlicerAbstractCoreModule qSlicerAbstractModuleWidget qSlicerAbstractModuleRepresentation
qSlicerLoadableModule qSlicerModuleManager qSlicerAbstractModuleFactoryManager qSlicerModuleFactoryManager
qSlicerIOManager qSlicerCoreIOManager qSlicerIO qSlicerModuleSelectorToolBar qSlicerModulesMenu qSlicerMainWindow
qSlicerAppMainWindow qSlicerCommandOptions qSlicerCoreCommandOptions qSlicerExtensionsManagerModel qSlicerSettingsPanel
qSlicerSubjectHierarchyAbstractPlugin qSlicerSubjectHierarchyPluginHandler qMRMLUtils qSlicerFileDialog
qSlicerScriptedFileDialog qSlicerScriptedFileReader qSlicerScriptedFileWriter ctkCheckablePushButton ctkProxyStyle
qMRMLMarkupsFiducialTableView ctkFlowLayout ctkThumbnailLabel ctkTreeView ctkAxesWidget qMRMLNodeAttributeTableView
qMRMLSegmentationShow3DButton qMRMLSegmentEditorWidget qMRMLSegmentationConversionParametersWidget ctkPythonConsole
qSlicerCLIProgressBar qSlicerCLIModuleWidget qSlicerCLILoadableModuleFactory ctkConsole ctkTestApplication
qSlicerPythonManager ctkAbstractPythonManager qSlicerScriptedUtils_p qSlicerSubjectHierarchyScriptedPlugin
qMRMLSubjectHierarchyModel
"""
WANTED = _NAMES.split()

PYTHON_FOLDER = "Base/Python/slicer/"
OTHER_PYTHON_FILES = ("Modules/Scripted/SampleData/SampleData.py", "Base/Python/sitkUtils.py")

ACCESS = re.compile(r"^\s*(public|protected|private|Q_SIGNALS|signals)(\s+(?:slots|Q_SLOTS))?\s*:(?!:)", re.MULTILINE)
FUNCTION = re.compile(
    r"(?P<invokable>Q_INVOKABLE\s+)?(?P<before>(?:[\w:<>,*&\s~]|\[\[\w+\]\])*?)\b(?P<name>~?\w+)\s*"
    r"\((?P<arguments>(?:[^()]|\([^()]*\))*)\)\s*"
    r"(?P<after>(?:const|override|final|noexcept|=\s*0|=\s*default|=\s*delete|\s)*)(?:;|\{|:)"
)
NO_FUNCTION = re.compile(
    r"^\s*(Q_OBJECT|Q_ENUM|Q_ENUMS|Q_FLAG|Q_FLAGS|Q_PROPERTY|Q_DECLARE_\w+|Q_DISABLE_COPY|QVTK_OBJECT"
    r"|typedef|using|friend|enum|template)\b"
)
DECORATOR = re.compile(
    r"(?P<returned>\w+\s*[*&]?)\s*\b(?P<kind>static_|new_)?(?P<cls>\w+?)(?:_(?P<method>\w+))?\s*"
    r"\((?P<arguments>[^()]*)\)\s*\{"
)


class Repository:
    """One version of a git repository, read without checking it out."""

    def __init__(self, folder: str, ref: str):
        self.folder, self.ref = folder, ref

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", self.folder, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout

    def files(self) -> list[str]:
        return self.git("ls-tree", "-r", "--name-only", self.ref).split("\n")

    def read(self, path: str) -> str:
        return self.git("show", f"{self.ref}:{path}")

    def version(self) -> dict[str, str]:
        commit, date = self.git("rev-parse", self.ref).strip(), self.git("log", "-1", "--format=%cI", self.ref).strip()
        return {"ref": self.ref, "commit": commit, "date": date}


# --- C++ headers


def without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment.group().count("\n"), text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def enclosed(text: str, start: int, brackets: str) -> str:
    """What lies between the bracket at `start` and its partner."""
    depth = 0
    for index in range(start, len(text)):
        depth += {brackets[0]: 1, brackets[1]: -1}.get(text[index], 0)
        if depth == 0:
            return text[start + 1 : index]
    return ""


def without_bodies(text: str) -> str:
    """Every `{ … }` becomes a semicolon; line breaks stay."""
    kept, depth = [], 0
    for character in text:
        if character == "{":
            kept.append("" if depth else ";")
            depth += 1
        elif character == "}":
            depth -= 1
        elif not depth or character == "\n":
            kept.append(character)
    return "".join(kept)


def read_properties(body: str) -> dict[str, dict[str, str]]:
    properties = {}
    for start in re.finditer(r"Q_PROPERTY\s*\(", body):
        declaration = one_line(enclosed(body, start.end() - 1, "()"))
        if found := re.match(r"(.+?)\s*[\s*&]\s*(\w+)\s+(READ|MEMBER|WRITE)\b(.*)$", declaration):
            functions = re.findall(r"\b(READ|WRITE|NOTIFY|MEMBER|RESET)\s+(\w+)", declaration[found.end(2) :])
            type_name = declaration[: found.start(2)].strip()
            properties[found.group(2)] = {"type": type_name, **{kind.lower(): name for kind, name in functions}}
    return properties


def read_enumerations(body: str) -> dict[str, list[str]]:
    """Names of the values of each enumeration ("_": one without a name)."""
    values = {}
    for found in re.finditer(r"\benum\s+(?:class\s+)?(\w+)?[^;{]*\{([^}]*)\}", body):
        items = (item for item in found.group(2).split(",") if re.match(r"\s*\w", item))
        values[found.group(1) or "_"] = [item.split("=")[0].strip() for item in items]
    return values


def statements(body: str) -> Iterator[tuple[str, bool, str]]:
    """(access, whether it is a slot, text) of every statement in a class body."""
    body = re.sub(r"Q_PROPERTY\s*\((?:[^()]|\([^()]*\))*\)", "", without_bodies(body))
    body = re.sub(r"^\s*(Q_OBJECT|QVTK_OBJECT)\s*;?\s*$", "", body, flags=re.MULTILINE)
    body = re.sub(r"^\s*(?:Q_\w+|QVTK\w*)\s*\([^)]*\)\s*;?\s*$", "", body, flags=re.MULTILINE)
    body = re.sub(r"^\s*#.*$", "", body, flags=re.MULTILINE)
    sections = list(ACCESS.finditer(body))
    ends = [section.start() for section in sections[1:]] + [len(body)]
    yield from (("private", False, text) for text in body[: sections[0].start() if sections else None].split(";"))
    for section, end in zip(sections, ends, strict=True):
        yield from ((section.group(1), bool(section.group(2)), text) for text in body[section.end() : end].split(";"))


def read_class(text: str, name: str) -> dict | None:
    """Facts about one class of a header without comments; None where the header does not define it."""
    start = re.search(rf"\bclass\s+(?:\w+_EXPORT\s+)?{name}\s*(?:final\s*)?(?::([^;{{]*))?\{{", text)
    if not start:
        return None
    bases = [one_line(re.sub(r"\b(public|virtual|protected|private)\b", "", b)) for b in (start[1] or "").split(",")]
    body = enclosed(text, start.end() - 1, "{}")
    facts = {
        "bases": [base for base in bases if base],
        "properties": read_properties(body),
        "signals": [],
        "slots": [],
        "invokable": [],
        "enums": sorted(set(re.findall(r"Q_(?:ENUM|FLAG)S?\s*\(\s*(\w+)", body))),
    }
    if values := read_enumerations(body):
        facts["enum_values"] = values
    for access, is_slot, statement in statements(body):
        found = None if NO_FUNCTION.match(statement) else FUNCTION.search(one_line(statement) + ";")
        if not found or found["name"] in (name, "operator") or found["name"].startswith("~"):
            continue
        before = re.sub(r"\b(virtual|static|inline|explicit|Q_INVOKABLE|Q_REVISION\w*)\b", "", found["before"])
        returned = one_line(before)
        signature = f"{found['name']}({one_line(found['arguments'])})"
        signature += f" -> {returned}" if returned and returned != "void" else ""
        if access in ("Q_SIGNALS", "signals"):
            facts["signals"].append(signature)
        elif access == "public" and is_slot:
            facts["slots"].append(signature)
        elif access == "public" and "Q_INVOKABLE" in statement:
            facts["invokable"].append(signature)
    return facts


def read_decorators(text: str) -> Iterator[tuple[str, str]]:
    """(class, signature) of what a PythonQt decorator class adds: constructors, static functions, functions."""
    for found in DECORATOR.finditer(text):
        arguments = one_line(found["arguments"])
        if found["kind"] == "new_":
            yield found["cls"], f"__init__({arguments})"
        elif found["kind"] == "static_" and found["method"]:
            yield found["cls"], f"static {found['method']}({arguments})"
        elif not found["kind"]:
            first = re.match(r"(\w+)\s*\*\s*\w+\s*(?:,(.*))?$", arguments)
            if first and re.match(r"(q|ctk)\w+|Q[A-Z]\w+", first[1]):
                name = found["cls"] + (f"_{found['method']}" if found["method"] else "")
                yield first[1], f"{name}({one_line(first[2] or '')}) -> {one_line(found['returned'])}"


# --- Python modules


def read_python(source: str) -> dict:
    def signature(function: ast.FunctionDef) -> str:
        return f"{function.name}({ast.unparse(function.args)})"

    facts: dict = {"functions": {}, "classes": {}}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            facts["functions"][node.name] = signature(node)
        elif isinstance(node, ast.ClassDef):
            methods = [signature(member) for member in node.body if isinstance(member, ast.FunctionDef)]
            facts["classes"][node.name] = {"bases": [ast.unparse(base) for base in node.bases], "methods": methods}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            with contextlib.suppress(ValueError):  # built at run time
                facts["__all__"] = ast.literal_eval(node.value)
    return facts


def module_name(path: str) -> str:
    """`Base/Python/slicer/util.py` → `slicer.util`."""
    inside = path.removeprefix("Base/Python/").removeprefix("Modules/Scripted/SampleData/").removesuffix(".py")
    return inside.removesuffix("/__init__").replace("/", ".")


# --- all together


def extract(slicer: Repository, ctk: Repository) -> dict:
    headers = {}
    for origin, repository in (("slicer", slicer), ("ctk", ctk)):
        for path in repository.files():
            if path.endswith(".h") and "/Testing/" not in path:
                headers[Path(path).stem] = (origin, repository, path)
    classes, missing = {}, []
    to_read = list(WANTED)
    while to_read:
        name = to_read.pop(0)
        if name in classes or name in missing:
            continue
        origin, repository, path = headers.get(name, (None, None, None))
        facts = read_class(without_comments(repository.read(path)), name) if repository else None
        if facts is None:
            missing.append(name)
            continue
        classes[name] = {**facts, "header": f"{origin}:{path}"}
        # Bases that are neither Slicer's nor CTK's belong to Qt, whose facts come from PySide6.
        to_read += [base for base in facts["bases"] if base.startswith(("q", "ctk")) and base in headers]
    decorators: dict[str, list[str]] = {}
    for name, (_, repository, path) in headers.items():
        if name.endswith("PythonQtDecorators"):
            for cls, signature in read_decorators(without_comments(repository.read(path))):
                decorators.setdefault(cls, []).append(signature)
    in_package = [f for f in slicer.files() if f.startswith(PYTHON_FOLDER) and f.endswith(".py") and "/tests/" not in f]
    python = {module_name(path): read_python(slicer.read(path)) for path in [*in_package, *OTHER_PYTHON_FILES]}
    return {
        "sources": {"slicer": _slicer_version(slicer), "ctk": ctk.version()},
        "cxx": classes,
        "decorators": decorators,
        "missing": missing,
        "python": python,
    }


def _slicer_version(slicer: Repository) -> dict[str, str]:
    """Commit and version of Slicer, and the commit of CTK that it is built with."""
    numbers = re.findall(r'set\(Slicer_VERSION_(?:MAJOR|MINOR|PATCH) "(\d+)"\)', slicer.read("CMakeLists.txt"))
    pinned = re.search(r'GIT_TAG\s*\n?\s*"([0-9a-f]{40})"', slicer.read("SuperBuild/External_CTK.cmake"))
    return {**slicer.version(), "version": ".".join(numbers[:3]), "ctk_pinned": pinned[1] if pinned else ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("slicer_git", "ctk_git", "out", "slicer_ref", "ctk_ref"):
        parser.add_argument(argument)
    given = parser.parse_args()
    facts = extract(Repository(given.slicer_git, given.slicer_ref), Repository(given.ctk_git, given.ctk_ref))
    Path(given.out).write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")
    print(f"{len(facts['cxx'])} classes, {len(facts['python'])} Python modules; not found: {facts['missing']}")


if __name__ == "__main__":
    main()
