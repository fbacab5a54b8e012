"""The hook of mkdocs.yml: documents of the root become pages, and links are made to fit.

The pages of the site lie in one folder. A link to a file that is not there becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+://)([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md and its siblings to the documents in docs/."""
    for path in sorted(ROOT.glob("*.md")):
        files.append(File.generated(config, path.name, abs_src_path=str(path)))
    return files


def on_page_markdown(
    markdown: str,
    page: Page,
    config: MkDocsConfig,  # noqa: ARG001 MkDocs names all arguments
    files: Files,
) -> str:
    """Make links by way of the repository's folders into links between pages."""
    folder = "" if (ROOT / page.file.src_uri).exists() else "docs"

    def fit(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        if not path:
            return link[0]
        place = posixpath.normpath(posixpath.join(folder, path)).removeprefix("docs/")
        return f"[{text}]({place}{anchor})" if files.get_file_from_path(place) else text

    return LINK.sub(fit, markdown)
