"""The names that patterns stand for, and models of which some weights are fixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simfl.errors import ConfigError
from simfl.models import Batch, TorchModel, fixed_names, personal_names, resolve_names


class RMSNorm(nn.Module):
    """A norm of somebody else's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))


class PreNorm(nn.Module):
    """A layer that contains a norm, and much that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = RMSNorm(3)
        self.attention = nn.Linear(3, 3, bias=False)


def net() -> nn.Module:
    return nn.Sequential(
        nn.ModuleDict({"one": nn.Linear(3, 3), "oneself": nn.Linear(3, 3)}),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        PreNorm(),
    )


STATS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["0.one.bias"], ("0.one.bias",)),
        (["0.one"], ("0.one.weight", "0.one.bias")),  # and not oneself
        (["0.one*.bias"], ("0.one.bias", "0.oneself.bias")),
        (["3.*"], ("3.inner.scale", "3.attention.weight")),
        (["*.attention"], ("3.attention.weight",)),
        (["norm"], ("1.weight", "1.bias", *STATS, "3.inner.scale")),
        (["3.inner", "0.one.[!b]*", "1.running_*"], ("0.one.weight", *STATS[:2], "3.inner.scale")),
        ([], ()),
    ],
)
def test_patterns_name_weights_layers_and_norms(patterns: list[str], names: tuple[str]) -> None:
    assert resolve_names(net(), patterns) == names


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "0.won",
            "names '0.won', but the model has no such weight or layer. Did you mean",
        ),
        ("head", "names 'head', but the model has no such weight or layer. It has '0', '0.one', "),
        ("2", "names layer '2', which has no weights; remove it"),
        ("xyz*", "names 'xyz*', but"),
    ],
)
def test_what_the_model_does_not_have_is_refused_with_what_it_has(
    pattern: str, message: str
) -> None:
    with pytest.raises(ConfigError, match="names") as error:
        resolve_names(net(), [pattern])
    assert str(error.value).startswith(message)


def test_norm_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match="no normalisation layer with weights"):
        resolve_names(nn.Linear(2, 2), ["norm"])


def test_a_tied_weight_is_named_whole_or_not_at_all() -> None:
    module = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4, bias=False))
    module[1].weight = module[0].weight
    with pytest.raises(ConfigError, match=r"names '1.weight' but not '0.weight', and both are one"):
        resolve_names(module, ["1"])
    assert resolve_names(module, ["*.weight"]) == ("0.weight",)


def test_something_is_left_to_train_and_something_to_share() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with pytest.raises(ConfigError, match="every weight that is trained; leave one out"):
        fixed_names(module, ["*"])
    with pytest.raises(ConfigError, match="clients would share none"):
        personal_names(module, ["1"], fixed=("0.weight",))
    assert personal_names(module, ["1"]) == ("1.weight",)


def test_a_personal_weight_is_neither_fixed_nor_frozen() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"names '1.bias', and so does model.fixed"):
        personal_names(module, ["1"], fixed=("1.bias",))
    module[1].bias.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"'1.bias', which is frozen \(requires_grad is False\)"):
        personal_names(module, ["1"])


def test_fixed_weights_are_neither_trained_nor_part_of_the_models_weights() -> None:
    torch.manual_seed(0)
    module = net_for_steps()
    fixed = resolve_names(module, ["0", "norm"])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model = TorchModel(module, "mse", fixed=fixed)
    batch = Batch(torch.randn(5, 3), torch.randn(5, 1))
    model.evaluate(batch)
    for _ in range(2):
        _, gradients = model.compute_loss_and_gradients(batch)
        model.apply_updates(gradients * -0.1)
    assert model.get_weights().names == model.shared_names == ("2.weight", "2.bias")
    assert model.compute_delta(model.get_weights()).names == ("2.weight", "2.bias")
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in fixed)
    assert not torch.equal(before["2.weight"], after["2.weight"])
    assert module.training
    assert not module[1].training


def test_a_fixed_batch_norm_normalises_by_its_averages_while_its_model_trains() -> None:
    """As torch's own layer does in evaluation mode."""
    module = net_for_steps()
    with torch.no_grad():
        module[1].running_mean.fill_(3.0)
    model = TorchModel(module, "mse", fixed=resolve_names(module, ["norm"]))
    inputs = torch.randn(5, 3)
    outputs = model.call(inputs)
    assert torch.equal(outputs, module.eval()(inputs))
    model.enter_training()
    assert [layer.training for layer in module] == [True, False, True]


def test_a_fixed_buffer_of_the_module_itself_leaves_its_layers_in_training_mode() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)
            self.register_buffer("seen", torch.tensor(0.0))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen += 1.0
            return self.layer(inputs) + 0.0 * self.seen

    module = Root()
    model = TorchModel(module, "mse", fixed=["seen"])
    batch = Batch(torch.randn(5, 3), torch.randn(5, 1))
    model.evaluate(batch)
    assert not module.layer.training
    model.compute_loss_and_gradients(batch)
    assert module.layer.training
    assert module.seen == 0.0


def net_for_steps() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
