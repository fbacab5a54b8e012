"""What may follow what in a connection."""

from __future__ import annotations

import itertools

import pytest

from epoch.http.phase import FOLLOWS, IllegalPhase, Phase, follow

PAIRS = list(itertools.product(Phase, Phase))


@pytest.mark.parametrize(
    ("before", "after"), [pair for pair in PAIRS if pair[1] in FOLLOWS[pair[0]]]
)
def test_what_may_follow(before: Phase, after: Phase) -> None:
    assert follow(before, after) is after


@pytest.mark.parametrize(
    ("before", "after"), [pair for pair in PAIRS if pair[1] not in FOLLOWS[pair[0]]]
)
def test_what_may_not_follow(before: Phase, after: Phase) -> None:
    with pytest.raises(IllegalPhase, match=f"{before.name} is not followed by {after.name}"):
        follow(before, after)


def test_every_phase_is_reached_and_ends() -> None:
    reached, pending = set[Phase](), [Phase.HEAD]
    while pending:
        one = pending.pop()
        if one not in reached:
            reached.add(one)
            pending += FOLLOWS[one]
    assert reached == set(Phase)
    assert FOLLOWS[Phase.CLOSED] == frozenset()
    assert all(Phase.CLOSED in FOLLOWS[one] for one in Phase if one is not Phase.CLOSED)
