"""The claims of an article, the measures they need, and the ledger of verdicts."""
