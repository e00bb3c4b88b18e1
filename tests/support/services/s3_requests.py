"""What a command asks of an S3 service, counted at the client library, and what may go wrong there."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http.client import HTTPMessage as HTTPHeaders
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
from urllib3.exceptions import ProtocolError

from zodb_vault.stores.retry import RetryPolicy
from zodb_vault.stores.s3connection import S3Connection


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the requests by operation while the context lasts."""
    counts: Counter[str] = Counter()
    real = S3Connection.new_client

    def client(connection: S3Connection) -> Any:
        made = real(connection)
        made.meta.events.register(
            "before-send.s3.*", lambda event_name, **_: counts.update([event_name.rpartition(".")[2]])
        )
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Connection, "new_client", client)
        yield counts


class Faults:
    """What happens to each request: ``act`` of a subclass sends it with ``send`` or does something else."""

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        return send(request)


@contextmanager
def behind(faults: Faults) -> Iterator[None]:
    """Put faults between all new clients and their service; a retry does not wait."""
    real = S3Connection.new_client

    def client(connection: S3Connection) -> Any:
        made = real(connection)
        session = made._endpoint.http_session
        send = session.send
        session.send = lambda request: faults.act(request, send)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Connection, "new_client", client)
        patch.setattr(
            "zodb_vault.stores.s3bucket.RetryPolicy", partial(RetryPolicy, sleep=lambda _seconds: None)
        )
        yield


def lost(request: Any) -> Exception:
    """Return what the client library raises when a connection breaks."""
    return ConnectionClosedError(endpoint_url=request.url)


class EachFailsOnce(Faults):
    """Every request fails the first time, in one way after the other, without having reached the service."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, object]] = set()
        self._ways = itertools.cycle([self._broken, self._late, self._busy, self._slow_down, self._conflict])

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        which = _which(request)
        if which in self._seen:
            return send(request)
        self._seen.add(which)
        return next(self._ways)(request)

    def _broken(self, request: Any) -> Any:
        raise lost(request)

    def _late(self, request: Any) -> Any:
        raise ReadTimeoutError(endpoint_url=request.url)

    def _busy(self, request: Any) -> Any:
        return _answer(request, 500, "InternalError")

    def _slow_down(self, request: Any) -> Any:
        return _answer(request, 503, "SlowDown")

    def _conflict(self, request: Any) -> Any:
        return _answer(request, 409, "ConditionalRequestConflict")


class EachWriteIsLost(Faults):
    """Every write is done, and the answer to it is lost the first time."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, object]] = set()

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        answer, which = send(request), _which(request)
        if request.method in ("PUT", "DELETE") and which not in self._seen:
            self._seen.add(which)
            assert answer.content is not None
            raise lost(request)
        return answer


class EachReadIsCut(Faults):
    """Every read of content breaks in its middle, also when repeated: by an error, or like a normal end."""

    def __init__(self) -> None:
        self._ways = itertools.cycle([True, False])

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        answer = send(request)
        if request.method == "GET" and "list-type" not in request.url and answer.status_code in (200, 206):
            answer.raw = _Cut(
                answer.raw, (int(answer.headers["Content-Length"]) + 1) // 2, loud=next(self._ways)
            )
        return answer


class _Cut:
    """A body that ends in its middle; a byte or less is complete."""

    def __init__(self, raw: Any, left: int, *, loud: bool) -> None:
        self._raw, self._left, self._loud = raw, left, loud

    def read(self, amount: int | None = None) -> Any:
        if not self._left:
            if self._loud:
                raise ProtocolError("Connection broken: IncompleteRead")
            return b""
        data = self._raw.read(self._left if amount is None else min(amount, self._left))
        self._left -= len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class AllOfThem(Faults):
    """Every request fails the first time, the answer to every write is lost once, every read is cut."""

    def __init__(self) -> None:
        self._fails, self._loses, self._cuts = EachFailsOnce(), EachWriteIsLost(), EachReadIsCut()

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        return self._fails.act(
            request, lambda one: self._loses.act(one, lambda two: self._cuts.act(two, send))
        )


