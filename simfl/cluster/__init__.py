"""Ray: the only place that imports it. ``RayEngine`` lies in ``simfl.cluster.engine``."""

__all__: list[str] = []
