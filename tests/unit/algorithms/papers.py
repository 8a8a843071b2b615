"""The papers' algorithms in numpy, on clients with least squares and full batches.

Each function returns the server's weights after each of its rounds: [rounds, D]. ``cohorts`` has
the clients of each round. Nothing of simfl is used here.

Shapes: N clients, n_k examples of a client, M rows of an example, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Cohorts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class LeastSquares:
    """F_k(w) = mean over the rows of (x w - y)², with gradient A_k w - b_k.

    One example is a whole matrix of rows, and a client holds n_k copies of its own: so any batch
    of its examples has the gradient of all of them.
    """

    inputs: Array
    """[N, M, D]."""
    targets: Array
    """[N, M]."""
    sizes: Array
    """[N] the n_k."""

    @classmethod
    def draw(cls, sizes: Sequence[int], *, features: int = 3, seed: int = 0) -> LeastSquares:
        """Draw clients whose inputs, and best weights, differ; no A_k is far from the identity."""
        rng = np.random.default_rng(seed)
        inputs, targets, rows = [], [], 2 * features
        for _ in sizes:
            left = np.linalg.qr(rng.normal(size=(rows, features)))[0]
            right = np.linalg.qr(rng.normal(size=(features, features)))[0]
            inputs.append(np.sqrt(rows) * left @ np.diag(rng.uniform(0.5, 1.2, features)) @ right)
            best = rng.normal(size=features) + 1.0
            targets.append(inputs[-1] @ best + 0.3 * rng.normal(size=rows))
        return cls(np.array(inputs), np.array(targets), np.array(sizes, dtype=float))

    @property
    def clients(self) -> range:
        return range(len(self.inputs))

    @property
    def A(self) -> Array:
        """[N, D, D]."""
        return np.array([2 * x.T @ x / len(x) for x in self.inputs])

    @property
    def b(self) -> Array:
        """[N, D]."""
        pairs = zip(self.inputs, self.targets, strict=True)
        return np.array([2 * x.T @ y / len(x) for x, y in pairs])

    def gradient(self, k: int, w: Array) -> Array:
        x, y = self.inputs[k], self.targets[k]
        return 2 * x.T @ (x @ w - y) / len(x)

    def loss(self, k: int, w: Array) -> float:
        return float(np.mean((self.inputs[k] @ w - self.targets[k]) ** 2))

    def optimum(self, weights: Sequence[float] | None = None) -> Array:
        """Minimise the weighted sum of the F_k; by default with equal weights."""
        by = np.ones(len(self.inputs)) if weights is None else np.asarray(weights, dtype=float)
        return np.linalg.solve(np.tensordot(by, self.A, 1), np.tensordot(by, self.b, 1))

    def descend(
        self,
        k: int,
        w: Array,
        *,
        lrate: float,
        steps: int,
        momentum: float = 0.0,
        add: Callable[[Array], Array] = lambda v: np.zeros_like(v),
    ) -> Array:
        """Take a client's steps, with something added to each gradient."""
        v, velocity = w.copy(), np.zeros_like(w)
        for _ in range(steps):
            velocity = momentum * velocity + self.gradient(k, v) + add(v)
            v = v - lrate * velocity
        return v


def fedavg(p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int) -> Array:
    """McMahan et al., 2017, Algorithm 1."""
    out = []
    for cohort in cohorts:
        ends = [p.descend(k, w, lrate=lrate, steps=steps) for k in cohort]
        w = np.average(ends, axis=0, weights=p.sizes[list(cohort)])
        out.append(w)
    return np.array(out)


def feddyn(
    p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int, alpha: float
) -> Array:
    """Acar et al., 2021, Algorithm 1, with gradient descent for the minimisation."""
    g, h, out = dict.fromkeys(p.clients, 0 * w), 0 * w, []
    for cohort in cohorts:
        ends = {}
        for k in cohort:
            ends[k] = p.descend(
                k, w, lrate=lrate, steps=steps, add=lambda v, w=w, k=k: -g[k] + alpha * (v - w)
            )
            g[k] = g[k] - alpha * (ends[k] - w)
        h = h - alpha / len(p.clients) * sum(v - w for v in ends.values())
        w = np.mean(list(ends.values()), axis=0) - h / alpha
        out.append(w)
    return np.array(out)


