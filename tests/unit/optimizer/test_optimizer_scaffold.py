from typing import Any

import pytest
import torch
from toy_models import Quadratic, vector

from simfl.optimizer import (
    Context,
    LocalOptimizer,
    Optimizer,
    ScaffoldClient,
    ScaffoldServer,
    State,
)
from simfl.vector import Vector

CLIENT, SERVER = ScaffoldClient(), ScaffoldServer()


def begin(aux: Vector, kept: State | None = None) -> State:
    """A client's state after the server's variables and before the first step."""
    received = CLIENT.process_aux_var(kept or {}, {"state": aux})
    return {**CLIENT.init(aux), **received}


def run(state: State, *gradients: float) -> tuple[list[float], State]:
    outs = []
    for value in gradients:
        out, state = CLIENT.update(vector(w=[value]), state, Context())
        outs.append(out["w"].item())
    return outs, state


def test_a_new_client_without_variables_does_not_correct_anything() -> None:
    outs, _ = run(CLIENT.init(vector(w=[0.0])), 3.0, 5.0)
    assert outs == [3.0, 5.0]


def test_a_new_client_adds_the_server_s_variate() -> None:
    # c_i = 0, c = 2: out g + 2.
    outs, _ = run(begin(vector(w=[2.0])), 3.0, 5.0)
    assert outs == [5.0, 7.0]


def test_a_client_sends_the_mean_of_its_raw_gradients_less_its_variate() -> None:
    # c_i = 0, so the delta is c_i⁺ = (3 + 5) / 2 = 4, whatever c is.
    _, state = run(begin(vector(w=[2.0])), 3.0, 5.0)
    aux = CLIENT.collect_aux_var(state)
    assert aux == {"delta": vector(w=[4.0]), "num_new": 1.0}
    assert CLIENT.collect_aux_var(state) == aux


def test_a_client_s_second_round_starts_from_its_new_variate() -> None:
    # c_i = 4 after the round above. With c = 1: out g - 4 + 1; then c_i⁺ = 10, delta 6.
    _, state = run(begin(vector(w=[2.0])), 3.0, 5.0)
    outs, state = run(begin(vector(w=[1.0]), state), 10.0)
    assert outs == [7.0]
    assert CLIENT.collect_aux_var(state) == {"delta": vector(w=[6.0]), "num_new": 0.0}


def test_what_a_client_keeps_between_rounds_is_as_good_as_the_full_state() -> None:
    _, full = run(begin(vector(w=[2.0])), 3.0, 5.0)
    kept = CLIENT.between_rounds(full)
    assert [key for key, leaf in kept.items() if isinstance(leaf, Vector)] == ["own"]
    for _ in range(2):
        (from_full, full), (from_kept, state) = (
            run(begin(vector(w=[1.0]), former), 10.0, 4.0) for former in (full, kept)
        )
        assert from_full == from_kept
        assert CLIENT.collect_aux_var(full) == CLIENT.collect_aux_var(state)
        kept = CLIENT.between_rounds(state)


def test_a_client_without_a_step_sends_nothing_warns_and_stays_new() -> None:
    state = begin(vector(w=[2.0]))
    with pytest.warns(RuntimeWarning, match="scaffold-client: no step was run"):
        assert CLIENT.collect_aux_var(state) is None
    _, state = run(begin(vector(w=[2.0]), CLIENT.between_rounds(state)), 3.0)
    assert CLIENT.collect_aux_var(state) == {"delta": vector(w=[3.0]), "num_new": 1.0}


def test_a_stacked_client_without_a_step_adds_nothing_to_the_sums() -> None:
    """Rows: two steps of gradient 3 and own 1; no step and own 7. Deltas: 2 and 0."""
    state: State = {
        "own": Vector({"w": torch.tensor([[1.0], [7.0]])}, stacked=True),
        "correction": vector(w=[0.0]),
        "total": Vector({"w": torch.tensor([[6.0], [0.0]])}, stacked=True),
        "steps": torch.tensor([2, 0]),
        "is_new": torch.tensor([True, True]),
    }
    aux = CLIENT.collect_aux_var(state)
    assert aux is not None
    assert aux["delta"]["w"].tolist() == [[2.0], [0.0]]
    assert aux["num_new"].tolist() == [1.0, 0.0]
    kept = CLIENT.between_rounds(state)
    assert kept["own"]["w"].tolist() == [[3.0], [7.0]]
    assert kept["is_new"].tolist() == [False, True]


def test_a_new_server_has_nothing_to_share() -> None:
    assert SERVER.collect_aux_var({}) is None
    assert SERVER.collect_aux_var(SERVER.init(vector(w=[0.0]))) is None


