"""Models of transformers, and their adapters by peft, against these libraries by themselves.

Everything is built from configurations, without a network.

Shapes: B examples, L tokens, V words, K classes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from simfl.errors import ConfigError, MissingExtraError
from simfl.models import (
    Batch,
    DataShape,
    HuggingFaceModel,
    LoRA,
    StackedModel,
    TorchModel,
    as_metrics,
    build_module,
)
from simfl.vector import Vector

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA = {"model_type": "llama", "vocab_size": 64, "max_position_embeddings": 32, **SMALL}
GPT2 = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4}
BERT = {"model_type": "bert", "vocab_size": 64, **SMALL}
VIT = {"model_type": "vit", "patch_size": 4, **SMALL}
T5 = {"model_type": "t5", "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1}
T5 |= {"num_heads": 4}

TEXT = DataShape(inputs=(8,), target_shape=(8,), num_classes=64, vocabulary=64)
TITLES = DataShape(inputs=(8,), num_classes=3, vocabulary=64)
IMAGES = DataShape(inputs=(3, 16, 16), num_classes=5)
ADAPTERS = LoRA(rank=4, alpha=8, targets=("q_proj", "v_proj"))


def tokens_BL(num_examples: int = 2, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(64, (num_examples, 8), generator=generator)


def bare(spec: HuggingFaceModel, cls: str, *, seed: int = 0) -> nn.Module:
    """Build the same with transformers alone, with the weights of the spec's module."""
    ours = build_module(spec, TEXT, seed=seed)
    entries = dict(spec.config)
    config = transformers.AutoConfig.for_model(entries.pop("model_type"), **entries)
    dtype = torch.bfloat16 if spec.dtype == "bf16" else torch.float32
    options = {"dtype": dtype, "attn_implementation": spec.attention}
    module = getattr(transformers, cls).from_config(config, **options)
    if spec.lora is not None:
        lora = peft.LoraConfig(
            r=spec.lora.rank, lora_alpha=spec.lora.alpha, target_modules=[*spec.lora.targets]
        )
        module = peft.get_peft_model(module, lora)
        module.base_model.model.load_state_dict(ours.state_dict())
        return module
    module.load_state_dict(ours.state_dict())
    return module


def steps(model: TorchModel, batches: list[Batch]) -> list[float]:
    """Take steps of SGD with a rate of 0.1; return the losses."""
    losses = []
    for batch in batches:
        loss, gradients = model.compute_loss_and_gradients(batch)
        model.apply_scaled_updates(gradients, -0.1)
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
def test_outputs_and_training_are_those_of_peft_alone():
    spec = HuggingFaceModel(config=LLAMA, lora=ADAPTERS)
    reference = bare(spec, "AutoModelForCausalLM")
    model = TorchModel(build_module(spec, TEXT, seed=0))
    batches = [Batch(tokens_BL(seed=i), tokens_BL(seed=i + 1)) for i in range(4)]
    optimizer = torch.optim.SGD([p for p in reference.parameters() if p.requires_grad], lr=0.1)
    expected = []
    for inputs, targets, *_ in batches:
        logits = reference(input_ids=inputs).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert steps(model, batches) == pytest.approx(expected, abs=1e-6)
    trained = model.get_weights(trainable=True)
    found = reference.base_model.model.state_dict()
    assert len(trained) == 8
    for name, value in trained.items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "task", "shape", "outputs"),
    [
        (LLAMA, "causal-lm", TEXT, (2, 8, 64)),
        (GPT2, "causal-lm", TEXT, (2, 8, 64)),
        (BERT, "masked-lm", TEXT, (2, 8, 64)),
        (BERT, "sequence-classification", TITLES, (2, 3)),
        (LLAMA | {"pad_token_id": 0}, "sequence-classification", TITLES, (2, 3)),
        (VIT, "image-classification", IMAGES, (2, 5)),
    ],
)
def test_each_task_yields_its_logits(config, task, shape, outputs):
    module = build_module(HuggingFaceModel(config=config, task=task), shape, seed=0)
    inputs = torch.rand(2, 3, 16, 16) if shape is IMAGES else tokens_BL()
    assert module(inputs).shape == outputs
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_models_of_two_sequences_take_both_by_name():
    module = build_module(HuggingFaceModel(config=T5, task="seq2seq"), TEXT, seed=0)
    inputs = {"input_ids": tokens_BL(), "decoder_input_ids": tokens_BL(seed=1)}
    assert module(**inputs).shape == (2, 8, 64)


def trained(spec: HuggingFaceModel, shape: DataShape = TEXT) -> list[str]:
    module = build_module(spec, shape, seed=0)
    return [name for name, value in module.named_parameters() if value.requires_grad]


