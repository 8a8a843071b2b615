"""The same computation of a convolutional network, in an order and a layout that take less time.

On a CPU, torch pools images [B, C, H, W], and convolves each channel by itself, several times as
fast if their channels are last in memory. So networks that do are computed with channels last. Max
pooling comes before ReLU, not after: the same numbers, of which ReLU takes a fraction, in place.
The module itself is left alone: ``torch.fx`` records how it calls its layers, and a graph calls
them in another way.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.dropout import _DropoutNd

from simfl.models.dropout import Dropout
from simfl.models.held_state import HeldState
from simfl.models.layers import alteration, has_hook
from simfl.models.model import Inputs
from simfl.models.recorded import CannotRecordError, Form, agree, calls_of, require_alike, twin_of
from simfl.seeding import global_generators
from simfl.vector import tensors_of

_MOST_WEIGHTS: Final = 2_500_000
"""Of all convolutions together. They are turned over in each step, which with a batch of 10 takes
what is gained from 1.5 to 2.3 million on, and a fifth more with 11 million: measured on one CPU
thread, as were the conditions in ``_rewrite``."""

_LARGE: Final = 28 * 28
"""Pixels of an image, height times width. Residual networks whose last layer pools averages take
0.84 to 0.96 times as long from here on, and as long as before with 16x16 pixels."""

_OF_LAYOUT: Final = frozenset(
    {"as_strided", "data_ptr", "is_contiguous", "numpy", "resize_", "set_", "storage", "stride"}
)
"""Methods whose result depends on where numbers are in memory."""

_OF_VIEWS: Final = {"view": "reshape", "view_as": "reshape_as"}
"""Methods for one layout, and those for any."""

_DRAWING: Final = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)


def faster_form(module: nn.Module, inputs: Inputs) -> Form:
    """Return what computes the same as a module in its current mode in less time, or the module.

    Outputs, gradients and changes of buffers are the module's up to rounding. It is the module
    itself unless all it does is understood and there is something to gain. This depends on the
    module, and on the shapes, the type and the device of the inputs, but not on their values.

    Args:
        module: a copy of it is called with random inputs, to compare.
        inputs: like those that it will be called with.
    """
    if not _may_gain(module, inputs):
        return module
    try:
        with torch.enable_grad(), _generators_restored():
            graph = _record(module)
            require_alike(module, graph, inputs, may_draw=lambda node: _DROPOUT.has(node, module))
            if not _rewrite(graph, module, inputs) or not agree(module, graph, inputs):
                return module
            return _Rewritten(module, graph)
    except Exception:  # of code that is not ours, and that works without this
        return module


class Forms:
    """The forms of a module, each found when the module is first called in that mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._found: dict[bool, Form] = {}

    def find(self, inputs: Inputs, *, mode: bool) -> Form:
        """Return ``faster_form`` of the present mode, which has this key."""
        if mode not in self._found:
            self._found[mode] = faster_form(self._module, inputs)
        return self._found[mode]

    def take(self, other: Forms) -> None:
        """Take over those of a module that was built in the same way."""
        for mode in other._found.keys() - self._found.keys():
            form, own = other._found[mode], self._module
            self._found[mode] = form.of(own) if isinstance(form, _Rewritten) else own


class _Rewritten:
    """Calls a module's layers by a graph, as long as the module is as it was recorded.

    Args:
        module: whose layers are called.
        graph: of its calls, rewritten.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self._module = module
        self._graph = graph
        self._forward: Form = fx.GraphModule(module, graph).forward
        self._layers = list(module.modules())
        self._recorded = list(_read_while_recording(module))

    def of(self, module: nn.Module) -> _Rewritten:
        """Return the same of a module that was built in the same way, whatever its mode is now."""
        other = _Rewritten(module, self._graph)
        other._recorded = [
            (values, key, mine if key == "training" else value)
            for (_, _, mine), (values, key, value) in zip(
                self._recorded, other._recorded, strict=True
            )
        ]
        return other

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        is_as_recorded = all(values.get(key) is value for values, key, value in self._recorded)
        if is_as_recorded and not any(map(has_hook, self._layers)):
            # What goes wrong is raised by the module, in the line that is at fault.
            with suppress(Exception):
                return self._forward(*arguments, **keywords)
        return self._module(*arguments, **keywords)


def _read_while_recording(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Iterate over (place, key, value) of what layers that are not called by the graph hold."""
    tracer = _Tracer()
    for name, layer in module.named_modules():
        if not tracer.is_leaf_module(layer, name):
            for place in (vars(layer), layer._modules, layer._parameters, layer._buffers):
                yield from ((place, key, value) for key, value in place.items())


