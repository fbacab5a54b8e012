"""A model checker for requests that run beside one another over one store.

Each call of the store is one step, and an `Exploration` tries the steps of several parties
(requests, or collections) in every order. It also stops a party for ever after any write, as a
crash does.

A party is a function of the results that its calls got: which calls it makes next follows from
those alone. So what a party does is learnt once for each sequence of results (`Party`, by running
it again), and the states of a whole exploration, which are the objects in the store and how far
each party is, are met once each, however many orders of steps lead there. No order is left out but
those that nobody could tell apart: a call is carried out at once where no other party can write
what it reads, or touch what it writes, any more (a persistent set; Godefroid, "Partial-Order
Methods for the Verification of Concurrent Systems", chapter 4). What a party can still touch is
learnt as well; where that turns out to be more, the other orders are tried too.

Time passes for a party that sleeps only when the last call that it made before would give another
result by now, or when nobody else can go on: whoever waits for another party looks again when there
is something to see, waits as long as it takes, and gives up only on one that was stopped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tests.tools.memory import Item, MemoryStore
from tests.tools.parties import FRESH, NOW, TOKEN, Act, Node, Party, Run
from tests.tools.steps import WRITES, Call, Keys, Touches

Objects = dict[str, Item]
_TOKEN: Final = TOKEN.encode()


class Outcome(NamedTuple):
    """How a party ended: what it returned, or None where it was stopped."""

    returned: object
    stopped: bool


class Broken(AssertionError):
    """An invariant does not hold. The text has the steps that lead there."""


class _Snapshot:
    """The objects in the store at one moment; each such state is made once."""

    __slots__ = ("after", "number", "objects")

    def __init__(self, number: int, objects: Objects) -> None:
        self.number = number
        self.objects = objects
        self.after: dict[Call, tuple[_Snapshot, Any]] = {}


class _Snapshots:
    def __init__(self) -> None:
        self._made: dict[object, _Snapshot] = {}

    def of(self, objects: Objects) -> _Snapshot:
        key = frozenset(objects.items())
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = _Snapshot(len(self._made), objects)
        return found

    def perform(self, snapshot: _Snapshot, call: Call) -> tuple[_Snapshot, Any]:
        """The objects after a call, and its result."""
        found = snapshot.after.get(call)
        if found is None:
            objects, result = perform(snapshot.objects, call)
            new = snapshot if objects is snapshot.objects else self.of(objects)
            found = snapshot.after[call] = new, result
        return found


class _State(NamedTuple):
    snapshot: _Snapshot
    nodes: tuple[Node, ...]
    stopped: int  # the party that was stopped, or -1

    def key(self) -> object:
        nodes = self.nodes
        if self.stopped < 0:
            return self.snapshot.number, *[node.number for node in nodes]
        numbers = [-1 if at == self.stopped else node.number for at, node in enumerate(nodes)]
        return -self.snapshot.number - 1, *numbers


class _Choice(NamedTuple):
    party: int
    place: int  # of the call among those pending; -1: the party is stopped

    def describe(self, state: _State, names: Sequence[str]) -> str:
        if self.place < 0:
            return f"{names[self.party]} stops for ever"
        calls = state.nodes[self.party].calls
        what = str(calls[self.place]) if self.place < len(calls) else "sleep"
        return f"{names[self.party]}: {what}"


class _Found(NamedTuple):
    """A state, and how it was met."""

    state: _State
    before: _Found | None
    choice: _Choice | None


Check = Callable[[Objects, dict[str, Outcome]], None]
"""Is given the objects and the outcomes of the parties where all have ended."""


class Exploration:
    """The parties `acts`, by name, over a store that holds `objects` at first.

    `may_stop`: the names of those that may be stopped for ever, one in each order of steps.
    `page`: keys that one step of a long list reads.
    """

    def __init__(
        self,
        objects: Mapping[str, Item],
        acts: Mapping[str, Act],
        *,
        may_stop: Sequence[str] = (),
        page: int = 1000,
    ) -> None:
        self.names = list(acts)
        self.states = 0
        self.ends = 0
        self._snapshots = _Snapshots()
        self._objects = dict(objects)
        self._keys = Keys()
        self._parties = [Party(name, act, page, self._keys) for name, act in acts.items()]
        self._may_stop = [name in may_stop for name in self.names]
        self._ends: set[object] = set()

    def run(self, check: Check, most: int = 2_000_000) -> None:
        """Call `check` for every end that any order of steps has.

        Raises `Broken` where it fails, and beyond `most` states, since then nothing is proved.
        """
        first = self._first()
        seen: set[object] = {first.key()}
        early: list[tuple[_Found, _Choice]] = []
        stack = [_Found(first, None, None)]
        try:
            while stack:
                while stack:
                    found = stack.pop()
                    choice = self._early(found.state)
                    if choice is not None:
                        early.append((found, choice))
                        choices = [choice, *self._stop(found.state, choice.party)]
                    else:
                        choices = self._choices(found.state)
                    if not choices:
                        self._end(found.state, check, lambda: self._path(found))  # noqa: B023
                    self._follow(found, choices, seen, stack, most)
                # Some of what was done early may turn out to be touched by others: then it could
                # have come later as well.
                again, early = early, []
                for found, choice in again:
                    if self._is_early(found.state, choice):
                        early.append((found, choice))
                    else:
                        self._follow(found, self._choices(found.state), seen, stack, most)
        finally:
            self.states = len(seen)
            self.close()

    def _follow(
        self,
        found: _Found,
        choices: Sequence[_Choice],
        seen: set[object],
        stack: list[_Found],
        most: int,
    ) -> None:
        for choice in choices:
            new = self._after(found.state, choice)
            size = len(seen)
            seen.add(new.key())
            if len(seen) > size:
                stack.append(_Found(new, found, choice))
        if len(seen) > most:
            raise Broken(f"more than {most} states")

    def _path(self, found: _Found) -> list[str]:
        steps: list[str] = []
        one: _Found | None = found
        while one is not None and one.before is not None and one.choice is not None:
            steps.append(one.choice.describe(one.before.state, self.names))
            one = one.before
        return steps[::-1]

    def wander(self, pick: Callable[[int], int], check: Check) -> None:
        """One order of steps, for what is too large to be explored. `pick`: one of so many."""
        end = self._walk(pick)
        self._end(end.state, check, lambda: self._path(end))

    def _walk(self, pick: Callable[[int], int]) -> _Found:
        found = _Found(self._first(), None, None)
        while choices := self._choices(found.state):
            choice = choices[pick(len(choices))]
            found = _Found(self._after(found.state, choice), found, choice)
        return found

    def close(self) -> None:
        """End the parties' tasks."""
        for party in self._parties:
            party.close()

    @property
    def sizes(self) -> dict[str, int]:
        """How many moments of each party were met."""
        return {party.name: party.size for party in self._parties}

    def _first(self) -> _State:
        nodes = tuple(party.start for party in self._parties)
        return _State(self._snapshots.of(self._objects), nodes, -1)

    def _end(self, state: _State, check: Check, path: Callable[[], list[str]]) -> None:
        outcomes = {
            name: Outcome(node.returned, not node.done)
            for name, node in zip(self.names, state.nodes, strict=True)
        }
        key = (state.snapshot.number, *outcomes.values())
        if key in self._ends:
            return
        self._ends.add(key)
        self.ends += 1
        objects = state.snapshot.objects
        try:
            check(dict(objects), outcomes)
        except AssertionError as error:
            steps = "\n  ".join(path())
            raise Broken(f"{error}\nafter:\n  {steps}\nleaves: {sorted(objects)}") from error

    def _choices(self, state: _State) -> list[_Choice]:
        """Every step that may come next."""
        found: list[_Choice] = []
        sleepers: list[int] = []
        for party, node in enumerate(state.nodes):
            if node.done or party == state.stopped:
                continue
            if node.sleeps:
                sleepers.append(party)
            found += [_Choice(party, place) for place in range(len(node.calls))]
        anybody = bool(found)
        found += [_Choice(one, 0) for one in sleepers if not anybody or self._sees_more(state, one)]
        for party in range(len(state.nodes)):
            found.extend(self._stop(state, party))
        return found

    def _early(self, state: _State) -> _Choice | None:
        """One step whose order with all that the others can still do is no difference, as far as is
        known; None where there is no such step."""
        for party, node in enumerate(state.nodes):
            if node.calls and party != state.stopped:
                others = self._others(state, party)
                for place, call in enumerate(node.calls):
                    if not self._keys.conflict(call, others):
                        return _Choice(party, place)
        return None

    def _is_early(self, state: _State, choice: _Choice) -> bool:
        call = state.nodes[choice.party].calls[choice.place]
        return not self._keys.conflict(call, self._others(state, choice.party))

    def _others(self, state: _State, party: int) -> Touches:
        """What all others can still touch."""
        read = written = listed = 0
        for number, node in enumerate(state.nodes):
            if number not in (party, state.stopped):
                touches = node.touches
                read |= touches.read
                written |= touches.written
                listed |= touches.listed
        return Touches(read, written, listed)

    def _sees_more(self, state: _State, party: int) -> bool:
        """Whether a party that sleeps would see anything new."""
        return any(
            self._snapshots.perform(state.snapshot, call)[1] != result
            for call, result in state.nodes[party].looks
        )

    def _stop(self, state: _State, party: int) -> list[_Choice]:
        """Only after its writes: to the others it is the same as after the reads that follow."""
        node = state.nodes[party]
        may = self._may_stop[party] and state.stopped < 0 and not node.done and node.wrote
        return [_Choice(party, -1)] if may else []

    def _fresh(self, state: _State) -> bytes:
        """A token that no party knows of and no object holds."""
        known = {number for node in state.nodes for number in node.held}
        stored = {item.data for item in state.snapshot.objects.values()}
        return next(
            token
            for number, token in enumerate(FRESH)
            if number not in known and token not in stored
        )

    def _after(self, state: _State, choice: _Choice) -> _State:
        party, place = choice
        if place < 0:
            return state._replace(stopped=party)
        node, snapshot = state.nodes[party], state.snapshot
        result = None
        if place < len(node.calls):
            call = node.calls[place]
            if call.name == "put" and call.arguments[1].startswith(_TOKEN):
                call = Call("put", (call.arguments[0], self._fresh(state)))
            snapshot, result = self._snapshots.perform(snapshot, call)
        new = self._parties[party].after(node, (place, result))
        nodes = (*state.nodes[:party], new, *state.nodes[party + 1 :])
        return _State(snapshot, nodes, state.stopped)


def perform(objects: Objects, call: Call) -> tuple[Objects, Any]:
    """Carry out one call: the objects after it, and its result."""
    store = MemoryStore(clock=lambda: NOW)
    store.objects = dict(objects) if call.name in WRITES else objects
    if call.name == "list":
        prefix, after, page = call.arguments
        return objects, tuple(store.listed(prefix, after)[:page])
    if call.name in ("list_folder", "list_multiparts"):
        return objects, tuple(at_once(_gather(getattr(store, call.name)(*call.arguments))))
    result = at_once(getattr(store, call.name)(*call.arguments))
    return store.objects, tuple(result) if call.name == "names" else result


async def _gather(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def alone(objects: Objects, act: Act) -> Any:
    """What `act` returns when nobody else is there; it changes `objects`."""
    run = Run("alone", act, 1000)
    try:
        while not run.task.done():
            result = None
            if run.store.pending:
                changed, result = perform(objects, run.store.pending[0][0])
                if changed is not objects:
                    objects.clear()
                    objects.update(changed)
            run.step((0, result))
        return run.task.result()
    finally:
        run.close()
