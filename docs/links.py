"""Find dead links, pictures that no page shows, and pages that the navigation lacks: a part of `make check`.

Zensical checks the links between pages. This also checks README.md and its neighbours, and links to other files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
OUTSIDE: Final = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")]
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """Return a page without its blocks of code and without the programs that write its tables."""
    text = re.sub(r"<!-- \[\[\[cog.*?-->", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Zensical write them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    """Yield one line for each link of a page that leads nowhere, or out of the site."""
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists():
            yield f"{page.relative_to(ROOT)}: {link} does not exist"
        elif DOCS in page.parents and DOCS not in target.parents:
            yield f"{page.relative_to(ROOT)}: {link} is not a part of the site"
        elif anchor and anchor not in anchors(target):
            yield f"{page.relative_to(ROOT)}: {link} names no heading"


def problems() -> Iterator[str]:
    """Yield one line for each problem of the documentation."""
    pages = sorted(DOCS.rglob("*.md"))
    for page in [*OUTSIDE, *pages]:
        yield from dead_links(page)
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in pages:
        if DOCS / "results" / "benchmarks" not in page.parents and f" {page.relative_to(DOCS)}\n" not in navigation:
            yield f"{page.relative_to(ROOT)} is not in the navigation of mkdocs.yml"
    shown = "".join(page.read_text() for page in [*OUTSIDE, *pages])
    for picture in sorted((DOCS / "images").iterdir()):
        if f"/{picture.name})" not in shown:
            yield f"{picture.relative_to(ROOT)} is on no page"


if __name__ == "__main__":
    found = list(problems())
    sys.exit("\n".join(found) or None)
