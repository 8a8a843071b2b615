"""Low-rank adapters by ``peft``: put into a module, written to its files, and read from them.

A folder of peft's holds ``adapter_model.safetensors`` and ``adapter_config.json``. Its names are
the module's, with a prefix and without the adapter's own name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from simfl.component import Count, Fraction, Positive, Section
from simfl.errors import ConfigError, did_you_mean, import_extra

MARK: Final = ".lora_"
"""In the names of all weights of adapters, and of no others."""

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"

_NAME: Final = "default"
"""What peft calls an adapter that is not named."""
_PREFIX: Final = "base_model.model."
_TASKS: Final = {
    "causal-lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
    "sequence-classification": "SEQ_CLS",
}


@dataclass(frozen=True, kw_only=True)
class LoRA(Section):
    """Low-rank adapters: W x becomes W x + (alpha / rank) B A x, with A random and B zero at first.

    Source: Hu et al., 2022, https://arxiv.org/abs/2106.09685
    """

    rank: Count = 8
    """The rows of A, and the columns of B."""
    alpha: Positive = 16.0
    """The scale of the adapters, times the rank."""
    dropout: Fraction = 0.0
    """The fraction of the adapters' inputs that are dropped in training."""
    targets: tuple[str, ...] | None = None
    """The layers with an adapter, by the ends of their names, such as ``q_proj``; ``all-linear``
    alone: all but the head. Null: those that peft knows for the architecture."""
    rslora: bool = False
    """Whether to scale by alpha / sqrt(rank) instead (https://arxiv.org/abs/2312.03732)."""


def add_adapters(module: nn.Module, lora: LoRA, *, head: Collection[str]) -> None:
    """Put new adapters into a module, in place.

    Args:
        module: a model of transformers.
        lora: what they are like.
        head: the names of its head's weights, which ``all-linear`` leaves out.

    Raises:
        ConfigError: for a target that no layer has.
    """
    peft = import_extra("peft", what="model.lora", extra="llm")
    takes_all = lora.targets == ("all-linear",)
    if lora.targets and not takes_all:
        _require_layers(module, lora.targets)
    layers = sorted({name.rpartition(".")[0] for name in head})
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if takes_all else lora.targets and [*lora.targets],
        exclude_modules=layers if takes_all else None,
        use_rslora=lora.rslora,
    )
    _inject(peft, module, config)


def read_adapter(module: nn.Module, folder: str) -> None:
    """Put the adapters of a folder into a module, with their weights, in place.

    Raises:
        ConfigError: if they are not this model's, or not there.
    """
    from safetensors.torch import load_file

    if not (Path(folder) / CONFIG).is_file():
        raise ConfigError(f"model.adapter: there is no folder {folder!r} with {CONFIG}")
    peft = import_extra("peft", what="model.adapter", extra="llm")
    config = peft.PeftConfig.from_pretrained(folder)
    if not isinstance(config, peft.LoraConfig):
        raise ConfigError(f"{folder} holds adapters of type {config.peft_type}, not LoRA")
    config.modules_to_save = None  # these are the module's own
    _inject(peft, module, config)
    read = load_file(Path(folder) / WEIGHTS)
    own = {_written(name): value for name, value in module.named_parameters()}
    missing = [name for name in own if MARK in name and name not in read]
    if unknown := [name for name in read if name not in own] + missing:
        what = "lacks" if unknown == missing else "has"
        raise ConfigError(f"{folder} {what} {unknown[0]!r}, unlike the model; use the same model")
    with torch.no_grad():
        for name, value in read.items():
            own[name].copy_(value)


def written_adapter(
    module: nn.Module, values: Mapping[str, Tensor], *, task: str, base: str | None
) -> dict[str, bytes]:
    """Return the files of an adapter by name, as ``PeftModel.from_pretrained`` reads them.

    Args:
        module: has the adapters; its values are not looked at.
        values: the weights of the adapters, and all that has been trained besides, by name.
        task: the model's.
        base: what ``from_pretrained`` of transformers is given for the base.
    """
    from safetensors.torch import save

    besides = sorted({name.rpartition(".")[0] for name in values if MARK not in name})
    adapter: Any = module.peft_config
    config = {
        **adapter[_NAME].to_dict(),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": besides or None,
        "task_type": _TASKS.get(task),
    }
    config = {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    tensors = {_written(name): value.contiguous() for name, value in values.items()}
    return {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: (json.dumps(config, indent=2, sort_keys=True, default=str) + "\n").encode(),
    }


def _require_layers(module: nn.Module, targets: Collection[str]) -> None:
    """Check that each target is the end of a layer's name; peft wants one of them to be.

    Raises:
        ConfigError: if it is not.
    """
    layers = [name for name, _ in module.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            owners = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
            ends = sorted({name.rpartition(".")[2] for name in owners})
            hint = did_you_mean(target, ends)
            raise ConfigError(f"model.lora.targets: no layer's name ends with {target!r}. {hint}")


def _inject(peft: Any, module: nn.Module, config: Any) -> None:
    peft.inject_adapter_in_model(config, module, adapter_name=_NAME)
    for name, parameter in module.named_parameters():
        if MARK in name:  # of the base's type so far
            parameter.data = parameter.data.float()


def _written(name: str) -> str:
    return _PREFIX + (name.replace(f".{_NAME}.", ".") if MARK in name else name)
