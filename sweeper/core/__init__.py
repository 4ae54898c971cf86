"""Values, errors and places that all other packages share.

Owns configurations, experiments, trials, results, errors, the environment, files and text.
In: what a user typed. Out: frozen values. Imports neither torch nor optuna nor mlflow.
"""
