"""What mkdocs does beside reading `docs/`: pages that are made, links that leave `docs/`, formulas."""

import html
import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import layout  # noqa: E402
import made_pages  # noqa: E402

ROOT = Path(__file__).parents[2]
log = logging.getLogger("mkdocs.hooks.pjax_prim")  # a warning fails a strict build

# Files of the repository that are pages of the site though they lie outside `docs/`.
OUTSIDE = ("benchmarks/RESULTS.md", "benchmarks/ARCHIVE.md", "CHANGELOG.md", "CONTRIBUTING.md")


def on_startup(command: str, dirty: bool) -> None:
    """Makes the links before the handlers look for their folder, which they leave out if it is missing."""
    layout.link(ROOT, ROOT / "build" / "docs")


def on_files(files: Files, config: Any) -> Files:
    pages = {name: (ROOT / name).read_text() for name in OUTSIDE} | made_pages.pages(ROOT)
    for name, text in pages.items():
        content: str | bytes = text
        files.append(File.generated(config, name, content=content))
    for name, data in made_pages.pictures(ROOT).items():
        files.append(File.generated(config, name, content=data))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that are right in the repository become links of the site."""
    source = page.file.src_uri
    # Where the page lies in the repository: the pages of `docs/`, or what stands outside of it.
    folder = posixpath.dirname(source if source in OUTSIDE else posixpath.join("docs", source))

    def replace(match: re.Match[str]) -> str:
        target, anchor = match[2], match[3] or ""
        if "://" in target or not target:
            return match[0]
        inside = posixpath.normpath(posixpath.join(folder, target))
        page_name = _page_of(inside)
        if page_name is None:
            return match[0]
        start = posixpath.dirname(source) or "."
        return f"{match[1]}({posixpath.relpath(page_name, start)}{anchor or _anchor_of(inside)})"

    return re.sub(r"(\])\(([^)#\s]*)(#[^)\s]*)?\)", replace, markdown)


def _page_of(inside: str) -> str | None:
    """The page of a file of the repository, None if mkdocs finds it as it is."""
    if inside in OUTSIDE:
        return inside
    if inside.startswith("docs/notebooks/") and inside.endswith(".ipynb"):
        return inside.removeprefix("docs/").removesuffix(".ipynb") + ".md"
    if inside.startswith("docs/"):
        return inside.removeprefix("docs/")
    if inside == "README.md":
        return "index.md"
    if inside.startswith("examples"):
        return "examples.md"
    if inside.startswith("benchmarks"):
        return "benchmarks.md"
    return None


def _anchor_of(inside: str) -> str:
    is_example = inside.startswith("examples/") and inside.endswith(".py")
    return f"#{made_pages.anchor(inside)}" if is_example else ""


_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[\[(])(?P<tex>.*?)\\[\])]</(?P=tag)>', re.S
)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    for image in re.findall(r"<img[^>]*>", content):
        if not re.search(r'alt="[^"]+"', image):
            log.warning("%s: a picture has no text: %s", page.file.src_uri, image)

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["open"] == "[" else "inline"
        tex = html.unescape(match["tex"]).strip().replace(r"\arg\min", r"\mathrm{arg}\,\min")
        mathml = str(convert(tex, display=display))
        if re.search(r">\\[a-zA-Z]+<", mathml):
            log.warning("%s: a formula has an unknown command: %s", page.file.src_uri, tex)
        return mathml

    return _FORMULA.sub(formula, content)
