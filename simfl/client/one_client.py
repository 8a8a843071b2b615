"""OneClient: a client on the model itself.

Shapes: B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from simfl.client.augmenting import Augmenter
from simfl.client.recipe import Resident
from simfl.client.steps import Step, Steps
from simfl.client.trainee import Sums, Trainee
from simfl.client.updates import StepLosses, sum_losses
from simfl.models import Batch, ModelFunction
from simfl.models.model_function import as_mappings
from simfl.sampling import LocalWork
from simfl.seeding import Undrawn, derive_seed, global_generators, is_alone, torch_state
from simfl.vector import Vector


class OneClient(Trainee):
    """One client, on the model itself."""

    stacked = False

    def __init__(self, resident: Resident, client: int, round: int) -> None:
        super().__init__(resident, (client,), round, resident.model)

    @property
    def live(self) -> Vector:
        return self._model.live_weights(self._model.shared_names)

    @property
    def like(self) -> Vector:
        return Vector(self._model.trainable)

    def load(self, base: Vector, start: Vector, *, in_place: bool) -> None:
        if in_place:
            self._model.start_from(base | start)
        else:
            self._model.set_weights(base | start)

    def compute_delta(self, start: Vector) -> Vector:
        into = self._resident.spare.take() if self._model.needs_memory else None
        return self._model.compute_delta(start, into=into)

    def end_training(self) -> None:
        self._model.end_training()

    def steps(self, work: LocalWork, *, seed: int) -> Steps:
        return _StepsOfOne(self._resident, work, self.clients[0], seed=seed, round=self.round)

    def narrow(self, active: int) -> None:
        assert active == 1, "there is one client"

    def _at(self, weights: Vector, step: Step) -> AbstractContextManager[None]:
        self._model.set_weights(weights.select(self._model.trainable), trainable=True)
        return nullcontext()

    def _applied(
        self, function: Callable[..., Sums], given: tuple[Any, ...], loss_given: Mapping[str, Any]
    ) -> Callable[[Batch], Sums]:
        model = ModelFunction(self._model, given=as_mappings(loss_given))
        values = tuple(map(as_mappings, given))
        return lambda batch: function(model, batch, *values)

    def _all_examples(self) -> Iterator[Batch]:
        rows = self._resident.dataset.train_rows(self.clients[0])
        size = self._resident.recipe.evaluation_batch_size
        # Without examples, an empty batch still gives the shapes.
        for start in range(0, max(len(rows), 1), size):
            batch = self._resident.read(rows[start : start + size])
            ones = torch.ones(len(batch.targets), device=self._resident.device)
            yield batch._replace(sample_weights=ones)


class _StepsOfOne(Steps):
    """The steps of one client; batches, and what the model draws, are of this seed."""

    def __init__(
        self, resident: Resident, work: LocalWork, client: int, *, seed: int, round: int
    ) -> None:
        self._resident = resident
        self._at = {"round": round, "client": client}
        self._seed = seed
        rows = resident.dataset.train_rows(client)
        self._augmented = Augmenter(
            resident.recipe.augment, seed=seed, round=round, clients=(client,), stacked=False
        )
        self._batches = work.draw_batches(rows, seed=seed, round=round, client=client)
        self.num_steps = [len(self._batches)]

    def __iter__(self) -> Iterator[Step]:
        model, device = self._resident.model, self._resident.device
        # Filled, not copied: a copy would wait for the GPU.
        key = torch.full((), derive_seed(self._seed, "model", **self._at), device=device)
        for index, rows_B in enumerate(self._batches):
            batch = self._augmented(self._resident.read(rows_B), index)
            model.seed_step(key, index)
            yield Step(1, batch, (len(rows_B),))

    def sum_losses(self, losses: Sequence[Tensor]) -> list[StepLosses]:
        return [sum_losses(losses, [len(rows_B) for rows_B in self._batches])]

    def seeded(self) -> AbstractContextManager[None]:
        """Seed torch's global generators, from which layers of others draw, and restore them.

        Of several threads, none may draw: ``NotAloneError`` if one does.
        """
        return self._with_generators() if is_alone() else Undrawn()

    @contextmanager
    def _with_generators(self) -> Iterator[None]:
        uses_cuda = torch.device(self._resident.device).type == "cuda"
        with global_generators([torch.cuda.current_device()] if uses_cuda else []):
            torch.default_generator.set_state(torch_state(self._seed, "model", **self._at))
            if uses_cuda:  # which uses all bits
                torch.cuda.manual_seed(derive_seed(self._seed, "model", **self._at))
            yield
