import copy
import inspect
import json
import pickle
from typing import Any

import numpy as np
import pytest
from toy_models import Quadratic, vector

from simfl.errors import ConfigError, UnknownNameError
from simfl.optimizer import (
    Adam,
    Cosine,
    FedProx,
    Momentum,
    Optimizer,
    Ridge,
    list_optim_modules,
    list_optim_regularizers,
    list_rate_schedules,
)


def test_plug_ins_are_given_as_instances_names_or_pairs() -> None:
    optimizer = Optimizer(
        0.1,
        regularizers=["fedprox", ["ridge", {"alpha": 0.5}]],
        modules=[Momentum(beta=0.5), "adam", ("momentum", {"nesterov": True})],
    )
    assert optimizer.modules == [Momentum(beta=0.5), Adam(), Momentum(nesterov=True)]
    assert optimizer.regularizers == [FedProx(), Ridge(alpha=0.5)]


def test_rates_are_numbers_or_schedules() -> None:
    optimizer = Optimizer(1, w_decay=["cosine", {"base": 0.1, "length": 10}])
    assert optimizer.lrate == 1.0
    assert isinstance(optimizer.lrate, float)
    assert optimizer.w_decay == Cosine(base=0.1, length=10)
    assert Optimizer(np.float32(0.5)).lrate == 0.5


def test_config_goes_through_json() -> None:
    optimizer = Optimizer(
        lrate=("warm-up", {"after": Cosine(base=0.1, length=10), "length": 3}),
        w_decay=("piecewise", {"values": (0.1, 0.2), "boundaries": (3,), "unit": "step"}),
        regularizers=[("fedprox", {"alpha": 0.5})],
        modules=["scaffold-client", ("gaussian-noise", {"seed": 3})],
    )
    config = optimizer.get_config()
    again = Optimizer.from_config(json.loads(json.dumps(config)))
    assert json.loads(json.dumps(config)) == config == again.get_config()
    assert (again.lrate, again.w_decay) == (optimizer.lrate, optimizer.w_decay)
    assert (again.modules, again.regularizers) == (optimizer.modules, optimizer.regularizers)


