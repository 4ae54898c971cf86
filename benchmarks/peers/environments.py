"""An environment a peer, with its pins, laid over that of sweeper: torch, torchvision and MLflow are the same.

python -m benchmarks.peers.environments [FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.pages import ROOT

FOLDER: Final = ROOT / "build" / "peers"  # not in git


class Peer(NamedTuple):
    """A tool: how a page names it, its script, and what has to be installed for it."""

    title: str
    script: str
    pins: tuple[str, ...] = ()


PEERS: Final = {
    "optuna": Peer("plain Optuna + MLflow script", "optuna_mlflow.py"),
    "ray": Peer("Ray Tune, OptunaSearch, MLflowLoggerCallback", "ray_tune.py", ("ray[tune]==2.60.0",)),
    "hydra": Peer(
        "Hydra's Optuna sweeper, MLflow", "hydra_sweep.py", ("hydra-core==1.3.2", "hydra-optuna-sweeper==1.2.0")
    ),
    "lightning": Peer(
        "Lightning, Optuna, MLFlowLogger", "lightning_sweep.py", ("lightning==2.6.6", "pytorch-lightning==2.6.6")
    ),
}


def python_of(name: str, folder: Path) -> str:
    """The interpreter of a peer's environment, which is made where it is not there yet."""
    pins = PEERS[name].pins
    if not pins:
        return sys.executable
    home = folder / name
    python, done = home / "bin" / "python", home / "pins.txt"
    if not done.is_file() or done.read_text().split() != list(pins):
        print(f"making the environment of {name} in {home}", flush=True)
        venv.create(home, clear=True, symlinks=True)
        own = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (own / "below.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins]
        subprocess.run([python, *install], check=True, stderr=subprocess.DEVNULL)
        done.write_text("\n".join(pins))
    return str(python)


def versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    """The versions of packages in an environment."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    said = subprocess.run([python, "-c", code, *names], check=True, capture_output=True, text=True).stdout
    return dict(zip(names, said.split(), strict=True))


if __name__ == "__main__":
    for each in PEERS:
        print(each, python_of(each, Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