def test_without_a_population_the_server_s_variate_is_the_mean_of_those_seen() -> None:
    """Two new clients with c_i = 1 and 5: c = 3. A third with 9, while the first goes to 4:

    c = (4 + 5 + 9) / 3 = 6.
    """
    state = SERVER.process_aux_var({}, {"delta": vector(w=[6.0]), "num_new": 2.0})
    assert SERVER.collect_aux_var(state) == {"state": vector(w=[3.0])}
    state = SERVER.process_aux_var(state, {"delta": vector(w=[12.0]), "num_new": 1.0})
    assert SERVER.collect_aux_var(state) == {"state": vector(w=[6.0])}
    assert SERVER.collect_aux_var(state) == {"state": vector(w=[6.0])}


def test_with_a_population_the_server_divides_by_it() -> None:
    # As in the paper, c = c + (sum of deltas) / N: 0 + 6/4, then 1.5 + 12/4.
    server = ScaffoldServer(num_clients=4)
    state = server.process_aux_var({}, {"delta": vector(w=[6.0]), "num_new": 2.0})
    assert server.collect_aux_var(state) == {"state": vector(w=[1.5])}
    state = server.process_aux_var(state, {"delta": vector(w=[12.0]), "num_new": 1.0})
    assert server.collect_aux_var(state) == {"state": vector(w=[4.5])}


def test_the_server_keeps_variates_of_weights_that_a_round_does_not_step() -> None:
    """As FLoRA's of adapters, whose products go into other weights."""
    server = Optimizer(1.0, modules=[ScaffoldServer(num_clients=2)])
    server.process_aux_var({"scaffold": {"delta": vector(a=[2.0], b=[4.0]), "num_new": 1.0}})
    server.apply_gradients(Quadratic({"b": [5.0]}), vector(b=[1.0]))
    assert server.collect_aux_var() == {"scaffold": {"state": vector(a=[1.0], b=[2.0])}}


def test_the_server_passes_gradients_through() -> None:
    gradients = vector(w=[1.0, -2.0])
    assert SERVER.update(gradients, {}, Context()) == (gradients, {})


@pytest.mark.parametrize("module", [CLIENT, SERVER])
def test_variables_of_another_kind_are_refused(module: ScaffoldClient | ScaffoldServer) -> None:
    with pytest.raises(KeyError, match="takes the variables"):
        module.process_aux_var({}, {"other": 1.0})


# -- two clients whose optima and curvatures differ ----------------------------------------------

CURVATURES, OPTIMA, LRATE, NUM_STEPS = (1.0, 4.0), (0.0, 3.0), 0.1, 5


def train(client_module: list[str], server_module: list[str], num_rounds: int) -> float:
    """Run full rounds, as client and server do, and return the server's weight."""
    server = Optimizer(1.0, modules=server_module)
    clients = [Optimizer(LRATE, modules=client_module) for _ in CURVATURES]
    model = Quadratic({"w": [1.0]})
    for _ in range(num_rounds):
        broadcast, deltas, auxes = server.collect_aux_var(), [], []
        for index, client in enumerate(clients):
            local = Quadratic({}, curvature=CURVATURES[index], optimum=OPTIMA[index])
            local.weights = model.weights.clone()
            client.process_aux_var(broadcast)
            client.start_round()
            for _ in range(NUM_STEPS):
                client.run_train_step(local, None)
            deltas.append(model.weights - local.weights)
            auxes.append(client.collect_aux_var())
        server.process_aux_var(clients[0].merge_aux(*auxes))
        server.start_round()
        server.apply_gradients(model, (deltas[0] + deltas[1]) / 2.0)
    return model.weights["w"].item()


def test_fedavg_stalls_at_a_bias_where_scaffold_reaches_the_joint_optimum() -> None:
    """Clients i minimize a_i/2 (w - b_i)², with a = 1, 4 and b = 0, 3.

    The joint optimum has a_1 (w - b_1) + a_2 (w - b_2) = 0: w = (1 · 0 + 4 · 3) / 5 = 2.4.

    K steps of rate l from w end at b_i + r_i (w - b_i), with r_i = (1 - l a_i)^K. The mean of the
    deltas is zero, so that FedAvg stands still, where sum (1 - r_i) (w - b_i) = 0. With l = 0.1
    and K = 5: r = 0.9^5 = 0.59049 and 0.6^5 = 0.07776, and
    w = 0.92224 · 3 / (0.40951 + 0.92224) = 2.07750.

    FedAvg's error shrinks by the mean of r, 0.334, each round; 100 rounds are plenty for both.
    """
    r = [(1 - LRATE * a) ** NUM_STEPS for a in CURVATURES]
    biased = sum((1 - x) * b for x, b in zip(r, OPTIMA, strict=True)) / sum(1 - x for x in r)
    joint = sum(a * b for a, b in zip(CURVATURES, OPTIMA, strict=True)) / sum(CURVATURES)
    assert (biased, joint) == (pytest.approx(2.0775, abs=1e-4), pytest.approx(2.4))

    # float32 weights of about 2 have an ulp of 2.4e-7; fixed points are met within a few.
    assert train([], [], 100) == pytest.approx(biased, abs=2e-6)
    assert train(["scaffold-client"], ["scaffold-server"], 100) == pytest.approx(joint, abs=2e-6)


