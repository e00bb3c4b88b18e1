"""What a command asks of an S3 service, counted at the client library, and what may go wrong there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zodb_vault.stores.s3api import Api


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the requests by operation while the context lasts."""
    counts: Counter[str] = Counter()
    real = Api._new_client

    def client(api: Api) -> Any:
        made = real(api)
        made.meta.events.register("before-send.s3.*", lambda event_name, **_: counts.update([event_name.rpartition(".")[2]]))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Api, "_new_client", client)
        yield counts
