"""The pages and files that show a ledger and the runs behind it."""
