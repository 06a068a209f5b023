"""Check a built site: no page or style needs anything from elsewhere, and every local link has a target.

python docs/site/check_built.py build/site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, by element and attribute; a link's target is fetched only when it is followed.
_FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "image": ("href", "xlink:href"),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_NOT_FETCHED = {"canonical", "alternate", "next", "prev", "license", "author"}  # of <link rel=...>
_IN_STYLE = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


class _Page(HTMLParser):
    """What a page fetches, what it links to, and which ids it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self._style = tag == "style"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and _NOT_FETCHED & set(given.get("rel", "").split()):
            return
        self.fetched += [given[name] for name in _FETCHED.get(tag, ()) if name in given]
        self.fetched += in_style(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._style:
            self.fetched += in_style(data)
            self._style = False


def in_style(text: str) -> list[str]:
    """The addresses that a style sheet fetches."""
    return [first or second for first, second in _IN_STYLE.findall(text)]


def problems(site: Path) -> list[str]:
    """Describe everything that is wrong with a site, one line for each problem."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    lines = [] if pages else [f"{site}: no pages"]
    for path, page in pages.items():
        name = path.relative_to(site)
        lines += [f"{name}: fetches {address}" for address in page.fetched if _elsewhere(address)]
        if name.name != "404.html":  # its links are absolute
            lines += [f"{name}: {fault}" for link in page.links if (fault := _broken(link, path, pages)) is not None]
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        lines += [f"{path.relative_to(site)}: fetches {address}" for address in in_style(text) if _elsewhere(address)]
    return lines


def _elsewhere(address: str) -> bool:
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def _broken(link: str, path: Path, pages: dict[Path, _Page]) -> str | None:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return f"links to {link}, which does not exist"
    known = {page.resolve(): content for page, content in pages.items()}.get(target) if parts.fragment else None
    if known is not None and unquote(parts.fragment) not in known.ids | {"__top"}:
        return f"links to {link}, whose anchor does not exist"
    return None


if __name__ == "__main__":
    faults = problems(Path(sys.argv[1]))
    print("\n".join(faults) or "The site is complete, and fetches nothing from elsewhere.")
    sys.exit(bool(faults))
