"""From the numbers that are kept to those that a model is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simfl.errors import ConfigError


@dataclass(frozen=True)
class Scaling:
    """How inputs become float32 when a batch is read: (x / divide_by - mean) / std.

    Until then they stay what they are: images of bytes take a quarter of what floats would, on the
    driver, in the object store and on a GPU. Each operation rounds to float32, in this order, as
    numpy and torch do.
    """

    divide_by: float = 1.0
    mean: tuple[float, ...] = ()
    """One for each channel, the first axis of an input, or one for all; (): none is taken off."""
    std: tuple[float, ...] = ()
    """Likewise; (): nothing is divided once more."""


def join_scalings(own: Scaling | None, asked: Scaling | None) -> Scaling | None:
    """Return what a source says of its inputs together with what the scenario asks for.

    Raises:
        ConfigError: if both divide, or both normalise.
    """
    if own is None or asked is None:
        return own or asked
    if asked.divide_by != 1 and own.divide_by != 1:
        raise ConfigError(
            f"data.divide_by is {asked.divide_by:g}, but the source's inputs are divided by "
            f"{own.divide_by:g} already; leave it out"
        )
    if asked.mean and own.mean:
        raise ConfigError(
            "data.normalize is given, but the source normalises already; leave it out"
        )
    return Scaling(
        divide_by=own.divide_by * asked.divide_by,
        mean=own.mean or asked.mean,
        std=own.std or asked.std,
    )


def check_scaling(scaling: Scaling, axes: Sequence[tuple[int, ...]]) -> None:
    """See that there is a mean and a deviation for each channel, or one for all.

    Args:
        scaling: of the inputs.
        axes: each input's, without the example's.

    Raises:
        ConfigError: if there are others, or several inputs.
    """
    given = {"mean": scaling.mean, "std": scaling.std}
    if len(axes) > 1 and any(given.values()):
        raise ConfigError(
            f"data.normalize goes with one input, and there are {len(axes)}; normalise them in "
            "the source"
        )
    channels = axes[0][0] if axes[0] else 1
    for name, numbers in given.items():
        if len(numbers) not in (0, 1, channels):
            raise ConfigError(
                f"data.normalize.{name} has {len(numbers)} numbers, but inputs of shape "
                f"{list(axes[0])} have {channels} channels; give one for each, or one for all"
            )
