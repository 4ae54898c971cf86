"""Statistics of the ledger: tests of one number against one bound, and claims that combine several tests."""
