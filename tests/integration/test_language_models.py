"""Runs of tiny models of Hugging Face: against a loop of peft's own, and on either engine.

Shapes: N examples, L tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_same_bits import merged, numbers

import simfl
from simfl.errors import CheckpointError, InputError, ScenarioError
from simfl.simulation import build
from simfl.simulation.exporting import export

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "llm").glob("*.yaml"))
QUICK = {"bert", "dp-lora", "fedsa-lora", "flexlora", "flora"}
"""They are not marked as slow: what there is only one of."""
SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA = {"model_type": "llama", "vocab_size": 64, "max_position_embeddings": 32, **SIZE}
BERT = {"model_type": "bert", "vocab_size": 64, **SIZE}
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
A_AND_B = 4 * (32 + 32)
"""The weights of an adapter."""


def sentences(num: int = 48) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return N rows of tokens of which each is the last one plus 3, or 5, and the next ones."""
    rng = np.random.default_rng(0)
    start, stride = rng.integers(0, 64, (num, 1)), rng.choice([3, 5], (num, 1))
    tokens_NL = (start + stride * np.arange(9)) % 64
    return tokens_NL[:, :-1], tokens_NL[:, 1:]


def answers() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the same sentences, of which only some of the last targets count."""
    inputs, targets = sentences()
    return inputs, np.where(np.arange(8) < np.arange(len(targets))[:, None] % 7, -100, targets)


def titles() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the same with the stride as a class."""
    inputs, _ = sentences()
    return inputs, ((inputs[:, 1] - inputs[:, 0]) % 64 == 5).astype(np.int64)


