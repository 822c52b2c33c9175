"""Compares the source of a scripted module with what real Slicer has: what the stand-ins would forgive is found here.

Checked are the `.ui` file (classes, properties, connections, parameter names) and every Python file (members of
widgets, `slicer`, `ctk`, `qt`, `slicer.util` and its arguments, `slicer.app`, signals in `connect`, names of MRML and
VTK functions, imports at file scope). Facts come from `slicer_api.json`, from PySide6 and from `slicer-core` itself.
"""

import ast
import functools
import inspect
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import slicer
import slicer.util
import vtk
from PySide6 import QtCore, QtGui, QtTest, QtUiTools, QtWidgets

from .facts import CLASSES, PYTHON_MODULES, ancestry, arguments, declared, decorated, qt_base

QT_MODULES = (QtWidgets, QtGui, QtCore, QtUiTools, QtTest)
# What PythonQt gives to every object.
_OF_OBJECTS = "connect disconnect delete className inherits help name children findChild findChildren parent setParent"
EVERY_OBJECT = {*_OF_OBJECTS.split(), "property", "setProperty", "layout"}
# What an extension may import at file scope: Slicer brings it (or it is the extension itself).
ALLOWED_IMPORTS = {"slicer", "vtk", "qt", "ctk", "SimpleITK", "numpy", "scipy", "SampleData", "U2ADLib", "U2ADScene"}

_OTHER_EXTENSIONS = {"PyTorchUtilsLogic"}  # names of extensions that this one depends on


@dataclass(frozen=True)
class Members:
    """What Python sees of a widget class; signals by name, with the argument lists they may be connected with."""

    properties: frozenset[str]
    signals: dict[str, frozenset[str]]
    functions: frozenset[str]

    def __contains__(self, name: str) -> bool:
        return name in self.properties or name in self.signals or name in self.functions


def qt_class(name: str) -> type | None:
    return next((getattr(module, name) for module in QT_MODULES if hasattr(module, name)), None)


def _plain_arguments(signature: str) -> str:
    """`f(const QString& text, int i = 0)` → `QString,int`, as a signal is named when it is connected."""
    plain = []
    for argument in arguments(signature):
        argument = re.sub(r"\bconst\b|&|=.*", "", argument).strip()
        argument = re.sub(r"\s*\*\s*", "* ", argument).strip()
        plain.append(re.sub(r"(?<=[\w*>])\s+\w+$", "", argument).replace(" ", ""))
    return ",".join(plain)


@functools.cache
def members(cls: str) -> Members:
    """Members of a Slicer, CTK or Qt class."""
    properties: set[str] = set()
    functions = set(EVERY_OBJECT)
    signals: dict[str, set[str]] = {}
    for name, facts in ancestry(cls):
        properties |= set(facts["properties"])
        for signature in facts["signals"]:
            signals.setdefault(declared(signature), set()).add(_plain_arguments(signature))
        functions |= {declared(s) for kind in ("slots", "invokable") for s in facts[kind]} | decorated(name)
    base = qt_class(qt_base(cls) if cls in CLASSES else cls)
    if base is not None:
        meta = base.staticMetaObject
        properties |= {meta.property(i).name() for i in range(meta.propertyCount())}
        for method in (meta.method(i) for i in range(meta.methodCount())):
            if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
                signature = bytes(method.methodSignature()).decode()
                signals.setdefault(declared(signature), set()).add(_plain_arguments(signature))
        functions |= {name for name in dir(base) if not name.startswith("_")}
    frozen = {name: frozenset(lists) for name, lists in signals.items()}
    return Members(frozenset(properties), frozen, frozenset(functions - properties))


def _signal_problem(cls: str, signature: str) -> str | None:
    name, _, rest = signature.partition("(")
    known = members(cls).signals.get(name)
    if known is None:
        return f"{cls} has no signal {signature}"
    if rest.rstrip(")").replace(" ", "") not in known:
        return f"{cls}'s signal {name} takes {sorted(known)}, not {signature}"
    return None


# --- the .ui file


@dataclass(frozen=True)
class UiFile:
    """Class of each named widget, and the parameter that each is connected with."""

    widgets: dict[str, str]
    parameters: dict[str, str]
    problems: tuple[str, ...]


