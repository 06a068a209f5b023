"""An MkDocs hook: pages from files outside docs, the reference of the command line, and links between all of these.

Links in the repository's Markdown lead to files, so that they work where the repository is browsed. On the site, a link
to the source of a page leads to the page, and a link to any other file of the repository becomes its text.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from commands import command_reference  # noqa: E402 (beside this file, which is loaded by its path)

log = logging.getLogger("mkdocs.plugins.pages")
# Lists in a Returns section are indented by two more; Griffe reads them, and warns.
logging.getLogger("mkdocs.plugins.griffe").addFilter(lambda record: "Confusing indentation" not in record.getMessage())

_SAMPLES = ("android", "c", "cpp", "csharp", "demo", "ios", "java", "node", "python", "react-native", "web")
# Pages by the file of the repository that they are made from.
SOURCES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "converters/README.md": "converters.md",
    "samples/README.md": "samples/index.md",
    "samples/web/core/README.md": "samples/web-core.md",
    "tests/benchmarks/defaults.md": "results-defaults.md",
    "tests/benchmarks/choice/README.md": "results-auto.md",
} | {f"samples/{name}/README.md": f"samples/{name}.md" for name in _SAMPLES}
_FILES = {page: source for source, page in SOURCES.items()}

_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files of docs."""
    for source, page in SOURCES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "cli.md", content=command_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead the links of a page to pages."""
    uri = page.file.src_uri
    source = _FILES.get(uri, f"docs/{uri}")
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [_linked(markdown[end : code.start()], source, uri), code[0]]
        end = code.end()
    return "".join([*parts, _linked(markdown[end:], source, uri)])


def _linked(text: str, source: str, uri: str) -> str:
    return _LINK.sub(lambda match: _link(match, source, uri), text)


def _link(match: re.Match[str], source: str, uri: str) -> str:
    image, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target) or uri == "cli.md":
        return match[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if f"{file}/README.md" in SOURCES:
        file = f"{file}/README.md"
    if file in SOURCES:
        led = SOURCES[file]
    elif file.startswith("docs/"):
        led = file.removeprefix("docs/")
    elif (ROOT / file).exists() and not image:
        return text if "`" in text else f"`{text}`" if text == file else text
    else:
        log.warning("%s links to %s, which does not exist", source, target)
        return match[0]
    relative = posixpath.relpath(led, posixpath.dirname(uri) or ".")
    return f"{image}[{text}]({relative}{'#' + anchor if anchor else ''})"
