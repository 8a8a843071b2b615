"""Models of the Hugging Face libraries: ``transformers``, with adapters by ``peft``.

Shapes: B examples, L tokens, V words of the vocabulary, K classes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from simfl.component import Count, Fraction, Positive, Section
from simfl.errors import ConfigError, SimflError, import_extra, one_line
from simfl.models.dropout import with_own_dropout
from simfl.models.names import resolve_names
from simfl.models.recomputing import recompute_layers
from simfl.models.spec import DataShape, ModelSpec, num_outputs

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
_ADAPTER: Final = ".lora_"
"""In the names of all weights of adapters, and of no others."""


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


@dataclass(frozen=True)
class HuggingFaceModel(ModelSpec):
    """A model of ``transformers``, built from its configuration or pre-trained, maybe with LoRA.

    It is called with the batch's inputs: one array (token ids or pixels), or several by name, such
    as ``input_ids`` and ``attention_mask``. Its outputs are the logits: [B, L, V] for language
    models, where targets[b, t] is what position t predicts, and [B, K] for classes. Code of
    a model's author is never run.
    """

    name: ClassVar[str] = "huggingface"
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
    configuration. With ``path``: entries to change in its configuration."""
    dtype: Literal["float32", "bf16"] = "float32"
    """The type of the weights; adapters are float32 in any case."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How attention is computed: by torch's fused kernels, or by matrix products."""
    lora: LoRA | None = None
    """Adapters. Null: none."""
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
        if self.train == "adapters" and self.lora is None:
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
        transformers = import_extra("transformers", what="model huggingface", extra="llm")
        with _explained(), _quiet(transformers):
            module = self._make(transformers, shape)
            if self.lora is not None:
                _add_adapters(module, self.lora)
        with_own_dropout(module)
        _train_only(module, self._trained(module))
        if self.gradient_checkpointing:
            recompute_layers(module)
        module.register_forward_hook(_logits)
        trained: nn.Module = module.train()
        return trained

    def _make(self, transformers: Any, shape: DataShape) -> Any:
        config = self._configuration(transformers, shape)
        auto = getattr(transformers, _CLASSES[self.task])
        options = {
            "dtype": _DTYPES[self.dtype],
            "attn_implementation": self.attention,
            "trust_remote_code": False,
        }
        if self.path is None:
            return auto.from_config(config, **options)
        return auto.from_pretrained(
            self.path, config=config, revision=self._revision, use_safetensors=True, **options
        )

    def _configuration(self, transformers: Any, shape: DataShape) -> Any:
        entries = dict(self.config)
        if self.task.endswith("classification") and "num_labels" not in entries:
            entries["num_labels"] = num_outputs(self.name, shape)
        if self.path is None:
            config = transformers.AutoConfig.for_model(entries.pop("model_type"), **entries)
        else:
            config = transformers.AutoConfig.from_pretrained(
                self.path, revision=self._revision, trust_remote_code=False, **entries
            )
        config.use_cache = False
        _require_words(config, shape)
        return config

    @property
    def _revision(self) -> str:
        return self.revision or "main"

    def _trained(self, module: Any) -> set[str]:
        """Return the names of the weights to train."""
        names = [name for name, _ in module.named_parameters()]
        train = self.train or ("all" if self.lora is None else "adapters")
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
        return {name for name in names if _ADAPTER in name} | with_head


def _add_adapters(module: Any, lora: LoRA) -> None:
    """Put adapters into a module, in place."""
    peft = import_extra("peft", what="model.lora", extra="llm")
    takes_all = lora.targets == ("all-linear",)
    targets: Any = None if lora.targets is None else [*lora.targets]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if takes_all else targets,
        exclude_modules=sorted({name.rpartition(".")[0] for name in _head(module)})
        if takes_all
        else None,
        use_rslora=lora.rslora,
    )
    peft.inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        if _ADAPTER in name:
            parameter.data = parameter.data.float()


def _head(module: Any) -> set[str]:
    """Return the names of the weights after the base: a classifier's, or those that yield words."""
    prefix = f"{module.base_model_prefix}."
    return {name for name, _ in module.named_parameters() if not name.startswith(prefix)}


def _train_only(module: nn.Module, names: Collection[str]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)


def _logits(_: nn.Module, __: Any, outputs: Any) -> Tensor:
    logits: Tensor = outputs.logits
    return logits.float() if logits.dtype is torch.bfloat16 else logits


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
def _explained() -> Iterator[None]:
    """Turn the libraries' exceptions, which are of many types, into one of ours."""
    try:
        yield
    except SimflError:
        raise
    except Exception as error:
        reason = one_line(error)[:_SHOWN] or type(error).__name__
        raise ConfigError(f"model huggingface: {reason}") from error


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
