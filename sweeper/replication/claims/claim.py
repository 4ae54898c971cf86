"""A claim of an article, and the question that judges it."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.replication.claims.questions import Question


@dataclass(frozen=True)
class Claim:
    """One claim of an article.

    Attributes:
        number: its place in the ledger, from 1.
        says: the claim, in few words.
        question: the answer to which decides it.
        notes: how the claim is read, and what differs from the article.
        needs_full: the reason why only protocol full on all of FashionMNIST can test it.
        section: the part of the article that makes the claim.
    """

    number: int
    says: str
    question: Question
    notes: tuple[str, ...] = ()
    needs_full: str = ""
    section: str = ""