def read_ui(path: Path) -> UiFile:
    root = ET.parse(path).getroot()
    widgets, parameters, problems = {}, {}, []
    for widget in root.iter("widget"):
        name, cls = widget.get("name"), widget.get("class")
        widgets[name] = cls
        if cls not in CLASSES and qt_class(cls) is None:
            problems.append(f"{name}: there is no widget class {cls}")
            continue
        for prop in widget.findall("property"):
            if prop.get("name") == "SlicerParameterName":
                parameters[name] = prop.findtext("string")
            elif prop.get("stdset") != "0" and prop.get("name") not in members(cls).properties:
                problems.append(f"{name}: {cls} has no property {prop.get('name')}")
    for connection in root.iter("connection"):
        parts = [connection.findtext(part) for part in ("sender", "signal", "receiver", "slot")]
        problems += _connection_problems(widgets, *parts)
    return UiFile(widgets, parameters, tuple(f"{path.name}: {problem}" for problem in problems))


def _connection_problems(widgets, sender, signal, receiver, slot) -> list[str]:
    if missing := [name for name in (sender, receiver) if name not in widgets]:
        return [f"connection with unknown widget {', '.join(missing)}"]
    problem = _signal_problem(widgets[sender], signal)
    problems = [problem] if problem else []
    if slot.split("(")[0] not in members(widgets[receiver]):
        problems.append(f"{receiver}: {widgets[receiver]} has no slot {slot}")
    return problems


# --- Python files


@functools.cache
def _mrml_names() -> frozenset[str]:
    """Every member name of every MRML, logic and VTK class."""
    names: set[str] = set()
    for module in (slicer, vtk):
        for name in dir(module):
            if isinstance(cls := getattr(module, name, None), type):
                names.update(dir(cls))
    return frozenset(names)


def _python_module_names(module: str) -> set[str]:
    """Public names of a Python module of Slicer; those of a package include what its parts export."""
    parts = [facts for name, facts in PYTHON_MODULES.items() if name == module or name.startswith(module + ".")]
    return {name for facts in parts for kind in ("functions", "classes") for name in facts[kind]}


