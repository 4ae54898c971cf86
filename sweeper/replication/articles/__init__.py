"""The articles that sweeper reproduces: a module or a claims file each. A claims file of one's own is a further one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from sweeper.core.errors import UsageError
from sweeper.replication.article import DEFAULT, Article, ProtocolName, Reproduction

FILES: Final = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}
ARTICLES: Final = (DEFAULT, *FILES)


@cache
def find_article(name: str) -> Article:
    """Return one of our articles by its name."""
    if name in FILES:
        from sweeper.replication.claims_file import read_claims

        return read_claims(FILES[name], ours=True)
    from sweeper.replication.articles.learnopencv import ARTICLE

    return ARTICLE


def choose_article(name: str, file: Path | None) -> Article:
    """Return the article of a claims file, if one is given, else ours by its name.

    Raises:
        UsageError: the file is no claims file, or has the name of one of ours.
    """
    if file is None:
        return find_article(name)
    from sweeper.replication.claims_file import read_claims

    article = read_claims(file)
    if article.name in ARTICLES:
        raise UsageError(f"{file}: name: {article.name} is an article of sweeper. Choose another name.")
    return article


def reproduction(name: str = DEFAULT, protocol: ProtocolName = "full") -> Reproduction:
    """Return one of our articles under one of its protocols.

    Raises:
        UsageError: it has no such protocol.
    """
    return under(find_article(name), protocol)


def under(article: Article, protocol: ProtocolName) -> Reproduction:
    """Return an article under a protocol.

    Raises:
        UsageError: it has no such protocol.
    """
    if protocol not in article.protocols:
        raise UsageError(f"{article.name} has no protocol {protocol}. Use --protocol {', '.join(article.protocols)}.")
    return Reproduction(article, protocol)
