"""Stand-in for `slicer.parameterNodeWrapper`: typed access to a real vtkMRMLScriptedModuleNode, and its GUI connection.

Known types: str, bool, int, float, pathlib.Path, enum.Enum and MRML node classes, with the annotations Default,
WithinRange, Minimum, Maximum, Choice, Decimals and SingleStep. Anything else is an error here (real Slicer knows more).
Values are written to the node in the same form as in Slicer.
"""

import dataclasses
import enum
import pathlib
import typing

import ctk
import qt
import slicer
import slicer.util
import vtk

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Maximum",
    "Minimum",
    "SingleStep",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]


# --- annotations


class Default:
    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


@dataclasses.dataclass
class WithinRange:
    minimum: float
    maximum: float

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclasses.dataclass
class Minimum:
    minimum: float

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must be >= {self.minimum}, is {value}")


@dataclasses.dataclass
class Maximum:
    maximum: float

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must be <= {self.maximum}, is {value}")


@dataclasses.dataclass
class Choice:
    choices: list

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value}")


@dataclasses.dataclass
class Decimals:
    value: int


@dataclasses.dataclass
class SingleStep:
    value: float


_ANNOTATIONS = (Default, WithinRange, Minimum, Maximum, Choice, Decimals, SingleStep)


# --- values in the node


class _Parameter:
    """One member of a wrapper class: how its value is checked, written and read."""

    def __init__(self, name: str, annotated, default):
        self.name = name
        is_annotated = typing.get_origin(annotated) is typing.Annotated
        self.type, *self.annotations = typing.get_args(annotated) if is_annotated else (annotated,)
        self.is_node = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        self.is_enum = isinstance(self.type, type) and issubclass(self.type, enum.Enum)
        if self.type not in (str, bool, int, float, pathlib.Path) and not self.is_node and not self.is_enum:
            raise TypeError(f"{name}: the stand-in of parameterNodeWrapper does not know the type {self.type}")
        if unknown := [a for a in self.annotations if not isinstance(a, _ANNOTATIONS)]:
            raise TypeError(f"{name}: the stand-in of parameterNodeWrapper does not know {unknown}")
        self._default = default or self.annotation(Default)

    def annotation(self, cls):
        return next((a for a in self.annotations if isinstance(a, cls)), None)

    def default(self):
        if self._default is not None:
            return self._default.value
        if self.is_node:
            return None
        return next(iter(self.type)) if self.is_enum else self.type()

    def check(self, value) -> None:
        allowed = (int, float) if self.type is float else self.type
        if not (isinstance(value, allowed) or (self.is_node and value is None)):
            raise TypeError(f"{self.name} must be {self.type.__name__}, is {type(value).__name__}")
        for annotation in self.annotations:
            if hasattr(annotation, "validate"):
                annotation.validate(value)

    def write(self, node, value) -> None:
        self.check(value)
        if self.is_node:
            node.SetParameter(self.name, "")  # tells "none was chosen" from "never set"
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if self.is_enum else str(value))

    def read(self, node):
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.type is bool:
            return text == "True"
        return self.type[text] if self.is_enum else self.type(text)

    def is_in(self, node) -> bool:
        return node.HasParameter(self.name)


# --- widgets


def _choices(parameter: _Parameter) -> list:
    if parameter.is_enum:
        return list(parameter.type)
    if choice := parameter.annotation(Choice):
        return list(choice.choices)
    raise RuntimeError(f"{parameter.name}: a combo box needs the Choice annotation")


def _limit(widget, parameter: _Parameter) -> None:
    """Ranges and steps as in Slicer: a slider without both limits is an error."""
    if decimals := parameter.annotation(Decimals):
        widget.decimals = decimals.value
    if step := parameter.annotation(SingleStep):
        widget.singleStep = step.value
    both = parameter.annotation(WithinRange)
    low, high = both or parameter.annotation(Minimum), both or parameter.annotation(Maximum)
    if isinstance(widget, qt.QSlider | ctk.ctkSliderWidget) and not (low and high):
        raise RuntimeError(f"{parameter.name}: a slider needs a type with both limits")
    is_spin_box_of_integers = isinstance(widget, qt.QSpinBox)
    widget.minimum = low.minimum if low else -(2**31) if is_spin_box_of_integers else float("-inf")
    widget.maximum = high.maximum if high else 2**31 - 1 if is_spin_box_of_integers else float("inf")


