"""docs/scenario.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from simfl.scenario.components import component_kinds
from simfl.scenario.fields import keys_of
from simfl.scenario.reference import scenario_reference
from simfl.scenario.schema import Scenario

PAGE = Path(__file__).parents[3] / "docs" / "scenario.md"


def test_the_page_is_up_to_date():
    remedy = "run: python -m simfl.scenario.reference > docs/scenario.md"
    assert PAGE.read_text(encoding="utf-8") == scenario_reference(), remedy


def test_the_page_has_every_key_and_every_name():
    page = scenario_reference()
    for key in ("rounds", "per_round", *keys_of(Scenario)):
        assert f"| `{key}` |" in page
    for what, root in component_kinds().items():
        assert f"### {what}\n" in page
        for name, cls in root.registry.items():
            if cls.__module__.startswith("simfl."):
                assert f"#### {name}\n" in page


def test_a_row_has_type_default_and_meaning():
    row = (
        "| `batch_size` | integer >= 1 or null | `null` | "
        "The examples of a step. null: all that the client holds. |"
    )
    assert row in scenario_reference()
    assert "| `steps` | integer >= 1 or work or null | `null` |" in scenario_reference()
