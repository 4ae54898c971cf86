"""Every run on disk first, then in MLflow.

Owns the journal, its upload, and the records that are read back. In: `RunInfo`, epoch results, artifacts.
Out: runs in MLflow, and records of runs.
"""
