"""A script as Lightning's documentation shows it: a LightningModule, a Trainer with MLFlowLogger, Optuna around it."""

import lightning as L
import optuna
import torch
from lightning.pytorch.loggers import MLFlowLogger
from torch.nn import functional as F

from benchmarks.peers.recipe import RATES, curve, images, parse_args, tracking_uri, trial_config
from benchmarks.stock_recipe import loaders
from sweeper.core.config import RunConfig
from sweeper.data.fashion import SAMPLE
from sweeper.training.networks import build_model

args = parse_args()


class Classifier(L.LightningModule):
    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.model = build_model(config, SAMPLE.spec)
        self.accuracies: list[float] = []
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({"train_loss": loss, "train_accuracy": accuracy}, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        images, labels = batch
        logits = self.model(images)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({"val_loss": F.cross_entropy(logits, labels), "val_accuracy": accuracy})

    def on_validation_epoch_end(self) -> None:
        self.accuracies.append(self.trainer.callback_metrics["val_accuracy"].item())
        self.losses.append(self.trainer.callback_metrics["val_loss"].item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.config.lr)


def objective(trial: optuna.Trial) -> float:
    rates = {name: trial.suggest_float(name, low, high) for name, (low, high) in RATES.items()}
    config = trial_config(args.model, args.epochs, **rates)
    L.seed_everything(config.seed)
    train_loader, val_loader = loaders(config, images(config))
    logger = MLFlowLogger("fashion-mnist", run_name=f"trial {trial.number}", tracking_uri=tracking_uri())
    logger.log_hyperparams(rates)
    classifier = Classifier(config)
    trainer = L.Trainer(
        max_epochs=config.epochs, accelerator="cpu", logger=logger, enable_checkpointing=False, num_sanity_val_steps=0
    )
    trainer.fit(classifier, train_loader, val_loader)
    picture = curve(classifier.accuracies, classifier.losses)
    logger.experiment.log_figure(logger.run_id, picture, "curve.png")
    return classifier.accuracies[-1]


if __name__ == "__main__":
    sampler = optuna.samplers.TPESampler(seed=args.seed)
    study = optuna.create_study(
        study_name="sweep", storage="sqlite:///optuna.db", sampler=sampler, direction="maximize"
    )
    study.optimize(objective, n_trials=args.trials)
    print(study.best_trial.params, study.best_value)
