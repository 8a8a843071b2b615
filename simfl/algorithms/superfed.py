"""SuPerFed: a common model and a client's own one, all of whose mixtures have a low loss.

Init: v_k = w with the numbers of each tensor in an order that is the client's; the paper draws it
from the model's initializer. Client: train w_k on f(w_k) + mu |w_k - w|², in the first L rounds.
Afterwards draw lambda ~ Uniform(0, 1) in each step, and descend by w_k and v_k together on
f((1 - lambda) w_k + lambda v_k) + mu |w_k - w|² + nu cos²(w_k, v_k). Send: w - w_k; keep v_k.
Personal: (1 - lambda) w + lambda v_k for one lambda, ``share``; the paper takes each client's best.

Source: Hahn, Jeong and Lee, 2022, section 3, https://arxiv.org/abs/2109.07628
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from simfl.algorithms import steps
from simfl.algorithms.algorithm import Algorithm, Local, Number, State, Update
from simfl.component import Fraction, NonNegative
from simfl.models import Batch
from simfl.vector import Vector


@dataclass(frozen=True)
class SuPerFed(Algorithm):
    """Connect the common model and one's own by mixtures; steps are of the clients' ``lrate``."""

    name: ClassVar[str] = "superfed"
    uses_optimizer: ClassVar[bool] = False
    mixing: Literal["model", "layers"] = "model"
    """Whether a step has one lambda (SuPerFed-MM) or one for each layer (SuPerFed-LM)."""
    mu: NonNegative = 0.01
    """How strongly w_k is pulled to w."""
    nu: NonNegative = 2.0
    """How strongly w_k and v_k are made orthogonal."""
    common_rounds: Annotated[int, Ge(0)] = 0
    """L: the rounds before mixing begins; 20 to 60 % of all rounds in the authors' scripts."""
    share: Fraction = 0.5
    """lambda in evaluation: 0 is the common model, 1 the own one."""

    def init(self, weights: Vector) -> State:
        """Return v_k, and whether it has begun: before that it is not used."""
        return {"v": weights, "begun": torch.zeros((), dtype=torch.float64)}

    def client(self, local: Local) -> tuple[Update, State]:
        """Train the common model alone, or in each step both."""
        w, kept, turns = local.weights, local.kept, count()
        if local.round <= self.common_rounds:
            pulled = local.train_delta(w, add=lambda v, w: (v - w) * (2 * self.mu), given=(w,))
            return Update(pulled), kept
        w, by_layer = w.select(local.trainable), self.mixing == "layers"

        def step(carry: State, batch: Batch, rate: Number, seeds: Tensor) -> State:
            w_k, v_k = carry["w"], carry["v"]
            drawn = (seeds, next(turns))
            share = steps.uniform_by_layer(*drawn, w_k) if by_layer else steps.uniform(*drawn)
            slope = local.gradients(steps.mix(v_k, w_k, share), batch)
            of_w = slope * (1 - share) + steps.cosine_slope(w_k, v_k) * self.nu
            of_v = slope * share + steps.cosine_slope(v_k, w_k) * self.nu
            return {"w": w_k - (of_w + (w_k - w) * (2 * self.mu)) * rate, "v": v_k - of_v * rate}

        start = {"w": w, "v": steps.begin_own(local, own=kept["v"].select(w), begun=kept["begun"])}
        end = local.scan(step, start, given=(local.lrate, steps.seeds_of(local, self.name)))
        kept = {"v": kept["v"] | end["v"], "begun": torch.ones_like(kept["begun"])}
        return Update(w - end["w"]), kept

    def personal(self, local: Local) -> Vector:
        """Return the mixture for ``share``; before mixing has begun, the common model."""
        v, w = (one.select(local.trainable) for one in (local.kept["v"], local.weights))
        return local.weights | steps.mix(v, w, self.share * local.kept["begun"])
