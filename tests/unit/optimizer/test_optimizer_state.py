import json
from typing import Any

import pytest
import torch
from toy_models import Quadratic, vector

from simfl.optimizer import Context, Exponential, Optimizer
from simfl.vector import Vector

ALL_MODULES = [
    "scaffold-client",
    "momentum",
    "ewma",
    "yogi-momentum",
    "adagrad",
    "rmsprop",
    "yogi",
    ("adam", {"amsgrad": True}),
    "l2-clipping",
    "gaussian-noise",
]


def make_optimizer() -> Optimizer:
    rate = Exponential(base=0.1, factor=0.9, unit="step")
    decay = ("exponential", {"base": 0.1, "factor": 0.5, "unit": "round"})
    return Optimizer(rate, decay, ["fedprox", "lasso", "ridge"], ALL_MODULES)


def started() -> tuple[Optimizer, Quadratic]:
    """An optimizer in the middle of its second round, and its model."""
    optimizer, model = make_optimizer(), Quadratic({"w": [4.0, -1.0]}, optimum=1.0)
    optimizer.seed, optimizer.client = 5, 3
    for num_steps in (3, 2):
        optimizer.process_aux_var({"scaffold": {"state": vector(w=[0.5, 0.25])}})
        optimizer.start_round()
        for _ in range(num_steps):
            optimizer.run_train_step(model, None)
    return optimizer, model


def follow(optimizer: Optimizer, weights: Vector) -> list[Any]:
    """All that two more steps and a third round bring forth."""
    model = Quadratic({}, optimum=1.0)
    model.weights = weights
    seen: list[Any] = []
    for _ in range(2):
        optimizer.run_train_step(model, None)
        seen += [model.weights, optimizer.collect_aux_var()]
    optimizer.start_round()
    optimizer.run_train_step(model, None)
    return [*seen, model.weights, optimizer.export_state().num_steps]


def test_a_state_saved_in_mid_round_goes_on_bit_for_bit_in_a_new_object() -> None:
    optimizer, model = started()
    saved = json.dumps(optimizer.get_state())
    expected = follow(optimizer, model.weights)
    other = make_optimizer()
    other.set_state(json.loads(saved))
    assert follow(other, model.weights) == expected


def test_a_saved_state_holds_counts_seed_and_client() -> None:
    state = started()[0].get_state()
    counts = {key: state[key] for key in ("seed", "client", "round", "step", "num_steps")}
    assert counts == {"seed": 5, "client": 3, "round": 2, "step": 2, "num_steps": 5}


def test_an_exported_state_is_left_alone_by_later_steps() -> None:
    optimizer, model = started()
    exported = optimizer.export_state()
    before = json.dumps(optimizer.get_state())
    expected = follow(optimizer, model.weights)
    optimizer.import_state(exported)
    assert json.dumps(optimizer.get_state()) == before
    assert follow(optimizer, model.weights) == expected


def test_a_state_before_the_first_step_goes_through_json_too() -> None:
    optimizer = make_optimizer()
    optimizer.process_aux_var({"scaffold": {"state": vector(w=[0.5, 0.25])}})
    other = make_optimizer()
    other.set_state(json.loads(json.dumps(optimizer.get_state())))
    weights = vector(w=[4.0, -1.0])
    assert follow(other, weights) == follow(optimizer, weights)


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != key}


