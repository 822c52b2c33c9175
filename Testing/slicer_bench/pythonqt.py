"""Gives PySide6 the access style of Slicer's PythonQt, as the modules `qt` and `ctk`.

In Slicer a Qt property is an attribute (`button.text = "…"`, `button.enabled`), signals are connected by their
signature (`button.connect("clicked()", slot)`), a list of strings comes back as a tuple, and an attribute that a Qt
object does not have cannot be set. PySide6 differs in all four; this module changes its classes, for the whole process.
"""

import ctypes
import os
import sys
import types
import xml.etree.ElementTree as ET
from typing import ClassVar

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
# As in PythonQt, enumerations are integers and have short names. To be set before the first import of PySide6.
sys.pyside6_option_python_enum = 0x02 | 0x08 | 0x10

import shiboken6  # noqa: E402
from PySide6 import QtCore, QtGui, QtTest, QtUiTools, QtWidgets  # noqa: E402

_original: dict[tuple[type, str], object] = {}  # PySide6's own attributes that became properties
_strict = True
_installed: tuple[types.ModuleType, types.ModuleType, QtWidgets.QApplication] | None = None


def original(obj, name: str):
    """PySide6's own method of an object, where a property of the same name hides it."""
    for cls in type(obj).__mro__:
        if (cls, name) in _original:
            return _original[(cls, name)].__get__(obj)
    return getattr(obj, name)


class _PythonQtProperty(property):
    """A property of objects; the class itself still gives PySide6's static function (`QTimer.singleShot`)."""

    def __get__(self, obj, owner=None):
        if obj is not None:
            return property.__get__(self, obj, owner)
        name = self.fget.__name__
        return next((_original[(cls, name)] for cls in owner.__mro__ if (cls, name) in _original), self)


def _function(cls: type, name: str):
    """PySide6's function of a class or its bases; None where there is none."""
    for base in cls.__mro__:
        if (base, name) in _original:
            return _original[(base, name)]
        if name in base.__dict__:
            found = base.__dict__[name]
            return None if isinstance(found, property) else found
    return None


def _property(cls: type, name: str) -> _PythonQtProperty:
    capital = name[0].upper() + name[1:]
    getters = (_function(cls, candidate) for candidate in (name, "is" + capital, "get" + capital, "has" + capital))
    getter = next((g for g in getters if callable(g)), None)
    setter = _function(cls, "set" + capital)

    def fget(self):
        value = getter(self) if getter else QtCore.QObject.property(self, name)
        return tuple(value) if isinstance(value, list) else value

    def fset(self, value):
        if callable(setter):
            setter(self, value)
        elif not QtCore.QObject.setProperty(self, name, value):
            raise AttributeError(f"cannot set property {name}")

    fget.__name__ = name
    return _PythonQtProperty(fget, fset)


def _turn_properties_into_attributes(cls: type) -> None:
    meta = cls.__dict__.get("staticMetaObject")
    if meta is None:
        return
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name in cls.__dict__ and (cls, name) not in _original:
            _original[(cls, name)] = cls.__dict__[name]
        setattr(cls, name, _property(cls, name))


def _signal(obj, signature: str) -> QtCore.SignalInstance:
    found = getattr(obj, signature.split("(")[0].strip(), None)
    if not isinstance(found, QtCore.SignalInstance):
        raise RuntimeError(f"{type(obj).__name__} has no signal {signature}")  # PythonQt warns and returns False
    overload = signature.partition("(")[2].rstrip(") ")
    try:
        return found[overload] if overload else found
    except (KeyError, IndexError, TypeError):  # stand-ins have one overload of plain Python objects
        return found


def _connect(self, *args):
    if len(args) == 3 and args[0] is self:  # PySide6's own QTimer.singleShot; its signal is "2timeout()"
        args = (args[1].lstrip("2"), args[2])
    if len(args) == 2 and isinstance(args[0], str):
        _signal(self, args[0]).connect(args[1])
        return True
    if len(args) == 3 and isinstance(args[0], str):
        _signal(self, args[0]).connect(getattr(args[1], args[2].split("(")[0]))
        return True
    return _pyside_connect(self, *args)


def _disconnect(self, *args):
    if len(args) == 2 and isinstance(args[0], str):
        return bool(_signal(self, args[0]).disconnect(args[1]))
    return _pyside_disconnect(self, *args)


def _keep_none_alive():
    """PySide6 6.12 loses a reference to None at every call of a function that returns nothing. From Python 3.12 on None
    cannot die; before, a long test would kill it."""
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def _connecting(pyside_getattribute):
    """Attribute access that answers `connect` and `disconnect`; PySide6 does it in C, before the class's dictionary."""

    def getattribute(self, name):
        if name == "connect":
            return types.MethodType(_connect, self)
        if name == "disconnect":
            return types.MethodType(_disconnect, self)
        return pyside_getattribute(self, name)

    return getattribute


