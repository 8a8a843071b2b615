"""What packages export exists, and public names stay where they are."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import simfl

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(simfl.__path__, "simfl.")
    if module.ispkg or module.name.count(".") == 1  # a package, or a module at the same level
    if module.name != "simfl.__main__"
)


@pytest.mark.parametrize("name", ["simfl", *MODULES])
def test_all_that_a_package_exports_exists_and_is_exported_once(name: str) -> None:
    module = importlib.import_module(name)
    offered = module.__all__
    assert len(set(offered)) == len(offered)
    for public in offered:
        assert hasattr(module, public), f"{name} has no {public}"


@pytest.mark.parametrize(
    "path",
    [
        "simfl:load_scenario",
        "simfl:run",
        "simfl:resume",
        "simfl:Result",
        "simfl.optimizer:Optimizer",
        "simfl.optimizer:OptiModule",
        "simfl.optimizer:Regularizer",
        "simfl.optimizer:list_optim_modules",
        "simfl.optimizer:list_optim_regularizers",
        "simfl.optimizer:list_rate_schedules",
        "simfl.optimizer:check_plugin",
        "simfl.vector:Vector",
        "simfl.models:Model",
        "simfl.models:TorchModel",
    ],
)
def test_a_name_that_people_rely_on_is_where_it_was(path: str) -> None:
    module, _, name = path.partition(":")
    assert name in importlib.import_module(module).__all__


def test_dir_has_what_can_be_used_and_nothing_else() -> None:
    assert dir(simfl) == sorted(simfl.__all__)
    assert {"run", "resume", "load_scenario"} <= set(dir(simfl))