def _may_gain(module: nn.Module, inputs: Inputs) -> bool:
    """Return whether a closer look may be worth it."""
    tensors = list(tensors_of(inputs))
    if any(one.dtype is not torch.float32 or one.device.type != "cpu" for one in tensors):
        return False
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    # Not `layer.weight`: a parametrization computes it, and may change its own buffers then.
    weights = (one for layer in layers for one in layer.parameters())
    return bool(layers) and sum(one.numel() for one in weights) <= _MOST_WEIGHTS


# -- recording -----------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Records the calls of layers and of functions of tensors."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self._modes = _modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Dropout) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *arguments: Any, **keywords: Any) -> fx.Node:
        if _modes() != self._modes:
            raise CannotRecordError("a graph would compute gradients, or in another precision")
        return super().create_node(*arguments, **keywords)


def _modes() -> tuple[bool, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


def _record(module: nn.Module) -> fx.Graph:
    """Return the graph of what a module calls, in its current mode.

    Raises:
        CannotRecordError: if it draws numbers, or changes anything of its own.
        Exception: if it cannot be traced.
    """
    if not all(map(_is_plain, module.modules())):
        raise CannotRecordError
    twin = twin_of(module)
    held = HeldState(twin, twin.state_dict(keep_vars=True))
    layers = list(twin.modules())
    before = [dict(vars(layer)) for layer in layers]
    drawn = _generators()
    graph = _Tracer().trace(twin)
    with torch.no_grad():  # as when it is evaluated
        without_gradients = _Tracer().trace(twin)
    is_same = all(
        then.keys() == vars(layer).keys() and all(vars(layer)[key] is then[key] for key in then)
        for then, layer in zip(before, layers, strict=True)
    )
    known = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    is_same = is_same and calls_of(graph) == calls_of(without_gradients)
    if not is_same or held.changed() or _generators() != drawn:
        raise CannotRecordError
    if not all(_is_recorded(node, known) for node in graph.nodes):
        raise CannotRecordError
    return graph


def _is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is called by its ``forward``, without hooks or a generator."""
    if has_hook(layer) or type(layer).__call__ is not nn.Module.__call__:
        return False
    return not any(isinstance(value, _DRAWING) for value in vars(layer).values())


def _is_recorded(node: fx.Node, known: set[str]) -> bool:
    """Return whether a node computes the same whatever the layout, from tensors of the module."""
    if node.op == "get_attr":
        return node.target in known  # and not a tensor that was computed while it was traced
    if node.op == "call_method":
        return node.target not in _OF_LAYOUT and not any(
            isinstance(value, torch.dtype) for value in node.args
        )
    if node.op == "call_function":
        reads_memory = node.target is getattr and node.args[1] in ("data", "grad")
        return node.target is not torch.as_strided and not reads_memory
    return True


@contextmanager
def _generators_restored() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with global_generators():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _generators() -> tuple[Any, ...]:
    of_numpy = [np.asarray(part).tolist() for part in np.random.get_state()]
    return torch.get_rng_state().tolist(), random.getstate(), of_numpy


# -- rewriting -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """A kind of call, whether of a layer, a function or a method."""

    layers: tuple[type[nn.Module], ...]
    functions: tuple[Callable[..., Any], ...]
    methods: tuple[str, ...] = ()

    def has(self, node: Any, module: nn.Module, *, exactly: bool = False) -> bool:
        """Return whether a node is one; ``exactly``: not of a subclass, and not modified."""
        if not isinstance(node, fx.Node) or not node.args:
            return False
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            if exactly:
                return type(layer) in self.layers and not alteration(layer)
            return isinstance(layer, self.layers)
        if node.op == "call_method":
            return node.target in self.methods
        return node.op == "call_function" and node.target in self.functions


_CONVOLUTION: Final = _Kind((nn.Conv2d,), (F.conv2d, torch.conv2d))
_MAX_POOL: Final = _Kind((nn.MaxPool2d,), (F.max_pool2d, torch.max_pool2d))
_POOL: Final = _Kind((nn.MaxPool2d, nn.AvgPool2d), (*_MAX_POOL.functions, F.avg_pool2d))
_AVERAGE: Final = _Kind((nn.AdaptiveAvgPool2d,), (F.adaptive_avg_pool2d,))
_RELU: Final = _Kind((nn.ReLU,), (F.relu, torch.relu, torch.relu_), ("relu", "relu_"))
_DROPOUT: Final = _Kind((_DropoutNd, Dropout), (F.dropout, F.dropout2d, torch.dropout))
_NORM: Final = _Kind((nn.GroupNorm, nn.BatchNorm2d), (F.group_norm, F.batch_norm))
_SUM: Final = _Kind((), (operator.add,))
_NOT_SAVED: Final = (_CONVOLUTION, _POOL, _NORM, _SUM)


def _rewrite(graph: fx.Graph, module: nn.Module, inputs: Inputs) -> bool:
    """Rewrite a graph in place; return whether that gains anything.

    Pooling does, and so do convolutions of each channel by itself. Others take as long, and
    what is between them may take longer, unless images are large and averaged at the end.
    """
    nodes = list(graph.nodes)
    are_large = all(math.prod(one.shape[2:]) >= _LARGE for one in tensors_of(inputs))
    pools = (_POOL, _AVERAGE) if are_large else (_POOL,)
    convolved = [index for index, node in enumerate(nodes) if _CONVOLUTION.has(node, module)]
    pooled = [n for n, node in enumerate(nodes) if any(pool.has(node, module) for pool in pools)]
    by_channel = any(_is_by_channel(layer) for layer in module.modules())
    if not convolved or not (by_channel or max(pooled, default=-1) > convolved[0]):
        return False
    for index in pooled:
        _pool_first(nodes[index], module)
    for node in nodes:
        _rewrite_call(node, module)
    graph.lint()
    return True


def _is_by_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _pool_first(pool: fx.Node, module: nn.Module) -> None:
    """Move max pooling before ReLU, of which nothing else is computed.

    Neither changes which is the largest number of a window that is positive, nor where it is. In
    other windows both give 0, and no gradient.
    """
    relu = pool.args[0]
    if not isinstance(relu, fx.Node) or not _RELU.has(relu, module, exactly=True):
        return
    source = relu.args[0]
    if not isinstance(source, fx.Node) or not _MAX_POOL.has(pool, module, exactly=True):
        return
    is_in_place = _option(relu, module, "inplace") or relu.target in ("relu_", torch.relu_)
    has_others = len(relu.users) > 1 or (is_in_place and len(source.users) > 1)
    if has_others or _option(pool, module, "return_indices"):
        return
    pool.replace_input_with(relu, source)
    pool.replace_all_uses_with(relu)
    relu.replace_input_with(source, pool)
    pool.append(relu)


def _rewrite_call(node: fx.Node, module: nn.Module) -> None:
    """Rewrite a call by itself, once pooling has its place."""
    if _CONVOLUTION.has(node, module):
        _insert(node, lambda source: node.graph.call_function(with_channels_last, (source,)))
    elif _DROPOUT.has(node, module):
        # torch draws which numbers to drop in the order of their places in memory.
        _insert(node, lambda source: node.graph.call_method("contiguous", (source,)))
    elif _RELU.has(node, module, exactly=True):
        source = node.args[0]
        # None of them needs what it returns for its gradients.
        is_free = any(kind.has(source, module) for kind in _NOT_SAVED)
        if is_free and isinstance(source, fx.Node) and len(source.users) == 1:
            node.op, node.target = "call_function", torch.relu_
            node.args, node.kwargs = (source,), {}
    elif node.op == "call_method" and node.target in _OF_VIEWS:
        node.target = _OF_VIEWS[str(node.target)]
    elif node.op == "output":  # losses and metrics of others may look at it as a vector
        with node.graph.inserting_before(node):
            node.args = fx.node.map_arg(
                node.args, lambda one: node.graph.call_function(with_channels_first, (one,))
            )


def _insert(node: fx.Node, make: Callable[[Any], fx.Node]) -> None:
    """Insert a call between a node and its first argument."""
    with node.graph.inserting_before(node):
        node.args = (make(node.args[0]), *node.args[1:])


def _option(node: fx.Node, module: nn.Module, name: str) -> bool:
    """Return whether an option of a layer or function is set."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), name))
    return bool(node.kwargs.get(name))


def with_channels_last(images: Tensor) -> Tensor:
    """Return images [B, C, H, W] with their channels last in memory."""
    if images.dim() != 4 or images.stride(1) == 1:
        return images
    if images.shape[1] == 1:  # so that torch sees strides of channels last, too
        return images[:, 0].contiguous().unsqueeze(-1).movedim(-1, 1)
    return images.movedim(1, -1).contiguous().movedim(-1, 1)


def with_channels_first(output: Any) -> Any:
    """Return an output laid out as the module would, which is in order."""
    return output.contiguous() if isinstance(output, Tensor) else output
