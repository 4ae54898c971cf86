"""The services behind `sweeper serve`, independent of everything else: imports only `core`.

Owns PostgreSQL, MLflow's server, the dashboard, their supervision and backups.
"""