# -- c_i⁺ by option II of the paper, from where the weights have moved -----------------------------


class Walked(Quadratic):
    """A quadratic in float64."""

    def __init__(self) -> None:
        super().__init__({}, curvature=0.5, optimum=3.0)
        self.weights = Vector({"w": torch.tensor([1.0, -2.0], dtype=torch.float64)})


def walk(
    optimizer: Optimizer, *, tells: bool, like: Vector | None = None
) -> tuple[bool, list[float], list[float]]:
    """Take four steps of a round; return whether the delta was wanted, what is sent, and kept."""
    model, start = Walked(), Walked().weights
    local = LocalOptimizer(optimizer, stacked=False)
    aux = {"scaffold": {"state": Vector({"w": torch.tensor([0.25, 0.5], dtype=torch.float64)})}}
    kept = [None]
    for _ in range(2):  # in the second round, c_i is not zero
        known = (like or model.weights) if tells else None
        local.begin([7], round=1, kept=kept, aux=aux, like=known)
        before = model.weights
        for _ in range(4):
            local.apply_gradients(model, model.compute_batch_gradients(None))
        if wanted := local.wants_delta:
            local.take_delta(before - model.weights)
        local.end_steps()
        sent = local.collect_aux_var()["scaffold"]["delta"]["w"].tolist()
        kept = local.end([4])
    assert start == Walked().weights
    state = next(state for state in kept[0].modules if "own" in state)
    return wanted, sent, state["own"]["w"].tolist()


def test_the_mean_gradient_follows_from_where_plain_sgd_has_moved_the_weights() -> None:
    """Option II of Algorithm 1. In float64 both ways agree to rounding of 1e-16 by 4 · 0.1."""
    optimizer = Optimizer(0.1, modules=["scaffold-client"])
    (told, *found), (summed, *expected) = (walk(optimizer, tells=tells) for tells in (True, False))
    assert (told, summed) == (True, False)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-14)


@pytest.mark.parametrize(("own", "change", "next_own"), [(None, 3.0, 3.0), (3.0, 3.0, 6.0)])
def test_what_was_received_and_kept_stays_as_it_was(
    own: float | None, change: float, next_own: float
) -> None:
    """With c = 2 and a mean of g + c - c_i = 5, c_i⁺ = 5 - (2 - 3) = 6 of a client with c_i = 3,
    and of a new one, whose c_i is 0, c_i⁺ = 5 - 2 = 3.
    """
    mean = vector(w=[2.0])
    kept = {} if own is None else {"own": vector(w=[own]), "is_new": torch.tensor(False)}
    _, state = CLIENT.update(vector(w=[1.0]), begin(mean, kept), Context(knows_mean=True))
    state = CLIENT.end_steps(state, vector(w=[5.0]))
    assert CLIENT.collect_aux_var(state)["delta"] == vector(w=[change])
    assert CLIENT.between_rounds(state)["own"] == vector(w=[next_own])
    assert mean == vector(w=[2.0])
    assert own is None or kept["own"] == vector(w=[own])


class HalfSteps(ScaffoldClient):
    """Returns something else than the corrected gradients."""

    name = "half-steps"

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        out, state = super().update(gradients, state, context)
        return out * 0.5, state


@pytest.mark.parametrize(
    "options",
    [
        {"modules": ["scaffold-client", "momentum"]},
        {"modules": [HalfSteps()]},
        {"modules": ["scaffold-client"], "w_decay": 0.01},
        {
            "modules": ["scaffold-client"],
            "lrate": ("cosine", {"base": 0.1, "length": 9, "unit": "step"}),
        },
        {"modules": ["scaffold-client"], "lrate": 0.0},
    ],
)
def test_gradients_are_added_up_where_the_weights_do_not_tell_their_mean(
    options: dict[str, Any],
) -> None:
    optimizer = Optimizer(**{"lrate": 0.1, **options})
    wanted, *found = walk(optimizer, tells=True)
    assert not wanted
    assert found == list(walk(optimizer, tells=False)[1:])


def test_of_bfloat16_weights_gradients_are_added_up() -> None:
    optimizer = Optimizer(0.1, modules=["scaffold-client"])
    half = Vector({"w": torch.zeros(2, dtype=torch.bfloat16)})
    assert not walk(optimizer, tells=True, like=half)[0]
