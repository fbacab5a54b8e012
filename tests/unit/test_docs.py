"""The documents say what is so: endpoints, files, links, names, the version."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import epoch
from epoch.app import App
from epoch.config import Settings
from epoch.metrics import metrics
from epoch.store.directory.store import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/epoch"
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md")})

_ROW = re.compile(r"^\| `([A-Z]+)` \| `([^`]+)` \| .* \| `([^`]+)` \|$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`|^ {4}(.+)$", re.MULTILINE)
_FILE = re.compile(r"[\w./-]+/?\.?[\w-]+\.(?:py|pyx|pyi|c|h|md|toml|yaml|service|conf)")
_METHOD = re.compile(r"\b([A-Z][A-Za-z0-9]+)\.(_?[a-z]\w*)\b")


async def test_every_endpoint_has_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "buffers", None)
    app = App(Settings(), DirectoryStore(tmp_path))
    try:
        served = {
            (method, endpoint.value)
            for endpoint, actions in app._actions.items()
            for method in actions
        }
    finally:
        await app.close()
    rows = _ROW.findall((ROOT / "docs/endpoints.md").read_text())
    assert {(method, path) for method, path, _ in rows} == served
    assert len(rows) == len(served)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            assert anchor in {_slug(text) for text in _HEADING.findall(target.read_text())}, link


def _slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _code(document: Path) -> list[str]:
    """What is written as code in a document."""
    return [quoted or block for quoted, block in _CODE.findall(document.read_text())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document: Path) -> None:
    for text in _code(document):
        # A path from the root is one of the machine that Epoch or its client runs on.
        if _FILE.fullmatch(text) and not text.startswith("/"):
            assert (ROOT / text).exists() or (SOURCE / text).exists(), f"{document.name}: {text}"


def test_tests_that_are_named_exist() -> None:
    """In whatever document: `tests/...py::test_name`."""
    named = {text for document in DOCUMENTS for text in _code(document) if "::" in text}
    for text in named:
        path, _, name = text.partition("::")
        functions = re.findall(r"^(?:async )?def (\w+)", (ROOT / path).read_text(), re.MULTILINE)
        assert name in functions, text
    assert named


def _methods() -> set[tuple[str, str]]:
    """Every class with every function and field in its body, in `src/epoch`."""
    found = set()
    for path in [*SOURCE.rglob("*.py"), *SOURCE.glob("*.pyi")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add((node.name, item.name))
    return found


def test_methods_in_the_architecture_exist() -> None:
    methods = _methods()
    named = {
        match for text in _code(ROOT / "ARCHITECTURE.md") for match in _METHOD.findall(text)
    } - {("README", "md")}
    assert len(named) > 20
    assert not named - methods


def test_the_changelog_is_about_this_version() -> None:
    found = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found
    assert found[1] == epoch.__version__
