"""A page as those read it who do not see it: what is wrong with its structure is found."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final

_VOID: Final = {"meta", "link", "input", "img", "br", "hr"}
_NAMED: Final = ("aria-label", "aria-labelledby")

Attributes = dict[str, str]


class Page(HTMLParser):
    """Everything of a page, and its ``faults``; ``text`` is what is read of it."""

    def __init__(self, markup: str, *, is_part: bool = False) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, Attributes, tuple[str, ...]]] = []
        self.faults: list[str] = []
        self._open: list[tuple[str, Attributes]] = []
        self._texts: list[str] = []
        self._inner: dict[int, str] = {}
        self._indexes: list[int] = []
        self.feed(markup)
        self.close()
        if self._open:
            self.faults.append(f"left open: {[tag for tag, _ in self._open]}")
        self._check_all()
        if not is_part:
            self._check_whole()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    def tags(self, *names: str) -> list[Attributes]:
        return [attributes for tag, attributes, _ in self.elements if tag in names]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if len(attributes) != len(attrs):
            self.faults.append(f"{tag}: an attribute twice")
        self._check_element(tag, attributes)
        self.elements.append((tag, attributes, tuple(name for name, _ in self._open)))
        if tag not in _VOID:
            self._open.append((tag, attributes))
            self._indexes.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.faults.append(f"</{tag}> closes {[name for name, _ in self._open]}")
            return
        self._open.pop()
        self._indexes.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] in ("script", "style") and data.strip():
            self.faults.append(f"inline {self._open[-1][0]}: {data.strip()[:40]}")
        self._texts.append(data)
        for index in self._indexes:
            self._inner[index] = self._inner.get(index, "") + data

    def _check_element(self, tag: str, attributes: Attributes) -> None:
        if tag == "style" or "style" in attributes:
            self.faults.append(f"inline style of {tag}")
        if tag == "script" and not attributes.get("src", "").startswith("/static/"):
            self.faults.append("a script that is not ours")
        if tag in ("iframe", "object", "embed", "base"):
            self.faults.append(f"a {tag}")
        for name, value in attributes.items():
            if name.startswith("on"):
                self.faults.append(f"{name} of {tag}")
            if name in ("href", "src", "action") and not value.startswith(("/", "#")):
                self.faults.append(f"{tag} leads to {value!r}")
        if tag == "img" and "alt" not in attributes:
            self.faults.append("img without alt")
        if tag == "table" and not self._is_in_named_region():
            self.faults.append("a table that does not scroll in a region with a name")
        if tag == "th" and attributes.get("scope") not in ("row", "col"):
            self.faults.append("th without scope")

    def _is_in_named_region(self) -> bool:
        return any(
            attributes.get("role") == "region"
            and attributes.get("tabindex") == "0"
            and any(name in attributes for name in _NAMED)
            for _, attributes in self._open
        )

    def _check_all(self) -> None:
        ids = [a["id"] for _, a, _ in self.elements if "id" in a]
        for name in {name for name in ids if ids.count(name) > 1}:
            self.faults.append(f"two elements are {name}")
        names: list[str] = []
        for tag, attributes, parents in self.elements:
            for name in ("aria-labelledby", "aria-describedby", "for"):
                for wanted in attributes.get(name, "").split():
                    if wanted not in ids:
                        self.faults.append(f"{name} of {tag}: there is no {wanted}")
            if tag in ("input", "select") and attributes.get("type") != "hidden":
                labels = [a.get("for") for a in self.tags("label")]
                if attributes.get("id") not in labels:
                    self.faults.append(f"{tag} {attributes.get('name')} without a label")
            is_landmark = tag in ("nav", "section") or attributes.get("role") == "region"
            if is_landmark and not any(name in attributes for name in _NAMED):
                self.faults.append(f"{tag} without a name")
            if is_landmark:
                names.append(" ".join(attributes.get(name, "") for name in _NAMED))
            if attributes.get("role") == "img" and "aria-labelledby" not in attributes:
                self.faults.append("a picture without a name")
            if tag == "form" and attributes.get("method") == "post" and not parents:
                self.faults.append("a form outside of the page")
        if len(set(names)) != len(names):
            self.faults.append(f"landmarks with one name: {names}")
        for index, (tag, _, _) in enumerate(self.elements):
            if tag in ("a", "button", "h1", "h2", "label", "summary", "title", "th"):
                inner = self._inner.get(index, "").strip()
                if not inner:
                    self.faults.append(f"an empty {tag}")

    def _check_whole(self) -> None:
        if [a.get("lang") for a in self.tags("html")] != ["en"]:
            self.faults.append("no language")
        for tag in ("main", "h1", "header", "footer"):
            if len(self.tags(tag)) != 1:
                self.faults.append(f"{len(self.tags(tag))} times {tag}")
        if not any("width=device-width" in a.get("content", "") for a in self.tags("meta")):
            self.faults.append("no viewport")
        before = 0
        for tag, _, _ in self.elements:
            if tag in ("h1", "h2", "h3", "h4"):
                if int(tag[1]) > before + 1:
                    self.faults.append(f"{tag} after h{before}")
                before = int(tag[1])
        if before == 0:
            self.faults.append("no heading")
