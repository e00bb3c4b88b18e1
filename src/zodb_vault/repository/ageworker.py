"""Encrypts and decrypts, in a process of its own.

Pyrage holds the interpreter lock while it works, and would stop every other thread.

What comes in are messages, each a length of four bytes and that many bytes: what to do (JSON), then content,
then an empty one. What goes out are content, an empty message, and how it went (JSON). Keys come in this way
only: never as arguments, never in the environment.
"""

from __future__ import annotations

import json
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

LENGTH: Final = struct.Struct(">I")
NO_KEY: Final = "No matching keys found"


class Incoming:
    """The content of one task, as a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._rest, self._ended = stream, b"", False

    def read(self, size: int = -1) -> bytes:
        """Return some of what follows, nothing at the end."""
        while not self._rest and not self._ended:
            self._rest = receive(self._stream)
            self._ended = not self._rest
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def drain(self) -> None:
        """Pass over what nobody read."""
        while self.read():
            pass


class Outgoing:
    """The result of one task, as a file."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        """Send."""
        if data:
            send(self._stream, data)
        return len(data)

    def flush(self) -> None:
        """Keep what is sent together until all of it is."""


def receive(stream: BinaryIO) -> bytes:
    """Return one message; raise EOFError when whoever sends is gone."""
    head = stream.read(LENGTH.size)
    length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else -1
    data = stream.read(length) if length >= 0 else b""
    if len(data) != length:
        raise EOFError
    return data


def send(stream: BinaryIO, data: bytes) -> None:
    """Send one message."""
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)


def recipient_of(text: str) -> Any:
    """Return the public key of a text; raise pyrage.RecipientError."""
    import pyrage

    return (
        pyrage.ssh.Recipient.from_str(text)
        if text.startswith("ssh-")
        else pyrage.x25519.Recipient.from_str(text)
    )


def identity_of(text: str) -> Any:
    """Return the private key of a text; raise pyrage.IdentityError."""
    import pyrage

    return (
        pyrage.ssh.Identity.from_buffer(text.encode())
        if text.startswith("-----BEGIN")
        else pyrage.x25519.Identity.from_str(text)
    )


def _work(task: dict[str, Any], incoming: Incoming, outgoing: Outgoing) -> str | None:
    import pyrage

    try:
        if "recipients" in task:
            pyrage.encrypt_io(incoming, outgoing, [recipient_of(text) for text in task["recipients"]])
        else:
            pyrage.decrypt_io(incoming, outgoing, [identity_of(text) for text in task["identities"]])
    except pyrage.IdentityError:
        return "identity"
    except pyrage.RecipientError:
        return "recipient"
    except pyrage.DecryptError as error:
        return "key" if str(error) == NO_KEY else "damage"
    except OSError:
        return "damage"
    return None


def main() -> None:
    """Do one task after the other until nobody sends any."""
    # Ctrl-C is for the one who waits for the results: it ends this process by closing its input
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            task = json.loads(receive(source))
            incoming = Incoming(source)
            outcome = _work(task, incoming, Outgoing(target))
            incoming.drain()
            send(target, b"")
            send(target, json.dumps(outcome).encode())
            target.flush()
        except (EOFError, BrokenPipeError):
            return


if __name__ == "__main__":
    main()
