"""The files of the project's habits agree with the Makefile, the pins and one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FILES = [
    *WORKFLOWS,
    *sorted(ROOT.glob(".github/**/*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / ".ci/run",
    ROOT / ".devcontainer/devcontainer.json",
    ROOT / ".pre-commit-config.yaml",
    ROOT / "constraints.txt",
    ROOT / "mkdocs.yml",
]

_MAKE = re.compile(r"(?:`|run: |&& |^ {4}|^)make ([a-z][a-z-]*)", re.MULTILINE)
_PATH = re.compile(r"(?<![\w/.-])(?:\.github|\.ci|scripts|src|tests)/[\w./-]*\w")


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_files_that_are_named_exist(file: Path) -> None:
    text = file.read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(_MAKE.findall(text)) <= targets
    if file.suffix in {".yml", ".json"} or file.name in {"run", "CONTRIBUTING.md"}:
        assert not [path for path in _PATH.findall(text) if not (ROOT / path).exists()]


def test_commands_are_found() -> None:
    """The test above would also pass if it found none."""
    found = {target for file in FILES for target in _MAKE.findall(file.read_text())}
    assert found >= {"lint", "test", "conformance", "coverage", "package", "docs", "setup"}


def test_pre_commit_runs_the_pinned_ruff() -> None:
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    hook = re.search(r"rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert pinned
    assert hook
    assert hook[1] == pinned[1]


def test_each_supported_python_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    matrix = re.search(r"python: \[(.+?)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert matrix
    assert re.findall(r'"(.+?)"', matrix[1]) == [*supported, "3.x"]


def test_the_site_has_every_document() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    documents = [path.name for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]]
    assert sorted(re.findall(r": (\S+\.md)$", nav, re.MULTILINE)) == sorted(documents)