def fednova(
    p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: Sequence[int], rho: float
) -> Array:
    """Wang et al., 2020, equation 6: a_i has what each gradient of the round counts for."""
    out = []
    for cohort in cohorts:
        share = p.sizes[list(cohort)] / p.sizes[list(cohort)].sum()
        norms, directions = [], []
        for k in cohort:
            a = [sum(rho**j for j in range(steps[k] - s)) for s in range(steps[k])]
            end = p.descend(k, w, lrate=lrate, steps=steps[k], momentum=rho)
            norms.append(sum(a))
            directions.append((w - end) / (lrate * sum(a)))
        tau = share @ norms
        w = w - tau * lrate * (share @ np.array(directions))
        out.append(w)
    return np.array(out)


def fedexp(
    p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int, epsilon: float
) -> Array:
    """Jhunjhunwala et al., 2023, Algorithm 1."""
    out = []
    for cohort in cohorts:
        deltas = np.array([w - p.descend(k, w, lrate=lrate, steps=steps) for k in cohort])
        mean = deltas.mean(axis=0)
        rate = (deltas**2).sum() / (2 * len(cohort) * ((mean**2).sum() + epsilon))
        w = w - max(1.0, rate) * mean
        out.append(w)
    return np.array(out)


def q_fedavg(
    p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int, q: float
) -> Array:
    """Li et al., 2020, Algorithm 2."""
    lipschitz, out = 1 / lrate, []
    for cohort in cohorts:
        deltas, h = [], []
        for k in cohort:
            loss = p.loss(k, w)
            move = lipschitz * (w - p.descend(k, w, lrate=lrate, steps=steps))
            deltas.append(loss**q * move)
            h.append(q * loss ** (q - 1) * move @ move + lipschitz * loss**q)
        w = w - sum(deltas) / sum(h)
        out.append(w)
    return np.array(out)


def afl(
    p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int, lambda_lrate: float
) -> Array:
    """Mohri et al., 2019; of those who have not taken part yet, lambda stays as it is."""
    size, out = len(p.clients), []
    mixture, seen = np.full(size, 1 / size), set()
    for cohort in cohorts:
        scale = size / len(cohort)
        ends = {k: p.descend(k, w, lrate=lrate, steps=steps) for k in cohort}
        losses = np.array([p.loss(k, w) if k in cohort else 0.0 for k in p.clients])
        w = w - scale * sum(mixture[k] * (w - ends[k]) for k in cohort)
        seen |= set(cohort)
        known = sorted(seen)
        ahead = mixture + lambda_lrate * scale * losses
        mixture[known] = onto_simplex(ahead[known], len(known) / size)
        out.append(w)
    return np.array(out)


def onto_simplex(point: Array, total: float) -> Array:
    """Find the level by bisection: the closest point is max(point - level, 0), with this sum."""
    low, high = point.min() - total, point.max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(point - level, 0).sum() > total else (low, level)
    return np.maximum(point - (low + high) / 2, 0)


def adaptive_fedprox(
    p: LeastSquares,
    w: Array,
    cohorts: Cohorts,
    *,
    lrate: float,
    steps: int,
    mu: float,
    step: float,
    patience: int,
) -> Array:
    """Li et al., 2020, Algorithm 2, and mu by section 5.3.2."""
    out, losses = [], []
    for cohort in cohorts:
        share = p.sizes[list(cohort)] / p.sizes[list(cohort)].sum()
        losses.append(share @ [p.loss(k, w) for k in cohort])
        ends = [
            p.descend(k, w, lrate=lrate, steps=steps, add=lambda v, w=w, mu=mu: mu * (v - w))
            for k in cohort
        ]
        w = share @ np.array(ends)
        if len(losses) > 1 and losses[-1] > losses[-2]:
            mu, losses = mu + step, losses[-1:]
        elif len(losses) == patience + 1:
            mu, losses = max(mu - step, 0.0), losses[-1:]
        out.append(w)
    return np.array(out)


