"""The calls of a store that an exploration puts in order, and the keys that they touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

WRITES: Final = frozenset({"put", "delete", "put_new", "move"})
LISTS: Final = frozenset({"list", "list_folder", "names"})


class Call(NamedTuple):
    """A step that a party wants to do."""

    name: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        shown = [
            f"{len(one)} bytes" if isinstance(one, bytes) else str(one) for one in self.arguments
        ]
        return f"{self.name}({', '.join(shown)})"


class Touches(NamedTuple):
    """Keys that are read, keys that are written, prefixes that are listed: as bits of `Keys`."""

    read: int
    written: int
    listed: int

    def joined(self, other: Touches) -> Touches:
        return Touches(
            self.read | other.read, self.written | other.written, self.listed | other.listed
        )


class Keys:
    """Keys and prefixes by number."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._prefixes: dict[str, int] = {}
        self._over: list[int] = []  # for each key: the prefixes that it has
        self._under: list[int] = []  # for each prefix: the keys that have it
        self._calls: dict[Call, Touches] = {}

    def touches(self, calls: Sequence[Call]) -> Touches:
        """What these calls touch."""
        found = Touches(0, 0, 0)
        for call in calls:
            found = found.joined(self._of(call))
        return found

    def conflict(self, call: Call, others: Touches) -> bool:
        """Whether the order of a call and of what others may do makes a difference."""
        read, written, listed = self._of(call)
        if written & (others.read | others.written) or read & others.written:
            return True
        if listed:
            return bool(self._under[listed.bit_length() - 1] & others.written)
        while written:
            number = written.bit_length() - 1
            if self._over[number] & others.listed:
                return True
            written ^= 1 << number
        return False

    def _of(self, call: Call) -> Touches:
        found = self._calls.get(call)
        if found is None:
            found = self._calls[call] = self._make(call)
        return found

    def _make(self, call: Call) -> Touches:
        if call.name in LISTS:
            return Touches(0, 0, 1 << self._prefix(call.arguments[0]))
        if call.name not in WRITES:
            return Touches(1 << self._key(call.arguments[0]), 0, 0)
        written = 0
        for key in call.arguments[: 2 if call.name == "move" else 1]:
            written |= 1 << self._key(key)
        return Touches(0, written, 0)

    def _key(self, key: str) -> int:
        number = self._keys.get(key)
        if number is None:
            number = self._keys[key] = len(self._keys)
            self._over.append(0)
            for prefix, other in self._prefixes.items():
                self._note(key, number, prefix, other)
        return number

    def _prefix(self, prefix: str) -> int:
        number = self._prefixes.get(prefix)
        if number is None:
            number = self._prefixes[prefix] = len(self._prefixes)
            self._under.append(0)
            for key, other in self._keys.items():
                self._note(key, other, prefix, number)
        return number

    def _note(self, key: str, key_number: int, prefix: str, prefix_number: int) -> None:
        if key.startswith(prefix):
            self._over[key_number] |= 1 << prefix_number
            self._under[prefix_number] |= 1 << key_number
