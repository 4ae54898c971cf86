"""Networks of a user's own: built, checked, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.core.config import LAYERED, Placement, RunConfig
from sweeper.core.errors import SweeperError
from sweeper.data.fashion import SAMPLE
from sweeper.sweep.networks import with_source
from sweeper.training.folds import finish
from sweeper.training.gpu.layers import supports
from sweeper.training.images import Data
from sweeper.training.loop import train
from sweeper.training.networks import build_model
from sweeper.training.networks.check import check_network, fitting
from sweeper.training.networks.layers import Layers
from tests.support.factories import OWN, PLAIN, RESIDUAL, TORCHVISION, write

IMAGES = SAMPLE.spec
LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"


def config(file: str, function: str = "build", **fields: Any) -> RunConfig:
    return with_source(RunConfig.create(model=f"{file}:{function}", dataset="sample", **fields))


def building(folder: Path, body: str, arguments: str = "images") -> str:
    """A file whose function has that body."""
    return write(folder, f"from torch import nn\n\n\ndef build({arguments}):\n    {body}\n")


# --- networks that can be trained ------------------------------------------------------------------


def test_a_network_of_the_builders_layers_has_each_plain_placement(tmp_path: Path):
    found = fitting(config(write(tmp_path, PLAIN)), IMAGES)
    assert [p.value for p in found] == [
        "none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic",
    ]  # fmt: skip


def test_a_network_of_residual_blocks_has_each_placement(tmp_path: Path):
    found = fitting(config(write(tmp_path, RESIDUAL), "Net"), IMAGES)
    assert set(found) == set(Placement) - {Placement.OWN}


def test_a_network_of_one_weight_layer_has_no_room_for_either(tmp_path: Path):
    file = building(tmp_path, f"return {LINEAR}", "images, layers")
    assert fitting(config(file), IMAGES) == (Placement.NONE,)


def test_a_factory_gets_its_arguments(tmp_path: Path):
    model = build_model(config(write(tmp_path, PLAIN), **{"model.width": 3, "model.depth": 1}), IMAGES)
    assert [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [3]


def test_a_network_of_our_own_could_be_a_users(tmp_path: Path):
    """Built by the same layers from a file, `small` has the same weights and trains to the same bits."""
    file = write(tmp_path, """
        from torch import nn


        def build(images, layers):
            return nn.Sequential(
                *layers.conv(1, 8, pool=True), *layers.conv(8, 16, pool=True), nn.Flatten(), *layers.linear(784, 32),
                *layers.head(32, 10),
            )
    """)  # fmt: skip
    for placement in ("ic", "dropout-bn", "bn-dropout", "none"):
        torch.manual_seed(3)
        ours = build_model(RunConfig.create(model="small", placement=placement), IMAGES)
        torch.manual_seed(3)
        theirs = build_model(config(file, placement=placement), IMAGES)
        assert str(ours) == str(theirs)
        assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert supports(theirs)


def test_a_factory_of_torchvision_trains_as_it_is(tmp_path: Path, tiny: Data):
    small = Data(tiny.train.first(16), tiny.val.first(8))
    own = config(write(tmp_path, TORCHVISION), placement="own", batch_size=8, epochs=1)
    check_network(own, IMAGES)
    result = finish(train(own, small))
    assert result.history_sha256 == finish(train(own, small)).history_sha256
    assert result.history_sha256 != finish(train(own.derive(seed=1), small)).history_sha256


def test_a_check_leaves_torchs_random_numbers_as_they_were(tmp_path: Path):
    own = config(write(tmp_path, PLAIN))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    check_network(own, IMAGES)
    fitting(own, IMAGES)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("placement", [p.value for p in LAYERED])
def test_narrow_layers_of_the_builder_can_be_trained_with_and_without_a_pool(
    tmp_path: Path, placement: str, tiny: Data
):
    """BatchNorm of few channels returns a view, into which torch lets no layer write."""
    file = write(tmp_path, """
        from torch import nn


        def build(images, layers):
            return nn.Sequential(
                *layers.conv(1, 4, stride=2), *layers.conv(4, 4, pool=True), *layers.residual(4, 8, stride=2),
                *layers.residual(8, 8), *layers.head(8, 10, pool=True),
            )
    """)  # fmt: skip
    own = config(file, placement=placement, epochs=1, batch_size=50)
    check_network(own, IMAGES)
    assert finish(train(own, tiny)).history[0].train_loss < 3


def test_the_head_drops_once_before_the_classifier():
    """Behind a hidden layer its Dropout stands there already; without one, the classifier has it."""
    for before, expected in ((("linear",), 1), ((), 1)):
        layers = Layers(RunConfig.create(placement="bn-dropout"))
        parts = [*layers.conv(1, 4), *(layers.linear(8, 8) if before else ()), *layers.head(8, 2)]
        assert sum(isinstance(part, nn.Dropout) for part in parts) == expected
        assert isinstance(parts[-2], nn.Dropout)


# --- networks that cannot ----------------------------------------------------------------------------

BAD = {  # what the function has in its body, and what the line says
    "raises": ("raise RuntimeError('no weights')", "failed in line 5 of {file}: RuntimeError: no weights"),
    "no module": ("return 3", "returned int, not a torch.nn.Module"),
    "nothing": ("pass", "returned NoneType, not a torch.nn.Module"),
    "no parameters": ("return nn.Flatten()", "the network has no parameters to train"),
    "few logits": (
        "return nn.Sequential(nn.Flatten(), nn.Linear(784, 5))",
        "returned (2, 5) for 2 images; it must return logits (2, 10), one per class",
    ),
    "other size": (
        "return nn.Sequential(nn.Flatten(), nn.Linear(100, 10))",
        "mat1 and mat2 shapes cannot be multiplied (2x784 and 100x10)",
    ),
    "a tuple": (
        "return type('T', (nn.Linear,), {'forward': lambda self, x: (self.weight @ x.flatten(1).T,)})(784, 10)",
        "returned tuple for 2 images",
    ),
    "frozen": (
        f"return {LINEAR}.requires_grad_(False)", "parameter 1.weight is frozen, but every parameter must be trained",
    ),
    "unused": (
        f"net = {LINEAR}; net[1].register_parameter('extra', nn.Parameter(net[1].bias.detach())); return net",
        "parameter 1.extra gets no gradient: the logits do not depend on it",
    ),
    "lazy": (
        "return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))",
        "parameter 1.weight is lazy: give its layer the input size",
    ),
    "one image alone": (
        "return type('T', (nn.Linear,), {'forward': lambda self, x: nn.Linear.forward(self, x.flatten(1)).expand(2, -1)"
        " if not self.training else nn.Linear.forward(self, x.flatten(1))})(784, 10)",
        "returned (2, 10) for 1 images; it must return logits (1, 10)",
    ),
}  # fmt: skip


def refusal(own: RunConfig) -> str:
    """The message with which a network is refused; always one line."""
    with pytest.raises(SweeperError) as caught:
        check_network(own, IMAGES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("body", "says"), BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_network_that_cannot_be_trained_is_refused_in_one_line(tmp_path: Path, body: str, says: str):
    file = building(tmp_path, body)
    said = refusal(config(file, placement="own"))
    assert "net.py:build" in said
    assert says.format(file=file) in said


def test_batches_of_one_image_are_refused_with_batch_norm(tmp_path: Path):
    own = config(write(tmp_path, OWN), placement="own", batch_size=1)
    assert refusal(own) == "net.py:build: batch_size=1: BatchNorm needs 2 or more images in a batch"
    check_network(own.derive(batch_size=2), IMAGES)


def test_arguments_that_the_factory_does_not_have_are_refused(tmp_path: Path):
    own = config(write(tmp_path, PLAIN), **{"model.wdith": 3})
    assert refusal(own) == "arguments of net.py:build: got an unexpected keyword argument 'wdith'"


PROMISES = {
    "conv_dropout": ("bn-dropout", "Dropout in its convolutions", "*layers.linear(784, 8), nn.BatchNorm1d(8)"),
    "head_dropout": ("bn-head-dropout", "Dropout in its head", "nn.Linear(784, 8), nn.BatchNorm1d(8)"),
    "BatchNorm": ("bn", "BatchNorm", "*layers.linear(784, 8)"),
    "of blocks": ("bn-dropout-last", "Dropout in its residual blocks", "*layers.linear(784, 8), nn.BatchNorm1d(8)"),
    "of the pooling": (
        "bn-pool-dropout", "Dropout in its head, before global average pooling", "nn.Linear(784, 8), nn.BatchNorm1d(8)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("placement", "lacking", "parts"), PROMISES.values(), ids=PROMISES)
def test_a_network_without_what_its_placement_promises_is_refused(
    tmp_path: Path, placement: str, lacking: str, parts: str
):
    body = f"return nn.Sequential(nn.Flatten(), {parts}, nn.Linear(8, 10))"
    said = refusal(config(building(tmp_path, body, "images, layers"), placement=placement))
    assert said == f"placement={placement} needs {lacking}, but the network of net.py:build has none"


def test_layers_that_were_asked_for_and_left_out_do_not_count(tmp_path: Path):
    file = write(tmp_path, """
        from torch import nn


        def build(images, layers):
            layers.conv(1, 8), layers.linear(8, 8)
            return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
    """)  # fmt: skip
    assert "needs Dropout in its convolutions" in refusal(config(file, placement="bn-dropout"))


def test_a_placement_needs_a_factory_that_takes_layers_and_own_one_that_does_not(tmp_path: Path):
    assert "takes no argument `layers`, so its placement is own" in refusal(
        config(write(tmp_path, OWN), placement="bn")
    )
    assert "takes `layers`, and so a placement" in refusal(config(write(tmp_path, PLAIN), placement="own"))


# --- its file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{folder}/none.py:build", "none.py: no such file"),
        ("{folder}/net.py:nothing", "{folder}/net.py has no function 'nothing'"),
        ("{folder}/net.py:nn", "has no function 'nn'"),
        ("{folder}/broken.py:build", "failed in line 1 of {folder}/broken.py: SyntaxError: "),
        ("{folder}/missing.py:build", "failed in line 1 of {folder}/missing.py: ModuleNotFoundError: No module named"),
        ("no_such_module:build", "no module 'no_such_module' is installed"),
        ("no_such.module:build", "no module 'no_such.module' is installed"),
        ("tests.support.factories:nothing", "has no function 'nothing'"),
    ],
)
def test_a_factory_that_is_not_there_is_refused_in_one_line(tmp_path: Path, model: str, says: str):
    write(tmp_path, PLAIN)
    write(tmp_path, "def build(:\n", "broken.py")
    write(tmp_path, "import nowhere\n", "missing.py")
    with pytest.raises(SweeperError) as caught:
        check_network(with_source(RunConfig.create(model=model.format(folder=tmp_path))), IMAGES)
    assert says.format(folder=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_another_network(tmp_path: Path):
    one = config(write(tmp_path, PLAIN))
    build_model(one, IMAGES)
    two = config(write(tmp_path, PLAIN.replace("width=8", "width=9")))  # in the same second, of the same size
    assert one.key != two.key
    said = refusal(one)
    assert "net.py has changed since the run was recorded" in said
    assert "code/net.py" in said
    convs = [m.out_channels for m in build_model(two, IMAGES).modules() if isinstance(m, nn.Conv2d)]
    assert convs == [9, 9]


def test_the_key_does_not_depend_on_the_folder(tmp_path: Path):
    (tmp_path / "other").mkdir()
    one, other = config(write(tmp_path, PLAIN)), config(write(tmp_path / "other", PLAIN))
    assert one.model != other.model
    assert one.key == other.key
    assert one.model_name == other.model_name == "net.py:build"


def test_a_file_is_named_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, PLAIN)
    monkeypatch.chdir(tmp_path)
    assert config("net.py") == config(str(tmp_path / "net.py"))


def test_a_package_is_imported_by_its_name():
    own = with_source(RunConfig.create(model="torchvision.models:resnet18", placement="own"))
    assert own.model == "torchvision.models:resnet18"
    assert len(own.model_sha256) == 64
