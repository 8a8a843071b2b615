"""Modules that scale each gradient by its own history.

In this file g are the gradients a module is given, and t = 1, 2, ... counts steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import torch
from annotated_types import Interval
from torch import Tensor

from simfl.component import Fraction, Positive
from simfl.optimizer.momentum import moving_average, yogi_average
from simfl.optimizer.plugin import Context, OptiModule, State
from simfl.vector import Vector

Decay: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
"""At 1 the bias correction 1 - beta^t would be zero."""


@dataclass(frozen=True)
class Adagrad(OptiModule):
    """Divide by the root of the sum of all squared gradients.

    Init: s = 0. Step: s = s + g²; out g / (√s + eps).

    Source: Duchi et al., 2011, https://jmlr.org/papers/v12/duchi11a.html
    """

    name: ClassVar[str] = "adagrad"
    takes_read_only: ClassVar[bool] = True

    eps: Positive = 1e-7
    """Added to the root, so that nothing is divided by zero."""

    def init(self, like: Vector) -> State:
        """Return a sum of zero."""
        return {"sum": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the scaled gradients and the new sum."""
        total = (gradients * gradients).add_(state["sum"])
        return gradients / _plus(total.sqrt(), self.eps), {"sum": total}


@dataclass(frozen=True)
class RmsProp(OptiModule):
    """Divide by the root of the moving average of squared gradients.

    Init: s = 0. Step: s = beta s + (1 - beta) g²; out g / (√s + eps).

    Source: Tieleman and Hinton, 2012, lecture 6.5,
    https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
    """

    name: ClassVar[str] = "rmsprop"
    takes_read_only: ClassVar[bool] = True

    beta: Fraction = 0.9
    """The weight of the previous average."""
    eps: Positive = 1e-7
    """Added to the root, so that nothing is divided by zero."""

    def init(self, like: Vector) -> State:
        """Return an average of zero."""
        return {"average": like.zeros_like()}

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the scaled gradients and the new average."""
        average = _average_square(
            state["average"], gradients, self.beta, in_place=context.owns_state
        )
        return gradients / _plus(average.sqrt(), self.eps), {"average": average}


@dataclass(frozen=True)
class _Moments(OptiModule):
    """What Adam and Yogi have in common: all but how the second moment follows the gradients."""

    beta_1: Decay = 0.9
    """The weight of the previous first moment."""
    beta_2: Decay = 0.99
    """The weight of the previous second moment."""
    amsgrad: bool = False
    """Divide by the largest second moment so far."""
    eps: Positive = 1e-7
    """Added to the root, so that nothing is divided by zero."""
    bias_correction: bool = True
    """false: the moments are taken as they are, and v starts at eps², as in FedOpt."""

    def init(self, like: Vector) -> State:
        """Return the moments before the first step, and beta^t for t = 0."""
        # beta^t is carried along as a product: unlike pow() it has the same bits in a stack.
        one = torch.ones((), dtype=torch.float64, device=like.tensors[0].device)
        state: State = {"power_1": one, "power_2": one.clone()} if self.bias_correction else {}
        second = like.zeros_like() if self.bias_correction else like.zeros_like() + self.eps**2
        state |= {"first": like.zeros_like(), "second": second}
        return state | {"largest": like.zeros_like()} if self.amsgrad else state

    def update(self, gradients: Vector, state: State, context: Context) -> tuple[Vector, State]:
        """Return the first moment divided by the root of the second, and keep both."""
        in_place, corrects = context.owns_state, self.bias_correction
        new: State = {}
        if corrects:
            new["power_1"] = state["power_1"] * self.beta_1
            new["power_2"] = state["power_2"] * self.beta_2
        first = new["first"] = moving_average(
            state["first"], gradients, self.beta_1, in_place=in_place
        )
        second = new["second"] = self._second_moment(state["second"], gradients, in_place=in_place)
        scale = _unbiased(second, new["power_2"]) if corrects else second
        if self.amsgrad:
            scale = new["largest"] = scale.maximum(state["largest"])
        is_kept = self.amsgrad or not corrects
        root = _plus(scale.sqrt() if is_kept else scale.sqrt_(), self.eps)
        return _unbiased(first, new["power_1"]).div_(root) if corrects else first / root, new

    def _second_moment(self, second: Vector, gradients: Vector, *, in_place: bool) -> Vector:
        """Return the second moment after a step, perhaps in the memory of the previous one."""
        raise NotImplementedError(f"{type(self).__name__} has no _second_moment()")


@dataclass(frozen=True)
class Adam(_Moments):
    """Adam: momentum divided by the root of the average square, both corrected for their start.

    Init: m = v = 0. Step: m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g²;
    m̂ = m / (1 - beta_1^t); v̂ = v / (1 - beta_2^t); out m̂ / (√v̂ + eps). With ``amsgrad``
    v̂ is the largest so far. Without ``bias_correction``, m̂ = m, v̂ = v and v starts at eps²: on
    the server, this is FedAdam, with eps as its tau.

    Source: Kingma and Ba, 2015, Algorithm 1, https://arxiv.org/abs/1412.6980; amsgrad: Reddi et
    al., 2018, Algorithm 2, https://arxiv.org/abs/1904.09237, here with bias correction; FedAdam:
    Reddi et al., 2021, Algorithm 2, https://arxiv.org/abs/2003.00295.
    """

    name: ClassVar[str] = "adam"
    takes_read_only: ClassVar[bool] = True

    def _second_moment(self, second: Vector, gradients: Vector, *, in_place: bool) -> Vector:
        return _average_square(second, gradients, self.beta_2, in_place=in_place)


@dataclass(frozen=True)
class Yogi(_Moments):
    """Adam whose second moment changes by as much as g², however large it is itself.

    As ``Adam``, with v = v - sign(v - g²) (1 - beta_2) g². Without ``bias_correction`` this is
    FedYogi on the server.

    Source: Zaheer et al., 2018, Algorithm 2,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization; FedYogi: Reddi et
    al., 2021, Algorithm 2, https://arxiv.org/abs/2003.00295.
    """

    name: ClassVar[str] = "yogi"
    takes_read_only: ClassVar[bool] = True

    beta_2: Decay = 0.99
    """One minus how fast the second moment follows the squared gradients."""

    def _second_moment(self, second: Vector, gradients: Vector, *, in_place: bool) -> Vector:
        return yogi_average(second, gradients * gradients, self.beta_2)


def _average_square(average: Vector, value: Vector, beta: float, *, in_place: bool) -> Vector:
    """Return beta average + (1 - beta) value², in the memory of the average or in its own."""
    previous = average.mul_(beta) if in_place else average * beta
    return previous.add_((value * value).mul_(1.0 - beta))


def _plus(root: Vector, eps: float) -> Vector:
    """Add eps, in place: it is ours, and fresh memory is what costs."""
    torch._foreach_add_(root.tensors, eps)
    return root


def _unbiased(moment: Vector, power: Tensor) -> Vector:
    return moment / (1.0 - power)
