"""Models of the Hugging Face libraries: ``transformers``, with adapters by ``peft``.

Shapes: B examples, L tokens, V words of the vocabulary, K classes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from simfl.errors import ConfigError, SimflError, did_you_mean, import_extra, one_line
from simfl.models.adapters import MARK, LoRA, add_adapters, read_adapter, written_adapter
from simfl.models.dropout import with_own_dropout
from simfl.models.names import joint_digest, resolve_names
from simfl.models.recomputing import recompute_layers
from simfl.models.spec import DataShape, ModelSpec, build_module, num_outputs
from simfl.vector import Vector

_CLASSES: Final = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
_DTYPES: Final = {"float32": torch.float32, "bf16": torch.bfloat16}
_SHOWN: Final = 300
"""How much of another library's message is shown."""


@dataclass(frozen=True)
class HuggingFaceModel(ModelSpec):
    """A model of ``transformers``, built from its configuration or pre-trained, maybe with LoRA.

    It is called with the batch's inputs: one array (token ids or pixels), or several by name, such
    as ``input_ids`` and ``attention_mask``. Its outputs are the logits: [B, L, V] for language
    models, where targets[b, t] is what position t predicts, and [B, K] for classes. Code of
    a model's author is never run.
    """

    name: ClassVar[str] = "huggingface"
    file_fields: ClassVar[tuple[str, ...]] = ("adapter",)
    file_or_name_fields: ClassVar[tuple[str, ...]] = ("path",)

    task: Literal[
        "causal-lm", "masked-lm", "seq2seq", "sequence-classification", "image-classification"
    ] = "causal-lm"
    """What the model is for, which determines its head."""
    path: str | None = None
    """A folder written by ``save_pretrained``, or a name on the hub, such as "Qwen/Qwen3-0.6B";
    weights are read from safetensors. Null: random weights."""
    revision: str | None = None
    """The commit, tag or branch of a model on the hub."""
    config: dict[str, Any] = field(default_factory=dict)
    """The architecture without ``path``: ``model_type``, such as "llama", and entries of its
    configuration; the size and channels of images are the data's. With ``path``: entries to change
    in its configuration."""
    dtype: Literal["float32", "bf16"] = "float32"
    """The type of the weights; adapters are float32 in any case."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How attention is computed: by torch's fused kernels, or by matrix products."""
    lora: LoRA | None = None
    """New adapters. Null: none."""
    adapter: str | None = None
    """A folder with adapters to start from, as peft and a run's folder ``adapter`` have them,
    instead of ``lora``."""
    train: Literal["adapters", "head", "all"] | tuple[str, ...] | None = None
    """What is trained: ``adapters``, and with them the head of a classifier; ``head``; ``all``; or
    names, layers and patterns such as ``["*lora_B*"]``. Null: adapters if there are any, else all.
    """
    gradient_checkpointing: bool = False
    """Whether to compute activations again for the gradients, which takes less memory."""

    def check(self) -> None:
        """Check what concerns several fields."""
        if self.path is None and "model_type" not in self.config:
            raise ConfigError(
                "huggingface: neither path nor config.model_type is set; set path to a folder or a "
                "name on the hub, or config to {model_type: llama, ...} for random weights"
            )
        if self.revision is not None and self.path is None:
            raise ConfigError("huggingface: revision is set without path; remove it")
        if self.lora is not None and self.adapter is not None:
            raise ConfigError("huggingface: lora and adapter are both set; remove one of them")
        if self.train == ():
            raise ConfigError("huggingface: train names nothing; name weights, or leave it out")
        if self.train == "adapters" and not self._has_adapters:
            raise ConfigError("huggingface: train is 'adapters', but lora is not set; set it")

    def refuse_untrusted(self) -> str | None:
        """Return why an untrusted scenario may not have it: what it downloads may change."""
        if self.path is None or self.revision is not None or os.path.exists(self.path):
            return None
        return (
            f"names {self.path!r} on the hub without model.revision, so that anything may be "
            "downloaded, and trust is 'none'; set model.revision to a commit, or trust the scenario"
        )

    def build(self, shape: DataShape) -> nn.Module:
        """Build the module.

        Raises:
            MissingExtraError: if transformers or peft is not installed.
            ConfigError: if it cannot be built or read, or cannot take such data.
        """
        return self._finished(self._make(shape))

    def build_empty(self, shape: DataShape) -> nn.Module | None:
        """Build it on the meta device; None if its code computes with values while it is built."""
        try:
            return self._finished(self._make(shape, is_empty=True))
        except ConfigError:
            return None

    def _finished(self, module: Any) -> nn.Module:
        with_own_dropout(module)
        _train_only(module, self._trained(module))
        if self.gradient_checkpointing:
            recompute_layers(module)
        module.register_forward_hook(_logits)
        trained: nn.Module = module.train()
        return trained

    def _make(self, shape: DataShape, *, is_empty: bool = False) -> Any:
        """Return the module with its adapters.

        Args:
            shape: of the data.
            is_empty: whether to leave out all values, which takes no memory.
        """
        transformers = import_extra("transformers", what="model huggingface", extra="llm")
        place = torch.device("meta") if is_empty else nullcontext()
        with _explained(self.path), _quiet(transformers), place:
            module = self._make_base(transformers, shape, is_random=is_empty or self.path is None)
            if self.lora is not None:
                add_adapters(module, self.lora, head=_head(module))
            if self.adapter is not None:
                read_adapter(module, self.adapter)
        return module

    def _make_base(self, transformers: Any, shape: DataShape, *, is_random: bool) -> Any:
        config = self._configuration(transformers, shape)
        auto = getattr(transformers, _CLASSES[self.task])
        options = {
            "dtype": _DTYPES[self.dtype],
            "attn_implementation": self.attention,
            "trust_remote_code": False,
        }
        if is_random:
            return auto.from_config(config, **options)
        return auto.from_pretrained(
            self.path, config=config, revision=self._revision, use_safetensors=True, **options
        )

    def _configuration(self, transformers: Any, shape: DataShape) -> Any:
        entries = dict(self.config)
        if self.task == "image-classification" and self.path is None:
            entries = _image_entries(shape) | entries
        if self.task.endswith("classification") and "num_labels" not in entries:
            entries["num_labels"] = num_outputs(self.name, shape)
        if self.path is None:
            own = {**entries}
            config = transformers.AutoConfig.for_model(own.pop("model_type"), **own)
        else:
            known = {"revision": self._revision, "trust_remote_code": False}
            config, unused = transformers.AutoConfig.from_pretrained(
                self.path, return_unused_kwargs=True, **known, **entries
            )
            if unknown := [name for name in entries if name in unused]:
                raise _no_entry(config, unknown[0], config)
        _require_entries(config, entries)
        config.use_cache = False
        _require_words(config, shape)
        return config

    @property
    def _revision(self) -> str:
        return self.revision or "main"

    def _trained(self, module: Any) -> set[str]:
        """Return the names of the weights to train."""
        names = [name for name, _ in module.named_parameters()]
        train = self._train
        if train == "all":
            return set(names)
        if isinstance(train, tuple):
            try:
                return {*resolve_names(module, train)}
            except ConfigError as error:
                raise ConfigError(f"model huggingface: train {error}") from error
        head = _head(module)
        if train == "head":
            if not head:
                raise ConfigError(
                    "model huggingface: train is 'head', but the head has no weights of its own; "
                    "name weights or layers"
                )
            return head
        with_head = head if self.task.endswith("classification") else set()
        return {name for name in names if MARK in name} | with_head

    @property
    def _has_adapters(self) -> bool:
        return self.lora is not None or self.adapter is not None

    @property
    def _train(self) -> str | tuple[str, ...]:
        if self.train is None:
            return "adapters" if self._has_adapters else "all"
        return self.train

    def files(
        self, weights: Vector, shape: DataShape, *, seed: int, fixed: Mapping[str, str]
    ) -> dict[str, bytes]:
        """Return the files of the adapters, as ``PeftModel.from_pretrained`` reads them."""
        if not self._has_adapters or any(".base_layer." in name for name in weights):
            return {}
        module, values = self._make(shape, is_empty=True), dict(weights.items())
        names = [name for name, _ in module.named_parameters() if MARK in name]
        if any(name not in values for name in names):  # some are fixed
            initial = dict(build_module(self, shape, seed=seed).named_parameters())
            values = {name: initial[name].detach() for name in names} | values
        files = written_adapter(module, values, task=self.task, base=self.path)
        own = ("task", "path", "revision", "config", "dtype")
        base = {name: getattr(self, name) for name in own} | {"seed": seed}
        base |= {"digest": joint_digest(fixed), "sha256": {**fixed}}
        files["base.json"] = (json.dumps(base, indent=2) + "\n").encode()
        return {f"adapter/{name}": content for name, content in files.items()}


