"""How long work reports its progress."""

from collections.abc import Callable

Progress = Callable[[str, int], None]
"""Called now and then: what is being done, and how many objects were looked at so far."""


def silent(_stage: str, _count: int) -> None:
    """For nobody who waits for it."""