_pyside_connect, _pyside_disconnect = QtCore.QObject.connect, QtCore.QObject.disconnect


def _setattr(self, name, value):
    cls = type(self)
    if _strict and not name.startswith("_"):
        plain = cls.__module__.startswith("PySide6.") or "_facts" in cls.__dict__
        if plain and not hasattr(cls, name) and name.encode() not in QtCore.QObject.dynamicPropertyNames(self):
            raise AttributeError(f"Attribute '{name}' does not exist on '{cls.__name__}' (PythonQt would refuse this)")
    for base in cls.__mro__:  # the look-up of object.__setattr__, which CPython refuses for these classes
        found = base.__dict__.get(name)
        if isinstance(found, QtCore.Property):
            QtCore.QObject.setProperty(self, name, value)
            return
        if found is not None and hasattr(type(found), "__set__"):
            found.__set__(self, value)
            return
    self.__dict__[name] = value


class UiLoader(QtUiTools.QUiLoader):
    """Loads `.ui` files with stand-ins for Slicer's and CTK's widgets, and makes their connections."""

    stand_ins: ClassVar[dict[str, type]] = {}

    def createWidget(self, className, parent=None, name=""):
        cls = self.stand_ins.get(className)
        if cls is None:
            return super().createWidget(className, parent, name)
        widget = cls(parent)
        original(widget, "setObjectName")(name)
        return widget

    def load(self, device, parent=None):
        root = ET.fromstring(bytes(device.readAll()).decode())
        device.close()
        connections = []
        for section in root.findall("connections"):  # made below: Qt does not know the stand-ins' C++ argument types
            connections += [[c.findtext(t) for t in ("sender", "signal", "receiver", "slot")] for c in section]
            root.remove(section)
        foreign = {w.get("class") for w in root.iter("widget") if w.get("class").startswith(("q", "ctk"))}
        if unknown := sorted(foreign - set(self.stand_ins)):
            raise RuntimeError(f"the .ui file has widgets without a stand-in: {unknown}")
        buffer = QtCore.QBuffer()
        original(buffer, "setData")(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        global _strict
        _strict = False  # PySide6's loader sets the children as attributes of the widget
        try:
            widget = QtUiTools.QUiLoader.load(self, buffer, parent)
        finally:
            _strict = True
        named = {original(o, "objectName")(): o for o in [widget, *QtCore.QObject.findChildren(widget, QtCore.QObject)]}
        for sender, signal, receiver, slot in connections:
            target = getattr(named[receiver], slot.split("(")[0])
            getattr(named[sender], signal.split("(")[0]).connect(target)
        return widget


def _use_readable_font(application: QtWidgets.QApplication) -> None:
    """The off-screen platform may know no font: text would be boxes. Matplotlib, which VTK needs, brings one."""
    import matplotlib

    folder = os.path.join(os.path.dirname(matplotlib.__file__), "mpl-data", "fonts", "ttf")
    for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf"):
        QtGui.QFontDatabase.addApplicationFont(os.path.join(folder, name))
    application.setFont(QtGui.QFont("DejaVu Sans", 9))


def install() -> tuple[types.ModuleType, types.ModuleType, QtWidgets.QApplication]:
    """Make `import qt` and `import ctk` work; a second call changes nothing. Returns both and the application."""
    global _installed
    if _installed:
        return _installed
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["SlicerBench"])
    _use_readable_font(application)
    qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
    changed: set[type] = set()
    for module in (QtCore, QtGui, QtWidgets, QtUiTools, QtTest):
        for name in (n for n in dir(module) if not n.startswith("_")):
            value = getattr(module, name)
            setattr(qt, name, value)
            if isinstance(value, type) and issubclass(value, QtCore.QObject):
                for cls in reversed(value.__mro__):
                    if issubclass(cls, QtCore.QObject) and cls not in changed:
                        changed.add(cls)
                        _turn_properties_into_attributes(cls)
    _keep_none_alive()
    base = QtCore.QObject
    for cls in {base, *(cls for cls in changed if "__getattribute__" in cls.__dict__)}:  # QProcess has its own
        cls.__getattribute__ = _connecting(cls.__getattribute__)
    base.name = property(lambda s: original(s, "objectName")(), lambda s, v: original(s, "setObjectName")(v))
    base.className = lambda self: type(self).__name__
    base.delete = lambda self: shiboken6.delete(self)
    for cls in changed:
        cls.__setattr__ = _setattr
    qt.QUiLoader = UiLoader
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    _installed = qt, ctk, application
    return _installed