def _head(module: Any) -> set[str]:
    """Return the names of the weights after the base: a classifier's, or those that yield words."""
    prefix = f"{module.base_model_prefix}."
    return {name for name, _ in module.named_parameters() if not name.startswith(prefix)}


def _image_entries(shape: DataShape) -> dict[str, Any]:
    """Return what a configuration says of images [channels, height, width], as the data are."""
    axes = shape.single_input
    if axes is None or len(axes) != 3:
        return {}
    channels, height, width = axes
    return {"num_channels": channels, "image_size": height if height == width else [height, width]}


def _train_only(module: nn.Module, names: Collection[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)


def _logits(_: nn.Module, __: Any, outputs: Any) -> Tensor:
    logits: Tensor = outputs.logits
    return logits.float() if logits.dtype is torch.bfloat16 else logits


def _require_entries(config: Any, entries: Mapping[str, Any]) -> None:
    """Check that a configuration means something by what it was given; transformers do not.

    Raises:
        ConfigError: if it does not.
    """
    try:
        known = type(config)()
    except Exception:  # of several parts
        return
    for name in entries:
        # An entry that is read into another one is none of the configuration's.
        if hasattr(config, name) and not hasattr(known, name):
            raise _no_entry(config, name, known)


def _no_entry(config: Any, name: str, known: Any) -> ConfigError:
    hint = did_you_mean(name, known.to_dict())
    kind = config.model_type
    return ConfigError(f"model huggingface: {kind} has no entry {name!r} of config. {hint}")


def _require_words(config: Any, shape: DataShape) -> None:
    """Check that the model has a vector for each token.

    Raises:
        ConfigError: if the data have more.
    """
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and (shape.vocabulary or 0) > size:
        raise ConfigError(
            f"model huggingface: inputs hold tokens up to {(shape.vocabulary or 0) - 1}, but the "
            f"vocabulary has {size}; use the model's tokenizer, or raise config.vocab_size"
        )


@contextmanager
def _explained(path: str | None) -> Iterator[None]:
    """Turn the libraries' exceptions, which are of many types, into one of ours.

    Args:
        path: of the model: a folder, or else a name on the hub, which has one slash at most.
    """
    is_here = path is None or os.path.isdir(path)
    missing = f"there is no folder {path!r}"
    try:
        if path is not None and not is_here and (path[0] in "./~" or path.count("/") > 1):
            raise ConfigError(f"model.path: {missing}")
        yield
    except SimflError:
        raise
    except Exception as error:
        reason = one_line(error)[:_SHOWN] or type(error).__name__
        where = "" if is_here else f"{missing}, and from the hub: "
        raise ConfigError(f"model huggingface: {where}{reason}") from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Hide progress bars, and reports of weights that are initialised as they should be."""
    logging = transformers.utils.logging
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
