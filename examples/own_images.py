"""Images of your own: search for the best placement on scikit-learn's digits. Run it in an empty folder."""

from pathlib import Path

from sklearn.datasets import load_digits

import sweeper


def digits():
    """Return x_train, y_train, x_test, y_test: uint8 (N, 8, 8), labels 0 to 9."""
    found = load_digits()
    x, y = (found.images * 15).astype("uint8"), found.target
    return x[:1500], y[:1500], x[1500:], y[1500:]


if __name__ == "__main__":  # sweeper runs this file again to call `digits`
    base = sweeper.experiment(
        6, model="small", dataset=f"{Path(__file__).resolve()}:digits", split="holdout", epochs=3, batch_size=64
    )
    study = sweeper.optimize(
        base, {"placement": ["none", "bn", "bn-dropout"]}, study_name="digits", n_trials=4, workers=2
    )
    print(study.best_params, study.best_value)
    champion = study.champion()
    print("test accuracy", champion.metrics["test/accuracy"])
    print(sweeper.xray(champion.model(), champion.batches(batch_size=64)))
