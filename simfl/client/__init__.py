"""What a client does in a round: no Ray, nothing written to disk."""

from simfl.client.batches import read_batch
from simfl.client.host import ClientHost, ClientRecipe, Weighting
from simfl.client.work import LocalWork

__all__ = ["ClientHost", "ClientRecipe", "LocalWork", "Weighting", "read_batch"]