class _Connector:
    """Carries values between one widget and one parameter. Which widget fits which type is as strict as in Slicer."""

    def __init__(self, widget, parameter: _Parameter):
        self.widget = widget
        kind, cls = parameter.type, type(widget)
        if kind is bool and cls in (qt.QCheckBox, qt.QPushButton):
            self._attribute("checked", widget.stateChanged if cls is qt.QCheckBox else widget.toggled)
        elif kind in (int, float) and cls in (qt.QDoubleSpinBox, ctk.ctkSliderWidget):
            _limit(widget, parameter)
            self._attribute("value", widget.valueChanged, kind)
        elif kind is int and cls in (qt.QSlider, qt.QSpinBox):
            _limit(widget, parameter)
            self._attribute("value", widget.valueChanged)
        elif cls is qt.QComboBox and not parameter.is_node:
            self._choice(_choices(parameter))
        elif kind is str and cls in (qt.QLineEdit, qt.QLabel):
            self._attribute("text", widget.textChanged if cls is qt.QLineEdit else None)
        elif kind is pathlib.Path and cls is ctk.ctkPathLineEdit:
            self._path("currentPath", widget.currentPathChanged)
        elif kind is pathlib.Path and cls is ctk.ctkDirectoryButton:
            self._path("directory", widget.directoryChanged)
        elif parameter.is_node and cls is slicer.qMRMLNodeComboBox:
            self._node(parameter)
        else:
            raise RuntimeError(f"no connection between {parameter.name} ({kind}) and a {cls.__name__}")
        self._callback = None

    def _attribute(self, name, signal, convert=lambda value: value):
        self.read = lambda: convert(getattr(self.widget, name))
        self.write = lambda value: setattr(self.widget, name, value)
        self._signal = signal

    def _choice(self, choices):
        self.widget.clear()
        for choice in choices:
            label = (
                getattr(type(choice), "label", lambda c: c.name)(choice) if isinstance(choice, enum.Enum) else choice
            )
            self.widget.addItem(str(label))
        self.read = lambda: choices[self.widget.currentIndex]
        self.write = lambda value: setattr(self.widget, "currentIndex", choices.index(value))
        self._signal = self.widget.currentIndexChanged

    def _path(self, name, signal):
        self.read = lambda: pathlib.Path(getattr(self.widget, name))
        self.write = lambda value: setattr(self.widget, name, str(value))
        self._signal = signal

    def _node(self, parameter):
        self.widget.nodeTypes = [parameter.type.__name__]
        self.read = self.widget.currentNode
        self.write = self.widget.setCurrentNode
        self._signal = self.widget.currentNodeChanged

    def on_change(self, callback) -> None:
        if self._signal is None:
            return
        if self._callback is not None:
            self._signal.disconnect(self._callback)
        self._callback = None if callback is None else lambda *_: callback()
        if self._callback is not None:
            self._signal.connect(self._callback)


class _Wrapper:
    """What the decorator adds to a class."""

    allParameters: typing.ClassVar[dict[str, _Parameter]] = {}
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode, prefix=None):
        if prefix:
            raise NotImplementedError("the stand-in of parameterNodeWrapper knows no prefix")
        self.parameterNode = parameterNode
        self._connected: dict[int, dict[str, _Connector]] = {}
        self._tags: dict[int, int] = {}
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default())

    def getValue(self, name):
        return self._known(name).read(self.parameterNode)

    def setValue(self, name, value):
        self._known(name).write(self.parameterNode, value)

    def default(self, name):
        return Default(self._known(name).default())

    def _known(self, name) -> _Parameter:
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return self.allParameters[name]

    def connectGui(self, gui):
        """Connect every widget with the property SlicerParameterName. As in Slicer, it returns no tag."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if is_widget else vars(gui).values()
        named = ((w.property("SlicerParameterName"), w) for w in widgets)
        self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping):
        tag = max(self._connected, default=-1) + 1
        connectors = {name: _Connector(widget, self._known(name)) for name, widget in mapping.items()}
        self._connected[tag] = connectors
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.on_change(lambda n=name, c=connector: self._from_gui(n, c))
        self._tags[tag] = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._to_gui())
        return tag

    def disconnectGui(self, guiTag):
        if guiTag in self._connected:
            for connector in self._connected.pop(guiTag).values():
                connector.on_change(None)
            self.RemoveObserver(self._tags.pop(guiTag))

    def _from_gui(self, name, connector):
        if not self._updating:
            with slicer.util.NodeModify(self.parameterNode):
                self.setValue(name, connector.read())

    def _to_gui(self):
        if self._updating:
            return
        self._updating = True
        try:
            for connectors in self._connected.values():
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


def _property_of(parameter: _Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, value: parameter.write(self.parameterNode, value)
    )


def parameterNodeWrapper(classtype=None):
    """Class decorator: every annotated member becomes a property that lives in a parameter node."""
    if classtype is None:
        return parameterNodeWrapper
    members = typing.get_type_hints(classtype, include_extras=True)
    parameters = {}
    for name, annotated in members.items():
        if hasattr(_Wrapper, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        default = Default(vars(classtype)[name]) if name in vars(classtype) else None
        parameters[name] = _Parameter(name, annotated, default)
        setattr(classtype, name, _property_of(parameters[name]))
    return type(
        classtype.__name__,
        (classtype, _Wrapper),
        {
            "allParameters": parameters,
            "__module__": classtype.__module__,
            "__init__": _Wrapper.__init__,
            "__doc__": classtype.__doc__,
        },
    )


def isParameterNodeWrapper(classOrObj):
    return getattr(classOrObj, "_is_parameter_node_wrapper", False)
