"""Stand-ins for the ctk and qMRML widgets, shaped by the facts of the real classes.

`@stand_in("ctkSliderWidget")` takes a class with what is written by hand, adds every property and signal that the real
class has, and refuses public names that it has not. Functions that exist in Slicer but not here say so when called.
Widgets nobody wrote by hand are made from the facts alone and are drawn as a frame with their class name.
"""

import ctk
import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from .facts import CLASSES, ancestry, arguments, declared, python_names, qt_base
from .pythonqt import UiLoader, original

_PROPERTY_TYPES = {"bool": bool, "int": int, "double": float, "QString": str, "QStringList": "QStringList"}
_ZERO = {"bool": False, "int": 0, "double": 0.0, "QString": "", "QStringList": ()}
_INSTEAD_OF_ABSTRACT = {"QAbstractButton": QtWidgets.QPushButton}

made: dict[str, type] = {}


def _base_class(name: str) -> type:
    base = qt_base(name)
    found = _INSTEAD_OF_ABSTRACT.get(base) or getattr(QtWidgets, base, None) or getattr(QtCore, base, None)
    return found or QtWidgets.QWidget


def _made_property(name: str, facts: dict, initial) -> Property:
    """A property that keeps its value, calls `_on_<name>` and emits its notify signal when it changes."""

    def read(self):
        return self.__dict__.get("_values", {}).get(name, initial)

    def write(self, value):
        before = read(self)
        self.__dict__.setdefault("_values", {})[name] = value
        if value == before:
            return
        if changed := getattr(self, "_on_" + name, None):
            changed(value)
        if notify := facts.get("notify"):
            getattr(self, notify).emit(value)

    return Property(_PROPERTY_TYPES.get(facts["type"], "QVariant"), read, write)


def _not_here(cls: str, name: str):
    def function(self, *args):
        raise NotImplementedError(f"{cls}.{name} exists in Slicer, but its stand-in does not do it")

    return function


def _setter(name: str):
    return lambda self, value: setattr(self, name, value)


def stand_in(name: str, initial: dict | None = None, base: type | None = None):
    """Class decorator. :param initial: values of properties in a new widget; :param base: Qt class, if another."""

    def decorate(written: type) -> type:
        members = {k: v for k, v in vars(written).items() if k not in ("__dict__", "__weakref__", "__doc__")}
        real, cls_base = python_names(name), base or _base_class(name)
        invented = [k for k in members if not k.startswith("_") and k not in real and not hasattr(cls_base, k)]
        if invented:
            raise TypeError(f"the stand-in of {name} has names that the real class lacks: {invented}")
        for _, facts in reversed(list(ancestry(name))):
            for signature in facts["signals"]:
                members.setdefault(declared(signature), Signal(*[object] * len(arguments(signature))))
            for prop, prop_facts in facts["properties"].items():
                if prop not in vars(cls_base):
                    value = (initial or {}).get(prop, _ZERO.get(prop_facts["type"]))
                    members.setdefault(prop, _made_property(prop, prop_facts, value))
                setter = "set" + prop[0].upper() + prop[1:]
                if setter in real:
                    members.setdefault(setter, _setter(prop))
        for missing in real:
            if missing not in members and not hasattr(cls_base, missing):
                members[missing] = _not_here(name, missing)
        cls = type(name, (cls_base,), members)
        cls._facts = real
        made[name] = UiLoader.stand_ins[name] = cls
        return cls

    return decorate


def _row(widget, *parts) -> None:
    layout = QtWidgets.QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for part in parts:
        layout.addWidget(part)


@stand_in("qMRMLWidget")
class _MRMLWidget:
    _scene = None

    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


