from __future__ import annotations

import pytest

from simfl.scenario.kinds import component_kinds


@pytest.fixture
def only_our_components(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the components that the modules of other tests have defined, broken ones among them."""
    own = ("simfl.", request.module.__name__)
    for root in component_kinds().values():
        classes = {
            name: cls for name, cls in root.registry.items() if cls.__module__.startswith(own)
        }
        monkeypatch.setattr(root.registry, "_classes", classes)