def scenario(*, clients: int = 4, data: str = "sentences", **model: Any) -> dict[str, Any]:
    return {
        "rounds": 2,
        "search": [str(Path(__file__).parent)],
        "data": {
            "source": "python",
            "path": f"test_language_models:{data}",
            "partition": {"kind": "iid", "clients": clients},
        },
        "model": {"kind": "huggingface", "config": LLAMA, "lora": LORA, **model},
        "client": {"batch_size": 4, "steps": 3, "optimizer": {"lrate": 0.05}},
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@pytest.mark.parametrize(("optimizer", "accumulate"), [("sgd", 1), ("adam", 2)])
def test_a_run_of_one_client_is_the_loop_that_one_writes_with_peft(
    optimizer: str, accumulate: int, tmp_path: Path
) -> None:
    """5 steps on the same batches, or halves of them; 1e-6 for sums in another order."""
    modules = [] if optimizer == "sgd" else [["adam", {"eps": 1e-5}]]
    client = {"steps": 5, "accumulate": accumulate, "optimizer": {"lrate": 0.01}}
    client["optimizer"]["modules"] = modules
    loss = ["cross-entropy", {"over": "tokens"}]
    changed = merged(
        scenario(clients=1, data="answers", loss=loss), {"rounds": 1, "client": client}
    )
    result = simfl.run(changed, out=tmp_path / "run", backend="inline")
    simulation = build(simfl.load_scenario(changed))

    entries = {key: value for key, value in LLAMA.items() if key != "model_type"}
    base = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**entries))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(base, config)
    initial = simulation.server.build_model().module.state_dict()
    model.base_model.model.load_state_dict(initial)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stepper: torch.optim.Optimizer = torch.optim.SGD(trained, lr=0.01)
    if optimizer == "adam":  # eps is far above the rounding errors of gradients of almost 0
        stepper = torch.optim.Adam(trained, lr=0.01, betas=(0.9, 0.99), eps=1e-5)
    data, losses = simulation.dataset, []
    rows = data.train_rows(0)
    for rows_B in simulation.client.work.draw_batches(
        rows, seed=simulation.scenario.seed, round=1, client=0
    ):
        inputs, targets = (
            torch.as_tensor(array[rows_B].astype(np.int64))
            for array in (data.train.inputs, data.train.targets)
        )
        stepper.zero_grad()
        parts, count = [], (targets != -100).sum()
        for few, aims in zip(inputs.chunk(accumulate), targets.chunk(accumulate), strict=True):
            loss = model.loss_function(
                model(input_ids=few).logits,
                labels=None,
                shift_labels=aims,
                vocab_size=64,
                num_items_in_batch=count,
            )
            loss.backward()
            parts.append(loss.item())
        stepper.step()
        losses.append(sum(parts))
    assert result.history[0]["train_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    after = model.base_model.model.state_dict()
    assert len(result.weights) == 8
    for name, value in result.weights.items():
        assert not np.array_equal(value, initial[name])
        np.testing.assert_allclose(value, after[name], rtol=0, atol=1e-6)


def test_only_adapters_travel(tmp_path: Path) -> None:
    both = simfl.run(scenario(), out=tmp_path / "both", backend="inline")
    adapters = 2 * 2 * A_AND_B * 4
    assert {line["sent_bytes"] for line in both.history} == {4 * adapters}
    assert {line["received_bytes"] for line in both.history} == {4 * adapters}
    # An embedding and a head of 64 * 32, two layers of 4 * 32² and 3 * 32 * 64, five norms of 32.
    base = 2 * 64 * 32 + 2 * (4 * 32**2 + 3 * 32 * 64) + 5 * 32
    assert both.summary["ledger"]["base_bytes"] == 4 * base * 4  # once for each of 4 clients
    # FFA-LoRA (Sun et al., 2024): A is random, and the same everywhere.
    half = simfl.run(scenario(train=["*lora_B*"]), out=tmp_path / "half", backend="inline")
    assert {line["sent_bytes"] for line in half.history} == {4 * adapters // 2}
    assert {name.split(".")[-3] for name in half.weights} == {"lora_B"}


def test_a_classifier_learns_with_adapters_and_its_head(tmp_path: Path) -> None:
    changed = merged(
        scenario(
            data="titles",
            config=BERT,
            task="sequence-classification",
            lora={"rank": 4, "targets": ["query", "value"]},
        ),
        {"rounds": 3, "client": {"steps": 6, "optimizer": {"modules": ["adam"], "lrate": 0.02}}},
    )
    result = simfl.run(changed, out=tmp_path / "run", backend="inline")
    assert {"classifier.weight", "classifier.bias"} < result.weights.keys()
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] - 0.02


@pytest.mark.filterwarnings("ignore:.*performance drop:UserWarning")  # torch's own
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem in QUICK else [pytest.mark.slow]) for p in CONFIGS],
    ids=lambda path: path.stem,
)
def test_a_shipped_scenario_says_what_it_shows_and_runs(path: Path, tmp_path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len([line for line in lines if line.startswith("# ")]) >= 3
    short = ["rounds=1", "client.per_round=2", "client.steps=1", "client.epochs=null"]
    short += ["model.config.num_hidden_layers=1", "evaluation={}"]
    result = simfl.run(
        simfl.load_scenario(path, overrides=short),
        out=tmp_path / "run",
        backend="inline",
    )
    assert 0.0 < result.history[-1]["train_loss"] < 10.0


@pytest.mark.slow
@pytest.mark.ray
def test_inline_ray_and_resumed_runs_give_the_same_bits(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actors read the base in the object store, as small as it is."""
    monkeypatch.setattr("simfl.models.base.LEAST_BASE_BYTES", 0)
    changed = merged(
        scenario(lora={**LORA, "dropout": 0.2}, dtype="bf16"),
        {"cluster": {"actors": 2}, "checkpoint": {"every": 1}, "client": {"per_round": 3}},
    )
    expected = numbers(simfl.run(changed, out=tmp_path / "inline", backend="inline"))
    simfl.run(changed | {"rounds": 1}, out=tmp_path / "halves", backend="inline")
    resumed = simfl.run(changed, out=tmp_path / "halves", backend="ray", resume="auto")
    assert resumed.summary["resumed_after_round"] == 1
    assert numbers(resumed) == expected


def test_a_base_that_cannot_be_built_is_one_line() -> None:
    with pytest.raises(ScenarioError, match=r"model: it cannot be built: .*vocabulary has 10"):
        build(simfl.load_scenario(scenario(config=LLAMA | {"vocab_size": 10})))


CLASSIFIER = {"data": "titles", "config": BERT, "task": "sequence-classification"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"train": ["*lora_B*"], "lora": {"rank": 4, "rslora": True}},
        {**CLASSIFIER, "lora": {"rank": 4, "targets": ["query", "value"]}},
    ],
    ids=["both", "only B", "with a head"],
)
def test_adapters_are_read_by_peft_and_by_the_next_run(
    model: dict[str, Any], tmp_path: Path
) -> None:
    first = scenario(**model)
    result = simfl.run(first, out=tmp_path / "run", backend="inline")
    simulation = build(simfl.load_scenario(first))
    ours = simulation.server.build_model()
    untrained = {name: value.clone() for name, value in ours.module.state_dict().items()}
    ours.module.load_state_dict(
        {name: torch.as_tensor(value) for name, value in result.weights.items()}, strict=False
    )
    entries = {**first["model"]["config"]}
    kind = entries.pop("model_type")
    if kind == "bert":
        entries["num_labels"] = 2
        auto = transformers.AutoModelForSequenceClassification
    else:
        auto = transformers.AutoModelForCausalLM
    base = auto.from_config(transformers.AutoConfig.for_model(kind, **entries))
    base.load_state_dict(
        {
            name.replace(".base_layer", ""): value
            for name, value in untrained.items()
            if "lora" not in name
        }
    )
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    inputs = torch.as_tensor(sentences()[0][:4])
    ours.enter_evaluation()
    expected = ours.module(inputs)
    torch.testing.assert_close(theirs(input_ids=inputs).logits, expected, rtol=0, atol=1e-6)

    record = json.loads((tmp_path / "run" / "adapter" / "base.json").read_text())
    assert record["config"] == first["model"]["config"]
    assert record["seed"] == simulation.scenario.seed
    assert set(record["sha256"]) == set(ours.fixed_weights.names)

    following = scenario(**{**model, "lora": None, "adapter": str(tmp_path / "run" / "adapter")})
    begun = build(simfl.load_scenario(following)).server.build_model()
    for name, value in result.weights.items():
        assert np.array_equal(begun.get_weights()[name], value)
    begun.enter_evaluation()
    assert torch.equal(begun.module(inputs), expected)


def test_adapters_of_another_model_are_one_line(tmp_path: Path) -> None:
    simfl.run(scenario(), out=tmp_path / "run", backend="inline")
    other = scenario(lora=None, adapter=str(tmp_path / "run" / "adapter"))
    other["model"]["config"] = LLAMA | {"num_hidden_layers": 1}
    with pytest.raises(ScenarioError, match=r"model: it cannot be built: .*layers\.1.*same model"):
        build(simfl.load_scenario(other))


def test_stacks_over_one_base_give_the_numbers_of_one_client_at_a_time(tmp_path: Path) -> None:
    """1e-6 for sums in another order; dropout is drawn per client and step."""
    changed = scenario(attention="eager", lora={**LORA, "dropout": 0.3})
    alone = simfl.run(changed, out=tmp_path / "alone", backend="inline")
    stacked = merged(changed, {"client": {"stack": 4}})
    assert build(simfl.load_scenario(stacked)).stacks == (4,)
    together = simfl.run(stacked, out=tmp_path / "together", backend="inline")
    for mine, theirs in zip(together.history, alone.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)
    for name, value in alone.weights.items():
        np.testing.assert_allclose(together.weights[name], value, rtol=0, atol=1e-6)


def test_each_checkpoint_is_exported_with_its_adapter(tmp_path: Path) -> None:
    saved = scenario() | {"checkpoint": {"every": 1, "keep": 2}}
    simfl.run(saved, out=tmp_path / "both", backend="inline")
    first = simfl.run(saved | {"rounds": 1}, out=tmp_path / "first", backend="inline")
    place = export(tmp_path / "both", round=1)
    assert place == tmp_path / "both" / "export" / "round-000001"
    exported = load_file(place / "weights.safetensors")
    assert exported.keys() == first.weights.keys()
    for name, value in first.weights.items():
        assert np.array_equal(exported[name], value)
    for name in ("adapter_model.safetensors", "adapter_config.json", "base.json"):
        adapter = (place / "adapter" / name).read_bytes()
        assert adapter == (tmp_path / "first" / "adapter" / name).read_bytes()
    with pytest.raises(CheckpointError, match="no checkpoint of round 3; it has those of rounds 1"):
        export(tmp_path / "both", round=3)
    with pytest.raises(InputError, match=r"model\.personal is empty; leave out the client"):
        export(tmp_path / "both", client=0)


def test_a_clients_personal_adapter_is_exported(tmp_path: Path) -> None:
    """A single client's is what the mean over that client is, and its own next start."""
    alone = scenario(clients=1, personal=["*lora_B*"]) | {"checkpoint": {"every": 1}}
    own = simfl.run(alone, out=tmp_path / "own", backend="inline")
    mean = simfl.run(scenario(clients=1), out=tmp_path / "mean", backend="inline")
    place = export(tmp_path / "own", tmp_path / "client", client=0)
    assert place == tmp_path / "client"
    exported = load_file(place / "weights.safetensors")
    assert not any(own.weights[name].any() for name in own.weights if "lora_B" in name)
    for name, value in mean.weights.items():
        np.testing.assert_allclose(exported[name], value, rtol=0, atol=1e-7)
    written = load_file(place / "adapter" / "adapter_model.safetensors")
    for name, value in exported.items():
        short = name.replace(".default.", ".")
        assert torch.equal(written[f"base_model.model.{short}"], value)


def test_another_base_is_refused_by_the_name_of_a_weight(tmp_path: Path) -> None:
    entries = {key: value for key, value in LLAMA.items() if key != "model_type"}
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**entries))
    base.save_pretrained(tmp_path / "base")
    saved = scenario(config={}, path=str(tmp_path / "base")) | {"checkpoint": {"every": 1}}
    result = simfl.run(saved | {"rounds": 1}, out=tmp_path / "run", backend="inline")
    known = json.loads((tmp_path / "run" / "adapter" / "base.json").read_text())["digest"]
    assert result.summary["base"] == {
        "bytes": 4 * sum(p.numel() for p in base.parameters()),
        "digest": known,
    }
    with torch.no_grad():
        base.model.norm.weight[0] += 1.0
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"other initial values of 'model\.norm\.weight'"):
        simfl.run(saved, out=tmp_path / "run", backend="inline", resume="auto")
    with pytest.raises(CheckpointError, match=r"other initial values of 'model\.norm\.weight'"):
        export(tmp_path / "run")


def test_the_best_adapter_is_that_of_a_run_that_ends_there(tmp_path: Path) -> None:
    """As peft reads it, beside the last one."""
    plain = scenario() | {"rounds": 4, "seed": 1, "output": {"best": "train_loss"}}
    plain["client"] |= {"per_round": 1}
    best = simfl.run(plain, out=tmp_path / "run", backend="inline").summary["best"]["round"]
    assert best < 4
    simfl.run({**plain, "rounds": best}, out=tmp_path / "shorter", backend="inline")
    for name in ("adapter_model.safetensors", "adapter_config.json", "base.json"):
        kept = (tmp_path / "run" / "best-adapter" / name).read_bytes()
        assert kept == (tmp_path / "shorter" / "adapter" / name).read_bytes()
        if name == "adapter_model.safetensors":
            assert kept != (tmp_path / "run" / "adapter" / name).read_bytes()
