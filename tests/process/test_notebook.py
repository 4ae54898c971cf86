"""The notebook of the examples, executed by a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_sweep.ipynb"


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, alone: dict[str, str]):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute(env=alone)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert all("ipywidgets" in text for text in said), said  # tqdm's advice, on Optuna's import of it
    assert "variance" in outputs[-1].text
    assert (tmp_path / "report" / "first.html").is_file()