def scaffold(p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int) -> Array:
    """Karimireddy et al., 2020, Algorithm 1 with option I."""
    own, c, out = dict.fromkeys(p.clients, 0 * w), 0 * w, []
    for cohort in cohorts:
        ends, changes = [], []
        for k in cohort:
            correction = c - own[k]
            ends.append(p.descend(k, w, lrate=lrate, steps=steps, add=lambda v, r=correction: r))
            changes.append(p.gradient(k, w) - own[k])
            own[k] = p.gradient(k, w)
        w = w + np.mean([end - w for end in ends], axis=0)
        c = c + np.mean(changes, axis=0) * len(cohort) / len(p.clients)
        out.append(w)
    return np.array(out)


def fedlin(p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int) -> Array:
    """Mitra et al., 2021, Algorithm 1 without compression, and with one rate."""
    out = []
    for cohort in cohorts:
        g = np.mean([p.gradient(k, w) for k in cohort], axis=0)
        ends = [
            p.descend(
                k, w, lrate=lrate, steps=steps, add=lambda v, w=w, k=k, g=g: g - p.gradient(k, w)
            )
            for k in cohort
        ]
        w = np.mean(ends, axis=0)
        out.append(w)
    return np.array(out)


def feddc(
    p: LeastSquares, w: Array, cohorts: Cohorts, *, lrate: float, steps: int, alpha: float
) -> Array:
    """Gao et al., 2022, with the states of the authors' code, whose last row is the cloud's."""
    drifts, states = np.zeros((len(p.clients), len(w))), np.zeros((len(p.clients), len(w)))
    cloud, out = 0 * w, []
    for cohort in cohorts:
        ends, change = {}, 0 * w
        for k in cohort:
            ends[k] = p.descend(
                k,
                w,
                lrate=lrate,
                steps=steps,
                add=lambda v, w=w, k=k, c=cloud: alpha * (v - (w - drifts[k])) + (c - states[k]),
            )
            drifts[k] += ends[k] - w
            new = states[k] - cloud + (w - ends[k]) / (steps * lrate)
            change = change + (new - states[k]) / len(p.clients)
            states[k] = new
        cloud = cloud + change
        w = np.mean(list(ends.values()), axis=0) + drifts.mean(axis=0)
        out.append(w)
    return np.array(out)


def mime(
    p: LeastSquares,
    w: Array,
    cohorts: Cohorts,
    *,
    lrate: float,
    steps: int,
    beta: float,
    lite: bool,
) -> Array:
    """Karimireddy et al., 2021, Algorithm 1, with U and V of SGDm."""
    m, out = 0 * w, []
    for cohort in cohorts:
        c = np.mean([p.gradient(k, w) for k in cohort], axis=0)
        ends = []
        for k in cohort:
            y = w
            for _ in range(steps):
                g = p.gradient(k, y)
                if not lite:
                    g = g - p.gradient(k, w) + c
                y = y - lrate * ((1 - beta) * g + beta * m)
            ends.append(y)
        m = (1 - beta) * c + beta * m
        w = np.mean(ends, axis=0)
        out.append(w)
    return np.array(out)


def one_shot(p: LeastSquares, w: Array, rounds: int, *, lrate: float, steps: int) -> Array:
    """Zinkevich et al., 2010, Algorithm 3, after each round's number of steps; by examples."""
    return np.array(
        [
            np.average(
                [p.descend(k, w, lrate=lrate, steps=steps * number) for k in p.clients],
                axis=0,
                weights=p.sizes,
            )
            for number in range(1, rounds + 1)
        ]
    )


def gradient_descent(p: LeastSquares, w: Array, rounds: int, *, lrate: float) -> Array:
    """Descend on the examples of all clients together."""
    x = np.concatenate([np.tile(x, (int(n), 1)) for x, n in zip(p.inputs, p.sizes, strict=True)])
    y = np.concatenate([np.tile(y, int(n)) for y, n in zip(p.targets, p.sizes, strict=True)])
    out = []
    for _ in range(rounds):
        w = w - lrate * 2 * x.T @ (x @ w - y) / len(x)
        out.append(w)
    return np.array(out)
