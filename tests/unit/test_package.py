"""What pyproject.toml says of the package: what it needs, and that the pinned versions fit."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]

_KEPT = {"aiobotocore"}
"""What is required and not imported yet: see pyproject.toml."""


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def _imported_packages() -> set[str]:
    """Top-level packages of others that `src/epoch` imports, for types alone too."""
    found = set()
    for path in [*ROOT.glob("src/epoch/**/*.py"), *ROOT.glob("src/epoch/**/*.pyi")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - {"epoch"}


def test_dependencies_are_what_is_imported() -> None:
    distributions = packages_distributions()
    imported = {
        canonicalize_name(name)
        for package in _imported_packages()
        for name in distributions[package]
    }
    assert imported | _KEPT == _names(PROJECT["dependencies"])


def _pins() -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = Version(version)
    return pins


def test_each_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    pins = _pins()
    for text in [
        *PYPROJECT["build-system"]["requires"],
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]:
        requirement = Requirement(text)
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{text} does not allow {pin}"


def test_wheels_are_built_for_the_versions_that_the_classifiers_name() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [text.removeprefix(prefix) for text in PROJECT["classifiers"] if prefix in text]
    assert PYPROJECT["tool"]["cibuildwheel"]["build"] == [
        f"cp3{minor}-manylinux_*" for minor in named
    ]
    assert PROJECT["requires-python"] == f">=3.{named[0]}"
