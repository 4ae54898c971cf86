"""The services behind `sweeper serve`, apart from all else: imports `core` alone.

Owns PostgreSQL, MLflow's server, the dashboard, their supervision and backups.
"""
