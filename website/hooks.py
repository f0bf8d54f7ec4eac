"""What mkdocs does beside its own: the generated pages, and links that lead out of docs/.

The pages in docs/ are also read in the repository, where a link such as ``../deploy/nginx/relay.conf``
leads to the file. On the site such a file or directory gets a page that shows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "build" / "reference"

_LINK = re.compile(r"\]\((?P<path>\.\./[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".conf": "nginx", ".service": "ini"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted(GENERATED.glob("*.md")):
        files.append(
            File.generated(config, f"reference/{path.name}", content=path.read_text("utf-8"))
        )
    shown: set[str] = set()
    for page in list(files.documentation_pages()):
        for target in _targets(page.content_string, page.src_uri):
            if target not in shown:
                shown.add(target)
                files.append(_page_of(target, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri

    def to_page(link: re.Match[str]) -> str:
        target = _outside(here, link["path"])
        if target is None:
            return link[0]
        path = posixpath.relpath(_name(target), posixpath.dirname(here))
        return f"]({path}{link['anchor'] or ''})"

    return _LINK.sub(to_page, markdown)


def _targets(markdown: str, src_uri: str) -> Iterator[str]:
    for link in _LINK.finditer(markdown):
        if target := _outside(src_uri, link["path"]):
            yield target


def _outside(src_uri: str, path: str) -> str | None:
    """The path in the repository that a link on a page leads to; None within docs/."""
    found = posixpath.normpath(posixpath.join("docs", posixpath.dirname(src_uri), path))
    return None if found.startswith("docs/") else found


def _name(target: str) -> str:
    return f"repository/{target.removesuffix('.md')}.md"


def _page_of(target: str, config: MkDocsConfig) -> File:
    """A page that shows a file, or all files of a directory. Raises OSError for a dead link."""
    path = ROOT / target
    if path.suffix == ".md":
        text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", path.read_text("utf-8"))
    elif path.is_dir():
        parts = [_shown(each) for each in sorted(path.rglob("*")) if each.is_file()]
        text = "\n".join([f"# {target}/\n", *parts])
    else:
        text = f"# {target}\n\n{_shown(path)}"
    return File.generated(config, _name(target), content=text, inclusion=InclusionLevel.NOT_IN_NAV)


def _shown(path: Path) -> str:
    language = _LANGUAGES.get(path.suffix, "text")
    title = path.relative_to(ROOT)
    return f'````{language} title="{title}"\n{path.read_text("utf-8").rstrip()}\n````\n'
