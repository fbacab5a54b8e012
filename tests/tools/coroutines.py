"""What tasks that wait are going to do: two that have the same description cannot be told apart by
anything but what they are given.

A coroutine that waits goes on by its place in its code, its variables and what it has half
evaluated, and by the objects that can be reached from there. `describe` gathers all of that as a
value that can be compared. Whatever it does not know makes the description unlike every other, so
that nothing is taken for equal by mistake.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import types
from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import Context
from typing import Any, Final
from weakref import WeakValueDictionary

_ATOMS: Final = (str, bytes, int, float, bool, type(None), type(...), type, types.CodeType)
_BY_NAME: Final = (types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType)
_ITERABLES: Final[list[Iterable[object]]] = [[], (), {}, {}.values(), {}.items(), set()]
_ITERATORS: Final = tuple(type(iter(one)) for one in _ITERABLES)
_AWAITED: Final = (
    "FutureIter",
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
)
"""What stands for something that is awaited, and refers to nothing else."""


class Moment(float):
    """A time on a clock of which only differences mean anything."""

    def __add__(self, seconds: float) -> Moment:
        return Moment(float(self) + seconds)

    __radd__ = __add__


class Describer:
    """`given`: objects that are the same for all that are compared, by a name. `now`: moments are
    described by how far away they are. `tokens`: those of these that were met are in `held`."""

    def __init__(
        self, given: Mapping[int, object], now: Moment, tokens: Mapping[object, int]
    ) -> None:
        self.held: set[int] = set()
        self._given = given
        self._now = now
        self._tokens = tokens
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []

    def describe(self, value: Any) -> object:
        """A value that can be hashed."""
        if isinstance(value, Moment):
            return Moment, round(value - self._now, 6)
        if isinstance(value, _ATOMS):
            if value in self._tokens:
                self.held.add(self._tokens[value])
            return type(value), value
        if isinstance(value, _BY_NAME):
            return repr(value)
        if id(value) in self._given:
            return self._given[id(value)]
        if (number := self._seen.get(id(value))) is not None:
            return "seen", number
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)  # so that no other object gets its id
        return type(value), self._parts(value)

    def _all(self, values: Iterable[Any]) -> tuple[object, ...]:
        return tuple(self.describe(value) for value in values)

    def _parts(self, value: Any) -> object:
        if isinstance(value, list | tuple | deque):
            return self._all(value)
        if isinstance(value, dict | WeakValueDictionary):
            return tuple((self.describe(key), self.describe(one)) for key, one in value.items())
        if isinstance(value, set | frozenset):
            return frozenset(map(self.describe, value))
        if isinstance(value, types.CoroutineType | types.AsyncGeneratorType | types.GeneratorType):
            return self._frame(value)
        if isinstance(value, types.FunctionType):
            return (
                value.__code__,
                self._all(value.__closure__ or ()),
                self._all(value.__defaults__ or ()),
            )
        if isinstance(value, types.CellType | types.MethodType | functools.partial):
            return self._all(gc.get_referents(value))
        if type(value).__name__ in _AWAITED:
            return self._all(gc.get_referents(value))
        if isinstance(value, Context):
            return "context"  # nothing here keeps anything in one
        if isinstance(value, _ITERATORS):
            return self._all(value.__reduce__()[1:])
        if isinstance(value, asyncio.Future):
            return self._future(value)
        if isinstance(value, BaseException):
            return self._all(value.args)
        if type(value).__module__.split(".")[0] in ("epoch", "tests", "asyncio", "contextlib"):
            return self._members(value)
        return object()  # unknown

    def _frame(self, value: Any) -> object:
        frame = next(
            getattr(value, name)
            for name in ("cr_frame", "ag_frame", "gi_frame")
            if hasattr(value, name)
        )
        if frame is None:
            return "ended"
        held = [one for one in gc.get_referents(value) if one is not frame]
        return value.__qualname__, frame.f_lasti, self._all(held)

    def _future(self, value: asyncio.Future[Any]) -> object:
        if not value.done():
            coroutine = value.get_coro() if isinstance(value, asyncio.Task) else None
            return "pending", self.describe(coroutine)
        if value.cancelled():
            return "cancelled"
        error = value.exception()
        return self.describe(error) if error is not None else self.describe(value.result())

    def _members(self, value: Any) -> object:
        found = dict(getattr(value, "__dict__", {}))
        for one in type(value).__mro__:
            for name in one.__dict__.get("__slots__", ()):
                if hasattr(value, name) and not name.startswith("__"):
                    found[name] = getattr(value, name)
        return tuple((name, self.describe(one)) for name, one in sorted(found.items()))
