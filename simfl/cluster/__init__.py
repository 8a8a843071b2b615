"""Ray: the only place that imports it. ``RayEngine`` lies in ``simfl.cluster.engine``."""
