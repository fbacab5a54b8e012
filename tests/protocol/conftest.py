"""Clocks that tick fast, so that deadlines can be waited for."""

from __future__ import annotations

import pytest

from epoch.http import body, connection, listener


@pytest.fixture(autouse=True)
def _quick_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(connection, "DRAIN_SECONDS", 0.5)
    monkeypatch.setattr(body, "RATE_SPAN", 0.2)