def test_a_variable_that_is_missing_is_found_out_whenever_the_state_was_taken() -> None:
    """Before any step, within a round, and when the next one has begun: what there is differs."""
    optimizer, model = make_optimizer(), Quadratic({"w": [4.0, -1.0]}, optimum=1.0)
    taken = []
    optimizer.process_aux_var({"scaffold": {"state": vector(w=[0.5, 0.25])}})
    taken.append(optimizer.get_state())
    optimizer.start_round()
    optimizer.run_train_step(model, None)
    taken.append(optimizer.get_state())
    optimizer.start_round()
    taken.append(optimizer.get_state())
    removed = set()
    for when, state in enumerate(taken):
        for kind in ("modules", "regularizers"):
            for index, (name, variables) in enumerate(state[kind]):
                for key in variables:
                    broken = json.loads(json.dumps(state))
                    del broken[kind][index][1][key]
                    with pytest.raises(KeyError, match=f"state of '{name}' is missing .'{key}'"):
                        make_optimizer().set_state(broken)
                    removed.add((when, name, key))
    assert {one for one in removed if one[0] == 0} == {(0, "scaffold-client", "correction")}
    assert (1, "fedprox", "reference") in removed
    assert {(when, "momentum", "velocity") for when in (1, 2)} < removed


DAMAGE: dict[str, Any] = {
    "is a list": [],
    "step is '3'": {"step": "3"},
    "round is True": {"round": True},
    "step is -1, which is negative": {"step": -1},
    "num_steps is -3, which is negative": {"num_steps": -3},
    "modules: the states are damaged": {"modules": [["momentum"]]},
    "modules: the states are damaged: .NoneType": {"modules": None},
    "'velocity' is neither": {"modules": [["momentum", {"velocity": None}]]},
    "'velocity' is damaged: .*base64": {"tensor": ["w", "float32", [1], "!!!!"]},
    "'velocity' is damaged: 3 bytes": {"tensor": ["w", "float32", [1], "AAAA"]},
    "'velocity' is damaged: there is no dtype 'load'": {"tensor": ["w", "load", [1], "AAAAAA=="]},
    "'velocity' is damaged: .*'str'": {"tensor": ["w", "float32", ["x"], "AAAAAA=="]},
    "'velocity' is damaged: not enough": {"tensor": ["w", "float32"]},
    "'velocity' is damaged: 4 bytes.*-1": {"tensor": ["w", "float32", [-1, -1], "AAAAAA=="]},
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_state_is_a_key_error_at_once(message: str) -> None:
    optimizer = Optimizer(0.1, modules=["momentum"])
    optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[2.0]))
    before = optimizer.get_state()
    damage = DAMAGE[message]
    if isinstance(damage, dict) and "tensor" in damage:
        velocity = {"vector": [damage["tensor"]], "stacked": False}
        damage = {"modules": [["momentum", {"velocity": velocity}]]}
    with pytest.raises(KeyError, match=message):
        optimizer.set_state(before | damage if isinstance(damage, dict) else damage)
    assert optimizer.get_state() == before


WEIGHT = ["w", "float32", [1], "AAAAQA=="]  # 2.0, what momentum keeps of the gradient
CHANGED_VECTORS: dict[str, dict[str, Any]] = {
    "empty": {"vector": [], "stacked": False},
    "renamed": {"vector": [["v", *WEIGHT[1:]]], "stacked": False},
    "one more": {"vector": [WEIGHT, ["v", *WEIGHT[1:]]], "stacked": False},
    "twice": {"vector": [WEIGHT, WEIGHT], "stacked": False},
    "shape": {"vector": [["w", "float32", [1, 1], WEIGHT[3]]], "stacked": False},
    "dtype": {"vector": [["w", "int32", [1], WEIGHT[3]]], "stacked": False},
    "value": {"vector": [["w", "float32", [1], "AACAPw=="]], "stacked": False},
    "stacked": {"vector": [WEIGHT], "stacked": True},
    "a tensor": {"tensor": WEIGHT[1:]},
}


@pytest.mark.parametrize("change", CHANGED_VECTORS)
def test_a_vector_that_is_not_as_it_was_is_a_key_error_at_once(change: str) -> None:
    optimizer = Optimizer(0.1, modules=["momentum"])
    optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[2.0]))
    before = optimizer.get_state()
    assert before["modules"] == [["momentum", {"velocity": {"vector": [WEIGHT], "stacked": False}}]]
    modules = [["momentum", {"velocity": CHANGED_VECTORS[change]}]]
    with pytest.raises(KeyError, match="optimizer state: is damaged"):
        optimizer.set_state({**before, "modules": modules})
    assert optimizer.get_state() == before


