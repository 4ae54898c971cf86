"""Articles, trained again and judged.

Owns arms, protocols, claims, statistics and verdicts. In: runs of `sweep`. Out: a ledger and its pages.
"""
