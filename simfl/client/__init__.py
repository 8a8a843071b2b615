"""What a client does in a round: no Ray, nothing written to disk."""

from simfl.client.batches import read_batch
from simfl.client.host import ClientHost
from simfl.client.recipe import ClientRecipe, Weighting
from simfl.client.stack_trial import can_evaluate_together, find_loss_fault
from simfl.client.stacking import StackChoice, choose_stack
from simfl.sampling import LocalWork

__all__ = [
    "ClientHost",
    "ClientRecipe",
    "LocalWork",
    "StackChoice",
    "Weighting",
    "can_evaluate_together",
    "choose_stack",
    "find_loss_fault",
    "read_batch",
]