def test_what_is_trained_is_named():
    of_bert: dict[str, Any] = {"config": BERT, "task": "sequence-classification"}
    lora = LoRA(targets=("query",))
    a, b = (f"bert.encoder.layer.0.attention.self.query.lora_{x}.default.weight" for x in "AB")
    head = ["classifier.weight", "classifier.bias"]
    # As peft does for classifiers, whose head is new.
    adapters = trained(HuggingFaceModel(**of_bert, lora=lora), TITLES)
    assert adapters[:2] == [a, b]
    assert adapters[-2:] == head
    assert len(adapters) == 6
    assert trained(HuggingFaceModel(**of_bert, lora=lora, train="head"), TITLES) == head
    assert trained(HuggingFaceModel(**of_bert, train="head"), TITLES) == head
    # FFA-LoRA (Sun et al., 2024): only B.
    only_b = trained(HuggingFaceModel(**of_bert, lora=lora, train=("*lora_B*",)), TITLES)
    assert only_b == [b, b.replace("layer.0", "layer.1")]
    every = trained(HuggingFaceModel(**of_bert, lora=LoRA(targets=("all-linear",))), TITLES)
    assert sum("lora_A" in name for name in every) == 2 * 6 + 1  # with the pooler
    assert not any("classifier" in name and "lora" in name for name in every)


