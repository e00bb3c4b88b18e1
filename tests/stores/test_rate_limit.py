"""The rate limit: by a clock of the test, with many threads, and in a run that has to end."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore

from zodb_vault.errors import StoreError
from zodb_vault.runtime import shutdown
from zodb_vault.stores.base import LeavesTemporaries
from zodb_vault.stores.local import LocalStore
from zodb_vault.stores.rate_limit import BURST_SECONDS, RateLimit, RateLimited, TokenBucket, rate_limited
from zodb_vault.stores.retry import ATTEMPTS_AT_END, RetryPolicy, TransientError

RATE = 1_000_000


class Clock:
    """A clock that moves only during a sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has to end."""
    event = threading.Event()
    event.set()
    monkeypatch.setattr(shutdown, "REQUESTED", event)


@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.floats(0, 3)), min_size=1, max_size=50))
def test_never_more_passes_than_the_rate_allows_and_no_wait_is_longer_than_that(
    takes: list[tuple[int, float]],
) -> None:
    bucket, now, passed, begun = TokenBucket(RATE, 0.0), 0.0, 0, 0.0
    for count, idle in takes:
        now += idle
        wait = bucket.take(count, now)
        passed += count
        now += wait
        assert passed <= RATE * (now - begun + BURST_SECONDS) + 1
        # After a wait the rate is just used up: no token was lost, except by a pause before it.
        assert wait <= count / RATE + 1e-6


def test_a_stream_takes_as_long_as_its_bytes_need() -> None:
    clock = Clock()
    limit = RateLimit(RATE, clock, clock.sleep)
    sent = b"".join(limit.throttled([bytes(700_000), b"", bytes(9_300_000)]))
    assert len(sent) == 10_000_000
    assert clock.now - 100 == pytest.approx(10.0, abs=BURST_SECONDS + 0.05)


def test_a_clock_that_goes_backwards_gives_nothing_away() -> None:
    bucket = TokenBucket(RATE, 50.0)
    assert bucket.take(RATE, 10.0) == pytest.approx(1.0)
    assert bucket.take(RATE, 50.0) == pytest.approx(2.0)


def test_threads_share_one_rate() -> None:
    waits, lock = list[float](), threading.Lock()

    def note(seconds: float) -> None:
        with lock:
            waits.append(seconds)

    limit = RateLimit(RATE, lambda: 0.0, note)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _number: limit.take(50_000), range(100)))
    assert max(waits) == pytest.approx(5.0)
    assert len(set(waits)) == 100


def test_a_body_is_sent_in_pieces_and_again_from_its_beginning() -> None:
    clock = Clock()
    body = RateLimited(io.BytesIO(bytes(500_000)), RateLimit(RATE, clock, clock.sleep))
    first = body.read(400_000)
    assert len(first) == RATE * BURST_SECONDS
    body.seek(0)
    total = 0
    while data := body.read():
        total += len(data)
    assert total == 500_000
    assert clock.now - 100 == pytest.approx(0.6, abs=0.05)


def test_a_rate_limited_store_leaves_what_its_store_leaves(tmp_path: object) -> None:
    limit = RateLimit(RATE)
    assert isinstance(rate_limited(LocalStore(tmp_path), limit), LeavesTemporaries)  # type: ignore[arg-type]
    assert isinstance(rate_limited(MemoryStore({}), limit), LeavesTemporaries) is isinstance(
        MemoryStore({}), LeavesTemporaries
    )


# Runs that are to end


@pytest.mark.usefixtures("notes")
def test_a_thread_of_a_run_that_is_to_end_gives_up_and_the_main_one_does_not_wait() -> None:
    limit = RateLimit(10_000)
    limit.take(10_000_000)  # a quarter of an hour
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        pool.submit(limit.take, 1).result()


def test_a_pause_in_a_thread_ends_when_the_run_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "REQUESTED", threading.Event())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shutdown.sleep, 60)
        shutdown.request()
        with pytest.raises(KeyboardInterrupt):
            waiting.result(5)


@pytest.mark.usefixtures("notes")
def test_a_run_that_is_to_end_tries_once_more_and_no_thread_of_it_does() -> None:
    tries = []

    def fail() -> None:
        tries.append(1)
        raise TransientError("it is overloaded", "wait")

    policy = RetryPolicy(sleep=lambda _seconds: None)
    with pytest.raises(StoreError):
        policy.call(fail)
    assert len(tries) == ATTEMPTS_AT_END
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        pool.submit(policy.call, fail).result()
    assert len(tries) == ATTEMPTS_AT_END + 1
