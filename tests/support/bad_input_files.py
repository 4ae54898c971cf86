"""Rows of the table of bad input: files of search spaces and of known configurations."""

from __future__ import annotations

import itertools
from typing import Final

from tests.support.bad_input_row import SAMPLE, Row, on_sample

BILLION: Final = (
    "a: &a ["
    + "x," * 9
    + "]\n"
    + "".join(f"{c}: &{c} [" + f"*{p}," * 9 + "]\n" for p, c in itertools.pairwise("abcdefghi"))
)
SPACES: Final[dict[str, tuple[str, str]]] = {
    "unknown: [1]": ("unknown field", "unknown field 'unknown'"),
    "batch_size: []": ("empty choice", "empty choice"),
    'batch_size: ["64"]': ("string instead of a number", "'64' is a string"),
    'batch_size: [64, "64"]': ("string instead of a number", "'64' is a string"),
    'lr: ["1e-3"]': ("string instead of a number", "'1e-3' is a string"),
    "lr: {low: 1e-4, high: 1e999}": ("infinite", "finite"),
    'batch_size: [!!int ""]': ("tag", "tags"),
    'lr: [!!float ""]': ("tag", "tags"),
    "lr: !!timestamp foo": ("tag", "tags"),
    "lr: {low: 0.1, high: 0.2, log: !!bool maybe}": ("tag", "tags"),
    "batch_size: [64, 64]": ("repeated choice", "listed twice"),
    "batch_size: {low: 1, high: 8}": ("range instead of a list", "takes a list"),
    "head_dropout: {low: 0.5, high: 0.1}": ("low above high", "low is above high"),
    "head_dropout: {low: .nan, high: 0.5}": ("NaN", "finite"),
    "head_dropout: {low: 0, high: 1.0}": ("dropout rate", "head_dropout='1.0'"),
    "lr: {low: 0, high: 1, log: true}": ("logarithm of 0", "above 0"),
    "placement: [nowhere]": ("placement", "nowhere"),
    "placement: [none]\nconv_dropout: [0.1, 0.3]": ("rate that no placement uses", "no Dropout in its convolutions"),
    "placement: [none, bn]\nhead_dropout: {low: 0, high: 0.6}": ("rate that no placement uses", "none, bn has no"),
    "batch_size: [64, 6001]": ("batch size above the training set", "batch_size=6001"),
    "placement: [bn]\nbatch_size: [1]": ("batch size 1 with BatchNorm", "batch_size=1"),
    "a: [1\nb: ]": ("not YAML", "not YAML"),
    "a: &x [1]\nb: [*x, *x]": ("aliases", "aliases"),
    BILLION: ("1 GB of aliases", "aliases"),
    "[1, 2]": ("not a mapping", "not a mapping"),
    "": ("empty file", "not a mapping"),
    "x: " + "y" * 100_000: ("too large", "larger than"),
    "[" * 1_000: ("nested too deep", "nested more than"),
    "batch_size: [64]\x00": ("NUL", "not YAML"),
}  # fmt: skip

SPACE: Final = (
    *(
        Row(f"search space: {what}", ("optimize", *SAMPLE, "--space", "{space}"), 2, (says,), given="space", kind=text)
        for text, (what, says) in SPACES.items()
    ),
    Row("search space: no such file", ("optimize", *SAMPLE, "--space", "nowhere.yaml"), 2, ("nowhere.yaml",)),
    Row("search space: folder", ("optimize", *SAMPLE, "--space", "."), 2, ("Is a directory",)),
)

KNOWN: Final[dict[str, tuple[str, str, str]]] = {
    "- {placement: bn}\n- {batch_size: 48}": ("yaml", "outside the space", "row 2: 'batch_size=48'"),
    "- {lr: 0.001}": ("yaml", "not a dimension", "row 1: 'lr=0.001'"),
    "- {placement: bn, conv_dropout: 0.1}": ("yaml", "rate that the placement does not use", "conv_dropout=0.1"),
    "placement: bn": ("yaml", "not a list", "not a list"),
    "- {placement: *a}": ("yaml", "aliases", "aliases"),
    "batch_size\n64\n48": ("csv", "outside the space", "row 2: 'batch_size=48'"),
    "placement\n": ("csv", "no rows", "no configurations"),
    "placement\nbn,64": ("csv", "too many values", "row 1: 2 values for 1 column"),
}
KNOWN_FILES: Final = (
    *(
        Row(f"known configurations: {what}", ("optimize", *SAMPLE, "--enqueue", f"{{{kind}}}"), 2, (says,),
            given="known", kind=text)
        for text, (kind, what, says) in KNOWN.items()
    ),
    Row("known configurations: no such file", on_sample("optimize --enqueue nowhere.csv"), 2, ("nowhere.csv",)),
)  # fmt: skip