class _Checker(ast.NodeVisitor):
    """Collects what is unknown to real Slicer in one Python file."""

    def __init__(self, path: Path, ui: UiFile | None):
        self.path, self.ui, self.problems = path, ui, []
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = (ast.FunctionDef, ast.ClassDef)
        self.own = {node.name for node in ast.walk(self.tree) if isinstance(node, defined)}
        imports = (node for node in ast.walk(self.tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
        imported = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
        self.modules = imported - {"slicer", "vtk"}
        self.called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}

    def check(self) -> list[str]:
        self._check_file_scope()
        self.visit(self.tree)
        return self.problems

    def _say(self, node, text: str) -> None:
        self.problems.append(f"{self.path.name}:{node.lineno}: {text}")

    def _check_file_scope(self) -> None:
        for node in self.tree.body:
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module]
            else:
                continue
            for name in (full.split(".")[0] for full in imported):
                if name not in ALLOWED_IMPORTS and name not in sys.stdlib_module_names:
                    self._say(node, f"{name} is imported at file scope, but Slicer does not bring it")

    def visit_ImportFrom(self, node):
        if node.module in PYTHON_MODULES:
            names = _python_module_names(node.module)
            for alias in node.names:
                is_class = node.module == "slicer" and hasattr(slicer, alias.name)
                if alias.name != "*" and alias.name not in names and not is_class and not self._is_module(node, alias):
                    self._say(node, f"{node.module} has no {alias.name}")

    @staticmethod
    def _is_module(node, alias) -> bool:
        return f"{node.module}.{alias.name}" in PYTHON_MODULES

    def visit_Attribute(self, node):
        text = ast.unparse(node)
        if match := re.fullmatch(r"(?:self\.)?_?ui\.(\w+)\.(\w+)", text):
            self._check_widget_member(node, *match.groups())
        elif match := re.fullmatch(r"slicer\.(util|packaging|i18n)\.(\w+)", text):
            if match[2] not in _python_module_names(f"slicer.{match[1]}"):
                self._say(node, f"there is no {text}")
        elif match := re.fullmatch(r"slicer\.app\.(\w+)", text):
            if match[1] not in members("qSlicerApplication"):
                self._say(node, f"there is no {text}")
        elif match := re.fullmatch(r"(slicer|ctk|vtk)\.((?:vtk|qMRML|qSlicer|ctk)\w+)", text):
            module = vtk if match[1] == "vtk" else slicer
            if match[2] not in CLASSES and not hasattr(module, match[2]):
                self._say(node, f"there is no {text}")
        elif match := re.fullmatch(r"(slicer|vtk)\.(vtk\w+)\.(\w+)", text):
            cls = getattr(vtk if match[1] == "vtk" else slicer, match[2], None)
            if cls is not None and not hasattr(cls, match[3]):
                self._say(node, f"there is no {text}")
        elif (match := re.fullmatch(r"qt\.(Q\w+)", text)) and qt_class(match[1]) is None:
            self._say(node, f"there is no {text}")
        self.generic_visit(node)

    def _check_widget_member(self, node, widget: str, name: str) -> None:
        if self.ui is None:
            return
        if widget not in self.ui.widgets:
            self._say(node, f"the .ui file has no widget {widget}")
            return
        cls = self.ui.widgets[widget]
        known = members(cls)
        if name not in known:
            self._say(node, f"{widget}: {cls} has no {name}")
        elif name in known.properties and id(node) in self.called:
            self._say(node, f"{widget}.{name} is a property and cannot be called")
        elif name in known.functions and isinstance(node.ctx, ast.Store):
            self._say(node, f"{widget}.{name} is a function and cannot be set")

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute):
            self._check_arguments(node)
            self._check_connect(node)
            self._check_mrml_name(node)
        self.generic_visit(node)

    def _check_arguments(self, node) -> None:
        match = re.fullmatch(r"slicer\.util\.(\w+)", ast.unparse(node.func))
        function = getattr(slicer.util, match[1], None) if match else None
        open_ended = any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords)
        if function is None or open_ended:
            return
        try:
            inspect.signature(function).bind(*node.args, **{keyword.arg: None for keyword in node.keywords})
        except TypeError as problem:
            self._say(node, f"{match[0]}: {problem}")
        except ValueError:  # a class without a signature
            return

    def _check_connect(self, node) -> None:
        if node.func.attr not in ("connect", "disconnect") or not node.args:
            return
        signal = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        if not isinstance(signal, str):
            return
        match = re.fullmatch(r"(?:self\.)?_?ui\.(\w+)", ast.unparse(node.func.value))
        if match and self.ui and match[1] in self.ui.widgets:
            if problem := _signal_problem(self.ui.widgets[match[1]], signal):
                self._say(node, problem)
        elif not any(_signal_problem(cls, signal) is None for cls in _classes_with_signals()):
            self._say(node, f"no class of Qt, CTK or Slicer has the signal {signal}")

    def _check_mrml_name(self, node) -> None:
        """Functions with a capital are MRML's or VTK's: a misspelt one is found without knowing the object's type."""
        name, owner = node.func.attr, ast.unparse(node.func.value).split(".")[0]
        known = name in self.own or owner in self.modules or name in _OTHER_EXTENSIONS
        if name[0].isupper() and not known and name not in _mrml_names():
            self._say(node, f"no MRML or VTK class has {name}")


@functools.cache
def _classes_with_signals() -> tuple[str, ...]:
    names = {
        name for module in QT_MODULES for name in dir(module) if hasattr(getattr(module, name), "staticMetaObject")
    }
    return tuple(sorted(names | set(CLASSES)))


def parameter_names(path: Path) -> set[str]:
    """Members of the classes that `@parameterNodeWrapper` decorates in a Python file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        decorators = getattr(node, "decorator_list", [])
        if isinstance(node, ast.ClassDef) and any("parameterNodeWrapper" in ast.unparse(d) for d in decorators):
            names |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
    return names


def check_module(folder: Path) -> list[str]:
    """Problems of the scripted module in a folder (`U2AD.py` in `U2AD/`), one line each; empty if there are none."""
    problems = []
    ui_path = folder / "Resources" / "UI" / f"{folder.name}.ui"
    ui = read_ui(ui_path) if ui_path.is_file() else None
    if ui:
        problems += ui.problems
    main = folder / f"{folder.name}.py"
    if ui and main.is_file():
        known = parameter_names(main)
        unknown = {name: parameter for name, parameter in ui.parameters.items() if parameter not in known}
        problems += [f"{ui_path.name}: {n} is connected with the unknown parameter {p}" for n, p in unknown.items()]
    for path in sorted(folder.rglob("*.py")):
        problems += _Checker(path, ui).check()
    return problems
