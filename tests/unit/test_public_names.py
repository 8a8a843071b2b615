"""What packages export exists, and public names stay where they are."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import simfl

DOCS = Path(__file__).parents[2] / "docs"
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


def test_the_reference_has_all_public_names_and_all_classes_to_derive_from() -> None:
    described = set()
    for page in (DOCS / "api").glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            elif described_here := re.match(r"\.\. auto(?:class|function):: (\w+)$", line):
                described.add(f"{module}.{described_here[1]}")
    table = (DOCS / "plugins.md").read_text(encoding="utf-8").split("## How")[0]
    bases = set(re.findall(r"`(simfl\.\w+\.[A-Z]\w+)`", table))
    assert len(bases) > 15
    names = [f"simfl.{name}" for name in simfl.__all__ if name != "__version__"]
    suites = [f"simfl.testing.{name}" for name in importlib.import_module("simfl.testing").__all__]
    assert {*names, *suites, *bases} - described == {"simfl.testing.ContractError"}