def test_config_lists_names_and_hyper_parameters() -> None:
    config = Optimizer(0.1, regularizers=["lasso"], modules=[Momentum()]).get_config()
    assert config == {
        "lrate": 0.1,
        "w_decay": 0.0,
        "regularizers": [["lasso", {"alpha": 0.01}]],
        "modules": [["momentum", {"beta": 0.9, "nesterov": False}]],
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lrate": 0.1, "wdecay": 0.1}, r"unused config entries \['wdecay'\]"),
        ({"modules": []}, r"missing config entries \['lrate'\]"),
        (
            {"lrate": 0.1, "modules": [["adam", {"beta": 1}]]},
            r"modules\[0\]: adam: .*'beta'",
        ),
        ({"lrate": ["cosine", {"base": 1.0}]}, r"lrate: cosine: missing .*'length'"),
    ],
)
def test_a_config_with_missing_or_unused_entries_is_a_key_error(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(KeyError, match=message):
        Optimizer.from_config(config)


def test_an_unknown_name_is_reported_with_its_place_and_the_nearest_one() -> None:
    message = r"^modules\[1\]: no module named 'momentun'\. Did you mean 'momentum'\?$"
    with pytest.raises(UnknownNameError, match=message):
        Optimizer(0.1, modules=["adam", "momentun"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": "adam"}, "modules is 'adam'; give a list of modules"),
        ({"modules": [FedProx()]}, r"modules\[0\]: FedProx\(alpha=0.01\) cannot be used"),
        ({"modules": [("adam", {}, 3)]}, r"modules\[0\]: .* should be the name of a module"),
        ({"modules": [("adam", {"eps": -1.0})]}, r"modules\[0\]: adam: eps is -1.0"),
        (
            {"regularizers": [3]},
            r"regularizers\[0\]: 3 cannot be used; it should be the name of a reg",
        ),
        ({"lrate": -0.1}, "lrate is -0.1; give a finite number of at least 0"),
        ({"lrate": float("nan")}, "lrate is nan"),
        ({"w_decay": True}, "w_decay: True cannot be used; it should be the name of a schedule"),
    ],
)
def test_what_cannot_be_used_is_reported_with_its_place(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Optimizer(**{"lrate": 0.1, **options})


def test_two_modules_of_one_aux_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"modules\[2\]: .*'scaffold'.*modules\[0\]"):
        Optimizer(0.1, modules=["scaffold-client", "adam", "scaffold-server"])


def test_modules_without_variables_may_come_twice() -> None:
    assert Optimizer(0.1, modules=["momentum", "momentum"]).aux_names == frozenset()


@pytest.mark.parametrize(
    "list_classes", [list_optim_modules, list_optim_regularizers, list_rate_schedules]
)
def test_registries_are_listed_as_copies(list_classes: Any) -> None:
    classes = list_classes()
    assert all(cls.name == name for name, cls in classes.items())
    classes.clear()
    assert list_classes()


def test_all_plug_ins_of_the_documentation_are_there() -> None:
    modules = {
        *("momentum", "ewma", "yogi-momentum", "adagrad", "rmsprop", "adam", "yogi"),
        *("l2-clipping", "l2-global-clipping", "gaussian-noise"),
        *("scaffold-client", "scaffold-server"),
    }
    assert modules <= list_optim_modules().keys()
    assert {"fedprox", "lasso", "ridge"} <= list_optim_regularizers().keys()


HALF, ALL = ("momentum", {"beta": 0.5}), ("momentum", {"beta": 0.0})


def next_update(optimizer: Optimizer) -> float:
    """The update, with its sign turned, for a gradient of 1."""
    gradients = vector(w=[1.0])
    return -optimizer.compute_updates_from_gradients(Quadratic({}), gradients)["w"].item()


def test_plug_ins_that_stay_in_the_list_keep_their_states_and_new_ones_begin_anew() -> None:
    """v = v / 2 + 1 is 1, 1.5, 1.75; without a memory it is 1."""
    optimizer = Optimizer(1.0, modules=[HALF])
    assert next_update(optimizer) == 1.0
    optimizer.modules.append(ALL)
    assert next_update(optimizer) == 1.5
    optimizer.modules.reverse()
    assert next_update(optimizer) == 1.75
    half = optimizer.modules.pop()
    assert next_update(optimizer) == 1.0
    optimizer.modules += [half]
    assert optimizer.modules == [Momentum(beta=0.0), Momentum(beta=0.5)]
    assert next_update(optimizer) == 1.0
    optimizer.regularizers = [("ridge", {"alpha": 0.5})]
    optimizer.modules = []
    model = Quadratic({"w": [3.0]})
    update = optimizer.compute_updates_from_gradients(model, vector(w=[1.0]))
    assert update["w"].item() == -4.0
    assert optimizer.get_config()["regularizers"] == [["ridge", {"alpha": 0.5}]]


def test_a_list_of_plug_ins_that_cannot_be_is_refused_and_stays_as_it_was() -> None:
    optimizer = Optimizer(1.0, modules=["scaffold-client"])
    with pytest.raises(ConfigError, match="has the auxiliary variables 'scaffold'"):
        optimizer.modules.append("scaffold-client")
    with pytest.raises(KeyError, match=r"modules: .*'momentun'"):
        optimizer.modules.insert(0, "momentun")
    with pytest.raises(ConfigError, match=r"modules\[0\]: 3 cannot be used"):
        optimizer.modules[0] = 3
    assert [module.name for module in optimizer.modules] == ["scaffold-client"]
    assert next_update(optimizer) == 1.0


def test_the_list_of_a_copy_is_the_copy_s_own() -> None:
    optimizer = Optimizer(1.0, modules=[HALF])
    next_update(optimizer)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.modules.append(HALF)
        assert next_update(other) == 1.5
        assert len(optimizer.modules) == 1
    assert next_update(optimizer) == 1.5


SIGNATURES = {
    "__init__": {"lrate": ..., "w_decay": 0.0, "regularizers": None, "modules": None},
    "compute_updates_from_gradients": {"model": ..., "gradients": ...},
    "apply_gradients": {"model": ..., "gradients": ...},
    "run_train_step": {"model": ..., "batch": ..., "sclip": None},
    "start_round": {},
    "collect_aux_var": {},
    "process_aux_var": {"aux_var": ...},
    "get_config": {},
    "from_config": {"config": ...},
    "get_state": {},
    "set_state": {"states": ...},
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_arguments_have_the_names_that_are_documented(method: str) -> None:
    parameters = inspect.signature(getattr(Optimizer, method)).parameters
    found = {
        name: ... if parameter.default is parameter.empty else parameter.default
        for name, parameter in parameters.items()
        if name != "self"
    }
    assert found == SIGNATURES[method]