@pytest.mark.parametrize(
    "damage",
    [
        {"step": 7},
        {"digest": None},
        {"variables": {"modules": [{"velocity"}], "regularizers": []}},
    ],
    ids=["count", "digest", "no JSON"],
)
def test_whatever_differs_from_what_was_saved_is_a_key_error(damage: dict[str, Any]) -> None:
    optimizer = Optimizer(0.1, modules=["momentum"])
    optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[2.0]))
    with pytest.raises(KeyError, match="optimizer state: is damaged"):
        optimizer.set_state({**optimizer.get_state(), **damage})


def test_a_vector_in_place_of_a_tensor_is_a_key_error_at_once() -> None:
    optimizer = Optimizer(0.1, modules=["scaffold-client"])
    optimizer.compute_updates_from_gradients(Quadratic({}), vector(w=[2.0]))
    broken = optimizer.get_state()
    variables = broken["modules"][0][1]
    steps = ["steps", *variables["steps"]["tensor"]]
    variables["steps"] = {"vector": [steps], "stacked": False}
    with pytest.raises(KeyError, match="optimizer state: is damaged"):
        optimizer.set_state(broken)


def mutilated(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    first, *others = state["modules"]
    return {
        "entries .'step'. are missing": without(state, "step"),
        "entries .'more'. are missing or unknown": {**state, "more": 1},
        "modules: the states are those of": {**state, "modules": others},
        "regularizers: the states are": {**state, "regularizers": state["regularizers"][::-1]},
        r"modules.0.: state of 'scaffold-client' is missing .'steps'": {
            **state,
            "modules": [[first[0], without(first[1], "steps")], *others],
        },
        "'steps' is neither a tensor": {
            **state,
            "modules": [[first[0], {**first[1], "steps": {}}], *others],
        },
    }


@pytest.mark.parametrize("message", mutilated(started()[0].get_state()))
def test_a_state_that_does_not_fit_is_a_key_error_and_changes_nothing(message: str) -> None:
    optimizer, model = started()
    broken = mutilated(optimizer.get_state())[message]
    expected = follow(started()[0], model.weights)
    with pytest.raises(KeyError, match=message):
        optimizer.set_state(broken)
    assert follow(optimizer, model.weights) == expected


def test_an_exported_state_of_other_plug_ins_is_a_key_error() -> None:
    state = Optimizer(0.1, modules=["momentum"]).export_state()
    optimizer = Optimizer(0.1)
    with pytest.raises(KeyError, match="modules: 1 states for 0 plug-ins"):
        optimizer.import_state(state)


def test_states_hold_no_memory_of_the_gradients_they_were_made_from() -> None:
    # The first velocity equals the gradients; writing over these must not change it.
    optimizer = Optimizer(0.1, modules=["momentum"])
    gradients = vector(w=[2.0])
    optimizer.compute_updates_from_gradients(Quadratic({}), gradients)
    gradients["w"].zero_()
    assert optimizer.export_state().modules[0]["velocity"] == vector(w=[2.0])


def test_plug_ins_see_the_restored_context() -> None:
    """Noise after a restore is that of (seed 5, client 3, round 2, step 3, module 9)."""
    optimizer, _ = started()
    other = make_optimizer()
    other.set_state(optimizer.get_state())
    context = Context(seed=5, clients=(3,), round=2, step=3, index=9)
    assert (other.seed, other.client, other.round, other.step + 1) == (5, 3, 2, 3)
    noise = other.modules[9]
    null = vector(w=[0.0] * 20)
    again = optimizer.modules[9].update(null, {}, context)[0]
    assert torch.equal(noise.update(null, {}, context)[0]["w"], again["w"])
