"""Runs on Ray; no other package imports it. ``RayEngine`` is in ``simfl.cluster.engine``."""

__all__: list[str] = []
