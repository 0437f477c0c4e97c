"""What the site shows beside docs/: the repository's own pages, and Mermaid from a package instead of a CDN.

Each page exists once. README.md, CONTRIBUTING.md and the like stay where a reader of the repository looks for them; the
site gets copies whose links point to the site's pages. A link to a file that is no page of the site (code, an example)
becomes plain text there.
"""

from __future__ import annotations

import posixpath
import re
from importlib.resources import files as package_files
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "deploy/README.md": "deploy.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages, and the script that draws the diagrams."""
    for source, target in PAGES.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=with_site_links(text, source)))
    # The wheel ships Mermaid's own build. Material uses a global `mermaid` where there is one and fetches none then.
    script = package_files("mermaidx").joinpath("assets", "mermaid.js").read_bytes()
    files.append(File.generated(config, "javascripts/mermaid.js", content=script))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ (`../CONTRIBUTING.md`) to the site's copies."""
    source = page.file.src_uri  # type: ignore[attr-defined]
    return markdown if source in PAGES.values() else with_site_links(markdown, f"docs/{source}")


def with_site_links(text: str, source: str) -> str:
    """The page's text with every link to a file of the repository as the site has it."""
    folder = posixpath.dirname(source)
    page_folder = posixpath.dirname(PAGES.get(source, source.removeprefix("docs/")))

    def replaced(found: re.Match[str]) -> str:
        mark, shown, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        path = f"{path}/README.md" if f"{path}/README.md" in PAGES or path == "docs/decisions" else path
        if path in PAGES:
            path = PAGES[path]
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
        elif (REPOSITORY / path).exists():
            return shown
        else:
            return found[0]  # a dead link: left for mkdocs to refuse
        return f"{mark}[{shown}]({posixpath.relpath(path, page_folder or '.')}{anchor})"

    return _LINK.sub(replaced, text)
