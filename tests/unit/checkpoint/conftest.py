from tests.unit.states.conftest import storage

__all__ = ["storage"]