def test_adapters_are_float32_over_a_base_of_bfloat16():
    spec = HuggingFaceModel(config=LLAMA, dtype="bf16", lora=ADAPTERS)
    model = TorchModel(build_module(spec, TEXT, seed=0))
    assert {value.dtype for value in model.trainable.values()} == {torch.float32}
    assert model.module.lm_head.weight.dtype is torch.bfloat16
    batch = Batch(tokens_BL(), tokens_BL(seed=1))
    losses = steps(model, [batch] * 3)
    exact = TorchModel(build_module(HuggingFaceModel(config=LLAMA, lora=ADAPTERS), TEXT, seed=0))
    # bfloat16 has 8 bits of mantissa.
    assert losses == pytest.approx(steps(exact, [batch] * 3), rel=2**-7)
    assert losses[2] < losses[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@pytest.mark.parametrize(
    ("dtype", "lora", "checkpointing"),
    [("float32", None, False), ("float32", ADAPTERS, True), ("bf16", ADAPTERS, False)],
)
def test_mixed_precision_is_that_of_torchs_autocast(dtype, lora, checkpointing):
    """In stacks, too: up to a few roundings to bfloat16, 2^-9, as products are others there."""
    spec = HuggingFaceModel(config=LLAMA, dtype=dtype, lora=lora, attention="eager")
    reference = bare(spec, "AutoModelForCausalLM")
    spec = dataclasses.replace(spec, gradient_checkpointing=checkpointing)
    model = TorchModel(build_module(spec, TEXT, seed=0), precision="bf16")
    batch = Batch(tokens_BL(4), tokens_BL(4, seed=1))
    loss, gradients = model.compute_loss_and_gradients(batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = reference(input_ids=batch.inputs).logits
    expected = F.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    found = {name.removeprefix("base_model.model."): p for name, p in reference.named_parameters()}
    for name, gradient in gradients.items():
        assert gradient.dtype is found[name].dtype is torch.float32
        torch.testing.assert_close(gradient, found[name].grad, rtol=1e-4, atol=1e-6)
    if checkpointing:
        return
    stack = StackedModel(model, 2)
    stack.begin(model.get_weights(), 2)
    both = Batch(*(torch.stack([tensor, tensor]) for tensor in batch[:2]))
    losses, together = stack.compute_loss_and_gradients(both)
    assert losses.tolist() == pytest.approx([expected.item()] * 2, abs=1e-3)
    for one in together.unstack():
        assert (one - gradients).norm() < 0.02 * gradients.norm()


def test_recomputed_activations_give_the_same_gradients():
    plain, again = (
        TorchModel(
            build_module(
                HuggingFaceModel(
                    config=LLAMA,
                    lora=LoRA(rank=4, targets=("q_proj",), dropout=0.5),
                    gradient_checkpointing=recomputes,
                ),
                TEXT,
                seed=0,
            )
        )
        for recomputes in (False, True)
    )
    batch = Batch(tokens_BL(), tokens_BL(seed=1))
    loss, gradients = plain.compute_loss_and_gradients(batch)
    found = again.compute_loss_and_gradients(batch)
    assert loss == found[0]
    assert gradients.to_numpy().keys() == found[1].to_numpy().keys()
    for name, value in gradients.items():
        assert torch.equal(value, found[1][name])

    def elsewhere(model: Any, weights: Any, batch: Batch) -> torch.Tensor:
        return model.loss({name: 2 * value + 0.1 for name, value in weights.items()}, batch)

    # With other weights than the module's own, which it has again when gradients are computed.
    expected = plain.compute_objective(elsewhere, batch)[1]
    computed = again.compute_objective(elsewhere, batch)[1]
    for name, value in expected.items():
        assert torch.equal(value, computed[name])


def test_dropout_is_drawn_from_the_step_and_not_from_torch():
    spec = HuggingFaceModel(config=LLAMA, lora=LoRA(dropout=0.5, targets=("q_proj",)))
    model = TorchModel(build_module(spec, TEXT, seed=0))
    model.apply_updates(model.get_weights(trainable=True).map(torch.ones_like))
    batch = Batch(tokens_BL(), tokens_BL(seed=1))

    def loss(seed: int, step: int) -> float:
        torch.manual_seed(seed)
        model.seed_step(torch.tensor(3), step)
        return model.compute_loss_and_gradients(batch)[0].item()

    assert loss(0, 0) == loss(1, 0) != loss(1, 1)


def test_a_model_is_read_from_a_folder(tmp_path):
    spec = HuggingFaceModel(config=LLAMA)
    build_module(spec, TEXT, seed=0).save_pretrained(tmp_path)
    read = HuggingFaceModel(path=str(tmp_path), lora=ADAPTERS)
    inputs = tokens_BL()
    module = build_module(read, TEXT, seed=5)
    expected = build_module(spec, TEXT, seed=0)(inputs)
    torch.testing.assert_close(module(inputs), expected)
    # Entries of its configuration can be changed, and heads that it lacks are drawn by the seed.
    changed = HuggingFaceModel(
        path=str(tmp_path), config={"pad_token_id": 1}, task="sequence-classification"
    )
    heads = [build_module(changed, TITLES, seed=seed).score.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    misspelt = HuggingFaceModel(path=str(tmp_path), config={"pad_token": 1})
    with pytest.raises(ConfigError, match=r"llama has no entry 'pad_token' .* 'pad_token_id'"):
        build_module(misspelt, TEXT, seed=0)


def test_pickled_weights_are_refused(tmp_path):
    module = build_module(HuggingFaceModel(config=LLAMA), TEXT, seed=0)
    module.config.save_pretrained(tmp_path)
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        build_module(HuggingFaceModel(path=str(tmp_path)), TEXT, seed=0)


def test_code_of_a_models_author_is_not_run(tmp_path):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(ConfigError, match=r"model huggingface: .*custom code"):
        build_module(HuggingFaceModel(path=str(tmp_path)), TEXT, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "neither path nor config.model_type is set"),
        ({"config": LLAMA, "revision": "main"}, "revision is set without path"),
        ({"config": LLAMA, "train": "adapters"}, "lora is not set"),
        ({"config": {"model_type": "lama"}}, "lama"),
        ({"config": LLAMA | {"vocab_size": 40}}, "tokens up to 63, but the vocabulary has 40"),
        (
            {"config": LLAMA, "lora": LoRA(targets=("query",))},
            "'query'. Known: down_proj, emb",
        ),
        ({"config": LLAMA, "lora": LoRA(targets=("q_proj", "v_prj"))}, "Did you mean 'v_proj'?"),
        ({"config": LLAMA, "adapter": "runs/a/adapter"}, "there is no folder 'runs/a/adapter'"),
        ({"path": "models/tiny/llama"}, "model.path: there is no folder 'models/tiny/llama'"),
        ({"config": LLAMA, "train": ("lm_heat.weight",)}, "Did you mean 'lm_head.weight'"),
        ({"config": LLAMA | {"hidden_size": "a"}}, "hidden_size"),
        ({"config": LLAMA | {"num_hiden_layers": 1}}, "Did you mean 'num_hidden_layers'"),
        ({"config": LLAMA, "lora": LoRA(), "train": ()}, "train names nothing"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(fields, message):
    with pytest.raises(ConfigError) as raised:
        build_module(HuggingFaceModel(**fields), TEXT, seed=0)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_library_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"simfl\[llm\]"):
        HuggingFaceModel(config=LLAMA).build(TEXT)


def test_outputs_with_logits_need_no_wrapper():
    spec = HuggingFaceModel(config=BERT, task="sequence-classification")
    ours = build_module(spec, TITLES, seed=0).eval()
    theirs = copy.deepcopy(ours)
    theirs._forward_hooks.clear()
    batch = Batch(tokens_BL(), torch.tensor([0, 2]))
    found, expected = (
        TorchModel(module, "cross-entropy", metrics=as_metrics(["accuracy"])).evaluate(batch)
        for module in (theirs, ours)
    )
    assert found == expected
    assert isinstance(TorchModel(theirs).compute_batch_gradients(batch), Vector)


def test_examples_are_clipped_one_by_one_where_activations_are_recomputed():
    spec = HuggingFaceModel(config=LLAMA, lora=ADAPTERS, attention="eager")
    batch = Batch(tokens_BL(), tokens_BL(seed=1))
    expected, found = (
        TorchModel(
            build_module(dataclasses.replace(spec, gradient_checkpointing=recomputes), TEXT, seed=0)
        ).compute_batch_gradients(batch, max_norm=0.01)
        for recomputes in (False, True)
    )
    assert (found - expected).norm() < 1e-5 * expected.norm()
