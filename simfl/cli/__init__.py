"""The command line. Nothing here imports torch, ray or pydantic before a command runs."""

__all__: list[str] = []