class Slow(Faults):
    """Every answer takes its time, and its content comes a few bytes at once."""

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        time.sleep(0.005)
        answer = send(request)
        answer.raw = _Trickling(answer.raw)
        return answer


class _Trickling:
    """A body of which a read brings a hundred bytes at most."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, amount: int | None = None) -> Any:
        return self._raw.read(amount if amount is None else min(amount, 100))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class ListedLate(Faults):
    """Every list that has changed is answered once as it was before."""

    def __init__(self) -> None:
        self._before: dict[str, bytes] = {}

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        answer = send(request)
        if request.method == "GET" and "list-type" in request.url:
            content, before = answer.content, self._before.get(request.url)
            self._before[request.url] = content
            if before is not None and before != content:
                answer._content = before
        return answer


class DownFrom(Faults):
    """From one request on nothing reaches the service, or comes back, any more."""

    def __init__(self, number: int) -> None:
        self._left = number

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise lost(request)
        return send(request)


class KilledAt(Faults):
    """The process is killed at one write: before it, or after it but before the answer. Counts the writes."""

    def __init__(self, number: int, *, after: bool) -> None:
        self._number, self._after = number, after
        self.writes = 0

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        if request.method in ("PUT", "DELETE"):
            self.writes += 1
        mine = request.method in ("PUT", "DELETE") and self.writes == self._number
        if mine and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = send(request)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def _which(request: Any) -> tuple[str, str, object]:
    return request.method, request.url, request.headers.get("If-Match")


def _answer(request: Any, status: int, code: str) -> AWSResponse:
    return _answered(request, status, f"<Error><Code>{code}</Code><Message>hunter2</Message></Error>")


def _answered(request: Any, status: int, body: str) -> AWSResponse:
    answer = AWSResponse(request.url, status, HTTPHeaders(), None)
    answer._content = body.encode()
    return answer


class Unlocking(Faults):
    """Moto lets a lock be shortened or weakened.

    Services with object lock refuse that, and answer what this class answers.
    """

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        parts = urlsplit(request.url)
        if "retention" not in parse_qs(parts.query, keep_blank_values=True):
            return send(request)
        head = boto3.client("s3", endpoint_url=f"{parts.scheme}://{parts.netloc}", region_name="us-east-1")
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        found = head.head_object(Bucket=bucket, Key=key)
        until, mode = found.get("ObjectLockRetainUntilDate"), found.get("ObjectLockMode")
        if request.method == "GET":
            expiry = f"{until:%Y-%m-%dT%H:%M:%SZ}"
            body = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{expiry}</RetainUntilDate></Retention>"
            return _answered(request, 200, body)
        asked = re.search(rb"<RetainUntilDate>(.*)</RetainUntilDate>", request.body)
        assert asked
        if until and (
            datetime.fromisoformat(asked[1].decode()) < until
            or (mode == "COMPLIANCE" and mode.encode() not in request.body)
        ):
            return _answer(request, 403, "AccessDenied")
        return send(request)


class Denied(Faults):
    """A service with a policy: everything that matches no (method, key pattern) is denied.

    LIST and RETAIN count as methods of their own.
    """

    def __init__(self, bucket: str, allowed: Sequence[tuple[str, str]]) -> None:
        self._bucket, self._allowed = bucket, allowed
        self.denied: list[tuple[str, str]] = []

    def act(self, request: Any, send: Callable[[Any], Any]) -> Any:
        parts = urlsplit(request.url)
        asked = parse_qs(parts.query, keep_blank_values=True)
        key = unquote(parts.path).removeprefix(f"/{self._bucket}").lstrip("/")
        method = "RETAIN" if "retention" in asked else request.method
        which = ("LIST", asked.get("prefix", [""])[0]) if "list-type" in asked else (method, key)
        if any(which[0] == method and re.match(pattern, which[1]) for method, pattern in self._allowed):
            return send(request)
        self.denied.append(which)
        return _answer(request, 403, "AccessDenied")
