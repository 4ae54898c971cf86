"""What all other packages speak: values, errors and places.

Owns configurations, experiments, trials, results, errors, the environment, files and text.
In: what a user typed. Out: frozen values. Imports neither torch nor optuna nor mlflow.
"""
