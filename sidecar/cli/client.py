"""The admin surface as the commands see it: blocking, on the standard library alone, every wait bounded."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.errors import OutriderError, UsageError

DEFAULT_PORT: Final = 15020
MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of the longest answer that is read: a document of 1 MiB with all its defaults is far below."""
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class AdminError(OutriderError):
    """The sidecar could not be asked, or refused: `str()` is one line for a person.

    `unreachable`: nobody answered, so asking again later may help. `status` and `detail`: of a refusal.
    """

    def __init__(self, message: str, *, unreachable: bool = False, status: int = 0, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        self.unreachable = unreachable
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminClient:
    """Talks to one sidecar; a connection per call, so a restarted sidecar is no special case."""

    def __init__(self, address: str, *, timeout: float = 5.0) -> None:
        """`address`: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`; `timeout`: seconds per socket operation. Raises UsageError."""
        self.address = address
        self.timeout = timeout
        self._unix, self._host, self._port = _parse(address)

    def get(self, path: str) -> Any:
        """The decoded JSON of `GET path`. Raises AdminError."""
        return self._decode(path, self._call("GET", path, None))

    def get_text(self, path: str) -> str:
        """The text of `GET path`. Raises AdminError."""
        return self._call("GET", path, None).decode("utf-8", "replace")

    def post(self, path: str, body: object = None) -> Any:
        """The decoded JSON of `POST path`. Raises AdminError."""
        return self._decode(path, self._call("POST", path, b"" if body is None else json.dumps(body).encode()))

    def _connection(self) -> http.client.HTTPConnection:
        if self._unix is not None:
            return _UnixConnection(self._unix, self.timeout)
        return http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = self._connection()
        try:
            connection.request(method, path, body, {"Accept": "application/json", "Connection": "close", "User-Agent": "outrider-cli"})
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER + 1)
            status = response.status
        except TimeoutError:
            raise AdminError(f"the sidecar at {self.address} did not answer within {self.timeout:g}s", unreachable=True) from None
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"no sidecar answers at {self.address}: {_words(error)}", unreachable=True) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER:
            raise AdminError(f"{self.address}{path}: the answer is longer than {MAX_ANSWER >> 20} MiB")
        if status != http.client.OK:
            detail = _detail(answer)
            raise AdminError(f"{self.address}: {method} {path.partition('?')[0]}: {status} {detail}", status=status, detail=detail)
        return answer

    def _decode(self, path: str, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError:
            raise AdminError(f"{self.address}{path} did not answer with JSON; is this the admin address of a sidecar?") from None


def _parse(address: str) -> tuple[str | None, str, int]:
    if address == "off":
        raise UsageError("the admin surface is off (--admin-address off), so there is nothing to talk to")
    if address.startswith("unix:"):
        if path := address.removeprefix("unix:").removeprefix("//"):
            return path, "", 0
        raise UsageError(f"--admin: {address!r} names no socket (write unix:/path/to/socket)")
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname or "", DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        raise UsageError(f"--admin: {address!r} is not an address (write http://127.0.0.1:{DEFAULT_PORT} or unix:/path)") from None
    if parts.scheme != "http" or parts.path.strip("/") or port == 0:
        raise UsageError(f"--admin: {address!r} is not an address (write http://127.0.0.1:{DEFAULT_PORT} or unix:/path)")
    return None, _WILDCARDS.get(host, host), port


def _words(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return "it does not speak HTTP"


def _detail(answer: bytes) -> str:
    """What a refusal says about itself, on one line."""
    try:
        text = str(json.loads(answer)["detail"])
    except (ValueError, KeyError, TypeError):
        text = answer[:200].decode("utf-8", "replace")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
