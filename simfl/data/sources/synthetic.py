"""Synthetic(alpha, beta), the generated data of the FedProx paper.

Shapes: N examples of a client, D features, K classes.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from simfl.component import Count, NonNegative
from simfl.data.dataset import Array, Examples
from simfl.data.source import Source, SourceData
from simfl.errors import ConfigError
from simfl.seeding import SERVER, numpy_generator

_PURPOSE = "data.synthetic"
_WIDTH = 8
"""Bytes per number while drawing."""


@dataclass(frozen=True)
class Synthetic(Source):
    """Classes of a random linear model per client, as in the FedProx paper.

    Client k draws u ~ N(0, alpha), W and b ~ N(u, 1), B ~ N(0, beta), v ~ N(B, 1) and examples
    x ~ N(v, S) with S diagonal, S_jj = j^-1.2; then y = argmax(x W + b). alpha and beta are
    standard deviations, as in the authors' generator. Sizes are ``min_examples`` and a log-normal
    number on top. As u moves the scores of all classes alike, alpha leaves y as it is: clients'
    models differ because each draws W, whatever alpha.

    Each client has its own generator: client k is the same in a larger population.
    Columns: "client". There is no test split: ``test_fraction`` makes one.

    Source: Li et al., 2020, section 5.1, https://arxiv.org/abs/1812.06127
    """

    name: ClassVar[str] = "synthetic"

    clients: Count = 30
    """The number of clients."""
    alpha: NonNegative = 1.0
    """The standard deviation over clients of the mean of their models' weights."""
    beta: NonNegative = 1.0
    """The standard deviation over clients of the mean of their inputs."""
    iid: bool = False
    """One model W, b ~ N(0, 1) and inputs of mean 0 for all clients; alpha and beta are unused."""
    features: Count = 60
    """The length D of an input."""
    classes: Count = 10
    """The number K of classes."""
    min_examples: Count = 50
    """The minimum number of examples of a client."""
    max_examples: Count | None = None
    """The maximum number of examples of a client; None: no limit."""
    size_log_mean: float = 4.0
    """The mean of the logarithm of the number of examples beyond ``min_examples``."""
    size_log_std: NonNegative = 2.0
    """The standard deviation of that logarithm."""

    def check(self) -> None:
        """Check that the bounds on sizes are consistent."""
        if self.max_examples is not None and self.max_examples < self.min_examples:
            raise ConfigError(
                f"{self.name}: max_examples is {self.max_examples}, less than min_examples, "
                f"{self.min_examples}; raise it"
            )

    def load(self, *, seed: int) -> SourceData:
        """Generate the examples of all clients, client after client.

        Raises:
            ConfigError: if they do not fit into this machine's memory.
        """
        self._require_memory(self.clients * self.min_examples)
        shared = self._model(numpy_generator(seed, _PURPOSE, client=SERVER), mean=0.0)
        parts = [self._client(seed, client, shared=shared) for client in range(self.clients)]
        sizes = [len(targets) for _, targets in parts]
        inputs = np.concatenate([inputs for inputs, _ in parts])
        targets = np.concatenate([targets for _, targets in parts])
        clients = np.repeat(np.arange(self.clients, dtype=np.int64), sizes)
        return SourceData(Examples(inputs, targets), columns={"client": clients})

    def _client(
        self, seed: int, client: int, *, shared: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Draw one client's inputs (N, D), float32, and targets (N,)."""
        generator = numpy_generator(seed, _PURPOSE, client=client)
        size = self._size(generator)
        if self.iid:
            (weights_DK, biases_K), means_D = shared, np.zeros(self.features)
        else:
            weights_DK, biases_K = self._model(generator, mean=generator.normal(0, self.alpha))
            means_D = generator.normal(generator.normal(0, self.beta), 1, self.features)
        stds_D = np.arange(1, self.features + 1) ** -0.6
        inputs_ND = generator.normal(means_D, stds_D, (size, self.features))
        targets_N = (inputs_ND @ weights_DK + biases_K).argmax(axis=1)
        return inputs_ND.astype(np.float32), targets_N.astype(np.int64)

    def _size(self, generator: np.random.Generator) -> int:
        beyond = generator.lognormal(self.size_log_mean, self.size_log_std)
        if self.max_examples is not None:
            return int(
                min(self.min_examples + int(min(beyond, self.max_examples)), self.max_examples)
            )
        self._require_memory(beyond)
        return self.min_examples + int(beyond)

    def _require_memory(self, examples: float) -> None:
        numbers = max(examples * self.features, self.features * self.classes)
        if numbers * _WIDTH > _memory_bytes():
            raise ConfigError(
                f"{self.name}: {examples:.3g} examples with {self.features} features and "
                f"{self.classes} classes do not fit into the memory; ask for fewer of them, or for "
                "a smaller size_log_mean"
            )

    def _model(self, generator: np.random.Generator, *, mean: float) -> tuple[Array, Array]:
        weights_DK = generator.normal(mean, 1, (self.features, self.classes))
        return weights_DK, generator.normal(mean, 1, self.classes)


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not available on this system
        return math.inf