@stand_in(
    "qMRMLNodeComboBox",
    {"addEnabled": True, "removeEnabled": True, "showChildNodeTypes": True, "noneDisplay": "Select a Node"},
)
class _NodeComboBox:
    def __init__(self, parent=None):
        super(made["qMRMLNodeComboBox"], self).__init__(parent)
        self._scene, self._tags, self._nodes, self._current, self._attributes = None, [], [], None, []
        self._box = QtWidgets.QComboBox()
        _row(self, self._box)
        self._box.activated.connect(self._picked)

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene:
            names = ("NodeAdded", "NodeRemoved", "EndClose", "EndImport", "EndBatchProcess")
            events = [getattr(scene, name + "Event") for name in names]
            self._tags = [scene.AddObserver(event, lambda *_: self._refresh()) for event in events]
        self._refresh()

    def addAttribute(self, nodeType, attributeName, attributeValue=None):
        self._attributes.append((nodeType, attributeName, attributeValue))
        self._refresh()

    def removeAttribute(self, nodeType, attributeName):
        self._attributes = [a for a in self._attributes if a[:2] != (nodeType, attributeName)]
        self._refresh()

    def _accepts(self, node) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        for cls in self.nodeTypes:
            if node.IsA(cls) and (self.showChildNodeTypes or node.GetClassName() == cls):
                return all(
                    node.GetAttribute(name) is not None and (value is None or node.GetAttribute(name) == str(value))
                    for wanted, name, value in self._attributes
                    if wanted == cls
                )
        return False

    def _refresh(self):
        before = {node.GetID() for node in self._nodes}
        nodes = self._scene.GetNodes() if self._scene else None
        every = [nodes.GetItemAsObject(i) for i in range(nodes.GetNumberOfItems())] if nodes else []
        self._nodes = [node for node in every if self._accepts(node)]
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay)
        for node in self._nodes:
            self._box.addItem(node.GetName())
        if self.addEnabled:
            for cls in self.nodeTypes:
                self._box.addItem(f"Create new {cls.removeprefix('vtkMRML').removesuffix('Node')}")
        current = self._current if self._current in self._nodes else None
        if current is None and not self.noneEnabled and self._nodes:
            current = self._nodes[0]
        new = [node for node in self._nodes if node.GetID() not in before]
        if self.selectNodeUponCreation and new:
            current = new[-1]
        self._choose(current)

    def _picked(self, row):
        row -= 1 if self.noneEnabled else 0
        if row < 0:
            self._choose(None)
        elif row < len(self._nodes):
            self._choose(self._nodes[row])
            self.nodeActivated.emit(self._current)
        else:
            node = self.addNode(self.nodeTypes[row - len(self._nodes)])
            self.nodeAddedByUser.emit(node)

    def _choose(self, node):
        row = self._nodes.index(node) if node in self._nodes else -1
        none_rows = 1 if self.noneEnabled else 0
        self._box.setCurrentIndex(row + none_rows)
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)
            self.currentNodeIDChanged.emit(node.GetID() if node else "")

    def currentNode(self):
        return self._current

    def nodeCount(self):
        return len(self._nodes)

    def nodeFromIndex(self, index):
        return self._nodes[index]

    def setCurrentNode(self, node):
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene else None
        self._choose(node if node in self._nodes else None)

    def setCurrentNodeID(self, nodeID):
        self.setCurrentNode(nodeID)

    currentNodeID = Property(
        str, lambda self: self._current.GetID() if self._current else "", lambda self, value: self.setCurrentNode(value)
    )

    def setCurrentNodeIndex(self, index):
        self._choose(self._nodes[index])

    def addNode(self, nodeType=None):
        node = self._scene.AddNewNodeByClass(nodeType or self.nodeTypes[0], self.baseName or "")
        self._refresh()
        self._choose(node)
        return node

    def removeCurrentNode(self):
        if self._current:
            self._scene.RemoveNode(self._current)

    def _on_noneEnabled(self, value):
        self._refresh()

    _on_nodeTypes = _on_showHidden = _on_showChildNodeTypes = _on_addEnabled = _on_noneDisplay = _on_noneEnabled


