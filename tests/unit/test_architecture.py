"""Who may import whom in `src/epoch`: read from the source, `TYPE_CHECKING` included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import epoch.errors

SOURCE = Path(epoch.errors.__file__).parent
LEAVES = {
    "fan_out",
    "single_flight",
    "errors",
    "config",
    "metrics",
    "log",
    "environment",
    "progress",
}
DATA = LEAVES | {"_fastio", "layout", "oci", "store", "http.message"}
"""What the rooms of handlers may import. They are blind to one another."""

ALLOWED: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "": set(),
    "_fastio": set(),
    "http": LEAVES | {"_fastio"},
    "oci": LEAVES,
    "layout": {"errors", "oci"},
    "store": LEAVES | {"_fastio", "oci", "layout"},
    "upload": DATA | {"garbage.pins"},
    "download": DATA | {"garbage.pins"},
    "registry": DATA | {"garbage.pins"},
    "garbage": DATA | {"registry"},
    "auth": DATA | {"http.routes"},
    "app": DATA | {"http", "upload", "download", "registry", "garbage", "auth"},
    "process": DATA | {"http", "app", "auth.guard", "garbage", "registry", "upload"},
    "cli": LEAVES
    | {"layout", "process", "garbage.report", "registry.verify", "store.base", "auth.htpasswd"},
    "__main__": {"cli"},
}
"""By room, the rooms (or modules) that it may import besides itself."""


def _name(path: Path) -> str:
    """A module's dotted name without `epoch.`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in SOURCE.rglob("*.py")} | {"_fastio": SOURCE / "_fastio.pyi"}


def _imports(module: str) -> Iterator[str]:
    """Modules of ours that `module` imports, anywhere in its text."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            # `from epoch.store import keys` names the module epoch.store.keys
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inner = name.partition(".")
            if package == "epoch":
                while inner and inner not in MODULES:
                    inner = inner.rpartition(".")[0]
                yield inner


IMPORTS = {module: sorted(set(_imports(module))) for module in MODULES}


def _room(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_keep_to_the_rooms(module: str) -> None:
    room = _room(module)
    allowed = ALLOWED[room] | {room, ""}  # from epoch itself: the version
    odd = [name for name in IMPORTS[module] if not {name, _room(name)} & allowed]
    assert not odd, f"epoch.{module} must not import {odd}"


def test_no_module_imports_itself_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_table_names_every_room() -> None:
    assert {_room(module) for module in MODULES} <= ALLOWED.keys()


def test_leaves_are_single_modules() -> None:
    assert MODULES.keys() >= LEAVES
    for leaf in LEAVES:
        assert MODULES[leaf].name == f"{leaf}.py"


def test_the_package_itself_imports_nothing() -> None:
    tree = ast.parse(MODULES[""].read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_one_module_only_knows_the_s3_library() -> None:
    """aiobotocore and botocore stay within the store's room; asyncio is not for leaves."""
    for module, path in MODULES.items():
        found = {
            (alias.name if isinstance(node, ast.Import) else str(node.module)).partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        if _room(module) != "store":
            assert not found & {"aiobotocore", "botocore", "aiohttp"}, module
        if _room(module) in LEAVES - {"fan_out", "single_flight"} | {"_fastio", ""}:
            assert not found & {"asyncio", "uvloop", "httptools"}, module
