"""A script as Optuna's and MLflow's documentation show it: `study.optimize` with an MLflow run in the objective."""

import mlflow
import optuna

from benchmarks.peers.recipe import RATES, curve, images, parse_args, tracking_uri, trial_config
from benchmarks.stock_recipe import epochs

args = parse_args()


def objective(trial: optuna.Trial) -> float:
    rates = {name: trial.suggest_float(name, low, high) for name, (low, high) in RATES.items()}
    config = trial_config(args.model, args.epochs, **rates)
    history = []
    with mlflow.start_run(run_name=f"trial {trial.number}"):
        mlflow.log_params(rates)
        for step, epoch in enumerate(epochs(config, images(config)), 1):
            mlflow.log_metrics(epoch.metrics, step=step)
            history.append(epoch)
        mlflow.log_figure(curve([e.val_accuracy for e in history], [e.val_loss for e in history]), "curve.png")
    return history[-1].val_accuracy


if __name__ == "__main__":
    mlflow.set_tracking_uri(tracking_uri())
    mlflow.set_experiment("fashion-mnist")
    sampler = optuna.samplers.TPESampler(seed=args.seed)
    study = optuna.create_study(
        study_name="sweep", storage="sqlite:///optuna.db", sampler=sampler, direction="maximize"
    )
    study.optimize(objective, n_trials=args.trials)
    print(study.best_trial.params, study.best_value)
