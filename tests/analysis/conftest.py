"""A stand-in for wandb's server, which answers its GraphQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_wandb import FakeWandb

from analysis import wandb_source
from scaling import wandb_session


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    wandb_session.abandon()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_source, "_TIMEOUT_SECONDS", 3)
    with FakeWandb() as fake:
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        yield fake
        wandb_session.abandon()
