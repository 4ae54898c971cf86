-- Run once, by the image of PostgreSQL on an empty volume: a role for each program and a database for each schema.
-- psql reads the passwords from files: they are on no command line.
\set mlflow_password `cat /run/secrets/mlflow-database-password`
\set optuna_password `cat /run/secrets/optuna-database-password`
\set dashboard_password `cat /run/secrets/dashboard-database-password`
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE ROLE optuna LOGIN PASSWORD :'optuna_password';
CREATE ROLE dashboard LOGIN PASSWORD :'dashboard_password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE optuna OWNER optuna;
REVOKE CONNECT ON DATABASE mlflow, optuna, postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE optuna TO dashboard;
\connect optuna
ALTER DEFAULT PRIVILEGES FOR ROLE optuna IN SCHEMA public GRANT SELECT ON TABLES TO dashboard;
