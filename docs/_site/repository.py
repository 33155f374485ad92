"""Files of the repository outside docs that pages link to: they come along, and links are turned to them."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "repository"  # where they stand on the site
SHOWN_AS_CODE = {".py"}  # these become pages of their own

_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def linked():
    """site uri -> file, of all that pages link to outside docs, and what is linked from there in turn."""
    found = {}
    waiting = sorted((ROOT / "docs").rglob("*.md"))
    while waiting:
        page = waiting.pop()
        for target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            place = _place(target, page.relative_to(ROOT).as_posix())
            file = ROOT / place if place else ROOT / "docs"
            uri = _uri(place) if place else ""
            if file.is_file() and uri.startswith(f"{FOLDER}/") and uri not in found:
                found[uri] = file
                if file.suffix == ".md":
                    waiting.append(file)
    return found


def rewrite_links(markdown, uri):
    """The page with each link to a file outside docs, or from there into docs, made relative to `uri`."""
    here = uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else f"docs/{uri}"

    def turned(match):
        place = _place(match[1], here)
        if place is None or not (ROOT / place).is_file():
            return match[0]
        return posixpath.relpath(_uri(place), posixpath.dirname(uri)) + (match[2] or "")

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(turned, part) for part in parts)


def as_page(file):
    """A page that shows a program."""
    name = file.relative_to(ROOT).as_posix()
    return f"# {name}\n\n```python\n{file.read_text(encoding='utf-8').rstrip()}\n```\n"


def _place(target, page):
    """Where a link of `page` leads, from the repository's root; None for addresses of the web."""
    if re.match(r"\w+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _uri(place):
    """Where a file of the repository is on the site."""
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    stem, suffix = posixpath.splitext(place)
    return f"{FOLDER}/{stem}.md" if suffix in SHOWN_AS_CODE else f"{FOLDER}/{place}"
