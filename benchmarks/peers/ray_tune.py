"""A script as Ray Tune's documentation shows it: a Tuner with OptunaSearch and MLflowLoggerCallback, a CPU a trial."""

from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from benchmarks.peers.recipe import RATES, curve, images, parse_args, tracking_uri, trial_config
from benchmarks.stock_recipe import epochs


def train_fashion_mnist(params: dict[str, Any]) -> None:
    config = trial_config(params["model"], params["epochs"], **{name: params[name] for name in RATES})
    history = []
    for epoch in epochs(config, images(config)):
        history.append(epoch)
        if len(history) == config.epochs:  # the callback logs what lies in the trial's folder at its end
            picture = curve([e.val_accuracy for e in history], [e.val_loss for e in history])
            picture.savefig(Path(tune.get_context().get_trial_dir()) / "curve.png")
        tune.report(epoch.metrics)


if __name__ == "__main__":
    args = parse_args()
    search = OptunaSearch(metric="val_accuracy", mode="max", sampler=optuna.samplers.TPESampler(seed=args.seed))
    tuner = tune.Tuner(
        train_fashion_mnist,
        param_space={
            **{name: tune.uniform(low, high) for name, (low, high) in RATES.items()},
            "model": args.model,
            "epochs": args.epochs,
        },
        tune_config=tune.TuneConfig(search_alg=search, num_samples=args.trials),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(Path.cwd() / "ray"),
            callbacks=[
                MLflowLoggerCallback(tracking_uri=tracking_uri(), experiment_name="fashion-mnist", save_artifact=True)
            ],
        ),
    )
    best = tuner.fit().get_best_result(metric="val_accuracy", mode="max")
    print(best.config, best.metrics)
