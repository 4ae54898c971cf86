"""Optuna, driven by ask and tell.

Owns the study's database, samplers, pruners, the search space and the lock. In: results of trials.
Out: trials to train, and a study as rows.
"""
