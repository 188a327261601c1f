"""Notices at a glance that a torch model has changed, without reading it."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCALARS = frozenset({str, int, float, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple, set})
_QUIET = ("torch.", "transformers.")  # their inner modules are told by the configuration
_KNOWN = ("sentence_transformers.",)  # what they keep in private attributes changes as they are used
_OF_TORCH = frozenset({"_parameters", "_buffers", "_modules"})  # looked at in their own ways
_version, _address = attrgetter("_version"), methodcaller("data_ptr")


class Watch:
    """A model's modules and tensors, as they were when it was looked at last.

    An optimizer raises the tensors' versions, `half()` exchanges what they point to, a swapped module
    does neither, and `.data.copy_()` shows in the numbers only, of which one a tensor is looked at.
    """

    __slots__ = (
        *("_attributes", "_children", "_epoch", "_floats", "_hooks", "_ids"),
        *("_modules", "_numbers", "_parts", "_speaking", "_tensors"),
    )

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._epoch = 0  # counts the changes of modules and tensors themselves
        self._children: list[dict[str, Any]] = []
        self._modules: list[list[Any]] = [[None]]
        self._parts: list[dict[str, Any]] = []
        self._tensors: list[Any] = []  # held, so that no other takes their places in memory
        self._ids: list[int] = []
        self._numbers: list[Any] = []
        self._speaking: list[tuple[dict[str, Any], bool]] = []
        self._attributes: list[dict[str, Any]] = []
        self._floats: list[tuple[dict[str, Any], str]] = []  # of the quiet modules: a norm's eps
        self._hooks: list[dict[int, Any]] = []

    def weights(self, model: Any) -> tuple[object, ...]:  # noqa: ANN401 - a torch module
        """Return what is equal as long as no module and no tensor of the model has changed."""
        if [list(children.values()) for children in self._children] != self._modules:
            self._look(model)
        tensors = [tensor for part in self._parts for tensor in part.values() if tensor is not None]
        if [*map(id, tensors)] != self._ids:
            self._look(model)
            tensors = self._tensors
        try:
            versions: object = sum(map(_version, tensors))
        except RuntimeError:  # tensors made in inference mode keep none, and do not change
            versions = None
        addresses = hash((*map(_address, tensors),))
        return self._epoch, versions, addresses, hash((*(number.item(0) for number in self._numbers),))

    def settings(self) -> list[Any]:
        """Return the plain attributes of the modules that have some of their own, and what was hung on."""
        return [
            *(plain(attributes, private=private) for attributes, private in self._speaking),
            [attributes.get(name) for attributes, name in self._floats],
            sum(map(len, self._attributes)),  # a replaced method is one more
            sum(map(len, filter(None, self._hooks))),
        ]

    def _look(self, model: Any) -> None:  # noqa: ANN401 - a torch module
        inner = [module for module in model.modules() if module is not model]
        # The dictionaries, not the modules: a watch must not keep its model alive.
        self._children = [module._modules for module in (model, *inner) if module._modules]  # noqa: SLF001
        self._modules = [list(children.values()) for children in self._children]
        kept = [part for module in (model, *inner) for part in (module._parameters, module._buffers)]  # noqa: SLF001
        self._parts = [part for part in kept if part]
        self._tensors = [tensor for part in self._parts for tensor in part.values() if tensor is not None]
        self._ids = [*map(id, self._tensors)]
        self._numbers = [number for tensor in self._tensors for number in _numbers(tensor)]
        self._speaking = [
            (vars(module), not type(module).__module__.startswith(_KNOWN))
            for module in inner
            if not type(module).__module__.startswith(_QUIET)
        ]
        self._attributes = [vars(module) for module in inner]
        self._floats = [
            (attributes, name)
            for attributes in self._attributes
            for name, value in attributes.items()
            if type(value) is float and name != "p"  # of a dropout
        ]
        hooks = ("_forward_hooks", "_forward_pre_hooks")
        self._hooks = [getattr(module, name) for module in (model, *inner) for name in hooks]
        self._epoch += 1


def state_of(module: object) -> object:
    """Return what is equal as long as a torch module, tensor or dtype has not changed."""
    if not hasattr(module, "named_modules"):
        return id(module), getattr(module, "_version", None)
    watch = _watches.setdefault(module, Watch())
    return watch.weights(module), watch.settings()


_watches: WeakKeyDictionary[object, Watch] = WeakKeyDictionary()


def plain(attributes: dict[str, Any], *, private: bool = False) -> list[tuple[str, object]]:
    """Return an object's plain attributes, containers as they are written."""
    return [
        (name, value if type(value) in _SCALARS else repr(value))
        for name, value in attributes.items()
        if (type(value) in _SCALARS or type(value) in _CONTAINERS)
        and (name[0] != "_" or (private and name not in _OF_TORCH))
        and name != "training"
    ]


def _numbers(tensor: Any) -> Sequence[Any]:  # noqa: ANN401 - a torch tensor
    """View a tensor's numbers as numpy sees them, where it can: on a CPU, of a type that it has."""
    with suppress(Exception):  # whatever torch says of tensors that are elsewhere, sparse or quantised
        return [tensor.detach().numpy()] if tensor.numel() else []
    return []
