"""A script as the documentation of Hydra's Optuna sweeper shows it: the decorated function returns the objective."""

import os

import hydra
import mlflow
from omegaconf import DictConfig

from benchmarks.peers.recipe import RATES, curve, images, trial_config
from benchmarks.stock_recipe import epochs


@hydra.main(version_base=None, config_path="conf", config_name="sweep")
def main(params: DictConfig) -> float:
    mlflow.set_tracking_uri(f"sqlite:///{os.environ['HOME_OF_SWEEP']}/mlflow.db")
    mlflow.set_experiment("fashion-mnist")
    rates = {name: params[name] for name in RATES}
    config = trial_config(params.model, params.epochs, **rates)
    history = []
    with mlflow.start_run():
        mlflow.log_params(rates)
        for step, epoch in enumerate(epochs(config, images(config)), 1):
            mlflow.log_metrics(epoch.metrics, step=step)
            history.append(epoch)
        mlflow.log_figure(curve([e.val_accuracy for e in history], [e.val_loss for e in history]), "curve.png")
    return history[-1].val_accuracy


if __name__ == "__main__":
    main()
