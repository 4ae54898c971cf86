"""What the ledger of claims computes with: tests of one number, and how a claim is made of several."""
