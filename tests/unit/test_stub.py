"""`_fastio.pyi` is the manual of `_fastio`: the same names, the same signatures, all documented."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path
from types import ModuleType

import pytest

from epoch import _fastio
from epoch._fastio import Pool

STUB = Path(str(_fastio.__file__)).with_name("_fastio.pyi")
TREE = ast.parse(STUB.read_text())
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef)}
OF_CYTHON = {"__reduce_cython__", "__setstate_cython__", "__pyx_vtable__", "__test__"}


def public(thing: type | ModuleType) -> set[str]:
    """Names that users see."""
    return {name for name in vars(thing) if not name.startswith("_")}


def parameters(node: ast.FunctionDef) -> list[tuple[str, bool, bool]]:
    """Name, whether it is positional only, whether it has a default."""
    arguments = node.args
    assert (arguments.vararg, arguments.kwarg, arguments.kwonlyargs) == (None, None, [])
    every = [*arguments.posonlyargs, *arguments.args]
    plain = len(every) - len(arguments.defaults)
    return [
        (argument.arg, at < len(arguments.posonlyargs), at >= plain)
        for at, argument in enumerate(every)
        if argument.arg != "self"
    ]


def built(function: object) -> list[tuple[str, bool, bool]]:
    """The same of a built function: Cython writes its signature into the first line of its
    docstring (`embedsignature`)."""
    line = str(inspect.getdoc(function)).splitlines()[0]
    assert line.endswith(")"), line
    found: list[tuple[str, bool, bool]] = []
    for item in filter(str.strip, line[line.index("(") + 1 : -1].split(",")):
        if item.strip() == "/":
            found = [(name, True, default) for name, _, default in found]
            continue
        declared, equals, _ = item.partition("=")
        name = declared.split()[-1]  # what is before it is its C type
        found.append((name, False, bool(equals)))
    return [parameter for parameter in found if parameter[0] != "self"]


def test_the_names_are_the_same() -> None:
    assert public(_fastio) == FUNCTIONS.keys() | CLASSES.keys()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_members_are_the_same(name: str) -> None:
    node, cls = CLASSES[name], getattr(_fastio, name)
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    attributes = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assert {member for member in methods | attributes if member[0] != "_"} == public(cls)
    for special in methods & {"__len__"}:
        assert hasattr(cls, special)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_properties_are_read_only_and_attributes_are_not(name: str) -> None:
    for item in CLASSES[name].body:
        if isinstance(item, ast.FunctionDef) and item.decorator_list:
            descriptor = vars(getattr(_fastio, name))[item.name]
            assert inspect.isdatadescriptor(descriptor), item.name
    part = Pool(4096).lend(1, 1, 1)
    assert part is not None
    with pytest.raises(AttributeError):
        part.filled = 0  # type: ignore[misc]
    part.window = 2
    assert part.window == 2


def _callables() -> list[tuple[str, ast.FunctionDef, object]]:
    found: list[tuple[str, ast.FunctionDef, object]] = [
        (name, node, getattr(_fastio, name)) for name, node in FUNCTIONS.items()
    ]
    for name, node in CLASSES.items():
        cls = getattr(_fastio, name)
        for item in node.body:
            if not isinstance(item, ast.FunctionDef) or item.decorator_list:
                continue
            if item.name[0] != "_":
                found.append((f"{name}.{item.name}", item, getattr(cls, item.name)))
    return found


@pytest.mark.parametrize(
    ("node", "function"),
    [pytest.param(node, function, id=name) for name, node, function in _callables()],
)
def test_the_signatures_are_the_same(node: ast.FunctionDef, function: object) -> None:
    assert built(function) == parameters(node)


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"PartBuffer"}))
def test_the_constructors_take_the_same(name: str) -> None:
    """Cython embeds no signature for them, so they are called."""
    sample = {
        "state": None,
        "budget": 4096,
        "on_free": None,
        "limit": 1,
        "overhead": 1,
        "digest": _fastio.Sha256(),
        "part_size": 1,
    }
    cls = getattr(_fastio, name)
    node = next(
        item
        for item in CLASSES[name].body
        if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    )
    every = parameters(node)
    cls(**{parameter: sample[parameter] for parameter, _, _ in every})
    needed = [parameter for parameter, _, default in every if not default]
    cls(*(sample[parameter] for parameter in needed))
    for parameter in needed:
        with pytest.raises(TypeError):
            cls(**{other: sample[other] for other, _, _ in every if other != parameter})
    with pytest.raises(TypeError):
        cls(*(sample[parameter] for parameter, _, _ in every), None)


def test_what_owns_memory_cannot_be_copied() -> None:
    part = Pool(4096).lend(1, 1, 1)
    for thing in (
        *(part, Pool(1), _fastio.Sha256(), _fastio.ChunkedDecoder(1)),
        _fastio.HashQueue(_fastio.Sha256()),
    ):
        with pytest.raises(TypeError):
            copy.copy(thing)
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_everything_is_documented() -> None:
    assert ast.get_docstring(TREE)
    for name, node in (FUNCTIONS | CLASSES).items():
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        assert ast.get_docstring(node), name
    for cls in CLASSES.values():
        for item in cls.body:
            if isinstance(item, ast.FunctionDef) and item.name != "__buffer__":
                assert ast.get_docstring(item), f"{cls.name}.{item.name}"