@stand_in("ctkCollapsibleButton", base=QtWidgets.QPushButton)
class _CollapsibleButton:
    """A titled section whose contents lie inside the button itself. As in CTK, what was hidden stays so when opened."""

    _forcing = False

    def __init__(self, *args):
        super(made["ctkCollapsibleButton"], self).__init__(*args)
        self._wanted = {}  # id of a child → whether it is to be seen while this is open
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(lambda open_: self._show_contents(open_))
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Preferred, policy.Preferred)

    def _show_contents(self, shown):
        for child in self.children():
            self._fit(child)
        self.setMaximumHeight(16777215 if shown else 26)
        self.contentsCollapsed.emit(not shown)

    def _fit(self, child):
        if isinstance(child, QtWidgets.QWidget):
            self._forcing = True
            child.setVisible(not self.collapsed and self._wanted.get(id(child), True))
            self._forcing = False

    def childEvent(self, event):
        if event.type() == QtCore.QEvent.Type.ChildAdded:
            event.child().installEventFilter(self)

    def eventFilter(self, child, event):
        types = QtCore.QEvent.Type
        if event.type() in (types.ShowToParent, types.HideToParent) and not self._forcing:
            self._wanted[id(child)] = event.type() == types.ShowToParent
            self._fit(child)
        return False

    collapsed = Property(
        bool, lambda self: not original(self, "isChecked")(), lambda self, value: self.setChecked(not value)
    )

    def sizeHint(self):
        layout = self.layout()
        if self.collapsed or not layout:
            return QtCore.QSize(120, 26)
        hint = layout.sizeHint()
        return QtCore.QSize(max(120, hint.width()), hint.height())

    def minimumSizeHint(self):
        layout = self.layout()
        if self.collapsed or not layout:
            return QtCore.QSize(120, 26)
        return QtCore.QSize(max(120, layout.minimumSize().width()), layout.minimumSize().height())

    def event(self, event):
        types = QtCore.QEvent.Type
        if event.type() == types.LayoutRequest:
            self.updateGeometry()
        if self.layout() and event.type() in (types.Polish, types.Show):
            self.layout().setContentsMargins(9, 30, 9, 6)  # below the title
        return super(made["ctkCollapsibleButton"], self).event(event)

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        title = QtCore.QRect(0, 0, original(self, "width")(), 24)
        painter.fillRect(title, QtGui.QColor("#d8dde6"))
        text = ("▸ " if self.collapsed else "▾ ") + original(self, "text")()
        painter.drawText(title.adjusted(8, 0, 0, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, text)
        painter.end()


@stand_in("ctkCollapsibleGroupBox")
class _CollapsibleGroupBox:
    def __init__(self, *args):
        super(made["ctkCollapsibleGroupBox"], self).__init__(*args)
        self.setCheckable(True)
        self.toggled.connect(lambda open_: self._show_contents(open_))

    def _show_contents(self, shown):
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(shown)

    collapsed = Property(
        bool, lambda self: not original(self, "isChecked")(), lambda self, value: self.setChecked(not value)
    )


@stand_in("ctkSliderWidget", {"maximum": 99.0, "singleStep": 1.0, "decimals": 2})
class _SliderWidget:
    _value = 0.0

    def __init__(self, parent=None):
        super(made["ctkSliderWidget"], self).__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._slider.setRange(0, 1000)
        self._box = QtWidgets.QDoubleSpinBox()
        _row(self, self._slider, self._box)
        self._box.valueChanged.connect(lambda value: setattr(self, "value", value))
        self._slider.sliderMoved.connect(self._dragged)
        self._show()

    def _dragged(self, position):
        self.value = self.minimum + position / 1000 * (self.maximum - self.minimum)

    def _show(self):
        self._box.blockSignals(True)
        self._box.setDecimals(self.decimals)
        self._box.setRange(self.minimum, self.maximum)
        self._box.setSingleStep(self.singleStep)
        self._box.setSuffix(self.suffix or "")
        self._box.setValue(self._value)
        self._box.blockSignals(False)
        width = (self.maximum - self.minimum) or 1
        self._slider.setValue(round(1000 * (self._value - self.minimum) / width))

    def _set_value(self, value):
        value = min(max(float(value), self.minimum), self.maximum)
        if value != self._value:
            self._value = value
            self._show()
            self.valueChanged.emit(value)

    value = Property(float, lambda self: self._value, _set_value)

    def _on_minimum(self, limit):
        self._set_value(self._value)
        self._show()

    _on_maximum = _on_singleStep = _on_decimals = _on_suffix = _on_minimum


@stand_in("ctkPathLineEdit")
class _PathLineEdit:
    def __init__(self, *args):
        super(made["ctkPathLineEdit"], self).__init__(*args)
        self._line = QtWidgets.QLineEdit()
        browse = QtWidgets.QToolButton()
        browse.setText("…")
        _row(self, self._line, browse)
        self._line.textChanged.connect(self.currentPathChanged.emit)

    currentPath = Property(
        str, lambda self: original(self._line, "text")(), lambda self, value: self._line.setText(value or "")
    )

    def setCurrentPath(self, path):
        self._line.setText(path)

    def addCurrentPathToHistory(self):
        pass


@stand_in("ctkDirectoryButton")
class _DirectoryButton:
    _directory = ""

    def __init__(self, *args):
        super(made["ctkDirectoryButton"], self).__init__()
        self._button = QtWidgets.QPushButton()
        _row(self, self._button)
        self._set_directory(args[0] if args and isinstance(args[0], str) else "")

    def _set_directory(self, path):
        changed = path != self._directory
        self._directory = path
        self._button.setText(path or "…")
        if changed:
            self.directoryChanged.emit(path)

    directory = Property(str, lambda self: self._directory, _set_directory)


@stand_in("qMRMLTableView")
class _TableView:
    """Shows the real table node with one row per table row."""

    def __init__(self, parent=None):
        super(made["qMRMLTableView"], self).__init__(parent)
        self._scene, self._node, self._tag = None, None, None
        self.setModel(QtGui.QStandardItemModel(self))

    def setMRMLScene(self, scene):
        self._scene = scene

    def mrmlScene(self):
        return self._scene

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node):
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver("ModifiedEvent", lambda *_: self._fill())
        self._fill()

    def _fill(self):
        model = self.model()
        model.clear()
        if self._node is None:
            return
        columns = range(self._node.GetNumberOfColumns())
        model.setHorizontalHeaderLabels([self._node.GetColumnName(column) for column in columns])
        for row in range(self._node.GetNumberOfRows()):
            model.appendRow([QtGui.QStandardItem(self._node.GetCellText(row, column)) for column in columns])


def _draw_frame_with_name(self, event):
    area = original(self, "rect")()
    painter = QtGui.QPainter(self)
    painter.setPen(QtGui.QPen(QtGui.QColor("#9aa3b2"), 1, QtCore.Qt.PenStyle.DashLine))
    painter.drawRect(area.adjusted(0, 0, -1, -1))
    painter.drawText(area, QtCore.Qt.AlignmentFlag.AlignCenter, type(self).__name__)
    painter.end()


def _made_from_facts(name: str) -> type:
    members = {}
    if _base_class(name) is QtWidgets.QWidget:
        members = {"paintEvent": _draw_frame_with_name, "sizeHint": lambda self: QtCore.QSize(120, 24)}
    return stand_in(name)(type(name, (), members))


def install() -> None:
    """Put a stand-in for every widget of the facts into `slicer` and `ctk`."""
    for name in CLASSES:
        if not name.startswith(("ctk", "qMRML", "qSlicer")) or not issubclass(_base_class(name), QtWidgets.QWidget):
            continue
        setattr(ctk if name.startswith("ctk") else slicer, name, made.get(name) or _made_from_facts(name))
