"""The server's half of a round."""

from simfl.server.server import PublicData, Server, ServerRecipe

__all__ = ["PublicData", "Server", "ServerRecipe"]
