"""A network of your own: search over its placements and its width. Run it in an empty folder."""

from pathlib import Path

from torch import nn

import sweeper


def build(images, layers, width=8):
    """Return a network whose BatchNorm and Dropout stand where the placement wants them."""
    height, wide, channels = images.shape
    return nn.Sequential(
        layers.conv(channels, width, pool=True),
        layers.conv(width, 2 * width, pool=True),
        nn.Flatten(),
        layers.linear(2 * width * (height // 4) * (wide // 4), 32),
        layers.head(32, len(images.classes)),
    )


if __name__ == "__main__":  # sweeper runs this file again to call `build`
    base = sweeper.experiment(6, dataset="sample", train_images=1500, epochs=2).derive(experiment=0)
    base = base.derive(model=f"{Path(__file__).resolve()}:build")
    study = sweeper.optimize(
        base,
        {"placement": ["bn", "bn-dropout", "dropout-bn"], "model.width": [4, 8]},
        study_name="widths",
        n_trials=4,
        workers=2,
    )
    print(study.trials_dataframe()[["number", "value", "params_placement", "params_model.width"]])
    print("test accuracy", study.champion().metrics["test/accuracy"])
