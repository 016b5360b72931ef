"""LeanClient: the KubeApi over aiohttp, with kubernetes_asyncio's knowledge of configuration and credentials (`access`).

Requests are made here and not by the library's REST layer, which has no time limits, hides `Retry-After`, and takes proxies
from the environment (in a pod, possibly this very sidecar). Nothing is retried, but for one case: a request that was
refused with 401, or met a certificate that it does not trust, is sent once more if the credentials have changed meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from yarl import URL

from sidecar import __version__
from sidecar.kube import access, answers
from sidecar.kube.access import Cluster, Credentials
from sidecar.kube.api import BadAnswer
from sidecar.kube.objects import OPENED, Json, ObjectList, Resource, Selection, WatchEvent
from sidecar.kube.outside import outside

CONNECT_SECONDS: Final = 5.0
"""Of one attempt, TLS included."""
LIST_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 15.0
OPEN_SECONDS: Final = 30.0
"""Until a watch is accepted."""
WATCH_EXTRA_SECONDS: Final = 30.0
"""What a watch may last beyond the time that the server was asked to end it after."""
CONNECTIONS: Final = 4
"""At once, besides those of watches, which each need one for as long as they last."""
KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""Seconds: a peer that has vanished is noticed within a minute, on a connection on which nothing is said."""
WRITER: Final = {"fieldManager": "outrider"}
HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"outrider/{__version__}"}
"""Not compressed: what is read is what is counted against the caps."""


class LeanClient:
    """See KubeApi. Belongs to the event loop in which it was made."""

    def __init__(self, cluster: Cluster, trace_configs: Iterable[aiohttp.TraceConfig] = ()) -> None:
        self._cluster = cluster
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=aiohttp.ThreadedResolver(), socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers=HEADERS,
            trace_configs=list(trace_configs),
        )

    @property
    def namespace(self) -> str:
        """The default one: the pod's own, or the context's."""
        return self._cluster.namespace

    async def list(self, selection: Selection, *, resource_version: str = "") -> ObjectList:
        """See KubeApi."""
        query = _query(selection) | ({"resourceVersion": resource_version} if resource_version else {})
        path = _path(selection.resource, selection.namespace, query=query)
        return answers.object_list(await self._answer("GET", path, LIST_SECONDS, answers.MAX_LIST))

    async def watch(self, selection: Selection, *, resource_version: str, timeout_seconds: int) -> AsyncGenerator[WatchEvent, None]:
        """See KubeApi. Lasts no longer than `timeout_seconds` and a little, whatever the server does."""
        query = _query(selection) | {"watch": "1", "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": resource_version, "timeoutSeconds": str(timeout_seconds)}
        path = _path(selection.resource, selection.namespace, query=query)
        longest = timeout_seconds + WATCH_EXTRA_SECONDS
        with outside(self._name, OPEN_SECONDS):
            async with asyncio.timeout(OPEN_SECONDS):
                response = await self._send("GET", path)
        ends = asyncio.get_running_loop().time() + longest
        try:
            yield OPENED
            lines = answers.Lines()
            with outside(self._name, longest):
                while chunk := await _next_chunk(response, ends):
                    for event in lines.feed(chunk):
                        yield event
            lines.end()
        finally:
            _drop(response)

    async def create(self, resource: Resource, namespace: str, body: Json) -> Json:
        """See KubeApi."""
        return await self._write("POST", _path(resource, namespace, query=WRITER), body, "application/json")

    async def replace(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        """See KubeApi."""
        return await self._write("PUT", _path(resource, namespace, name, query=WRITER), body, "application/json")

    async def patch(self, resource: Resource, namespace: str, name: str, body: Json, *, strategic: bool = False) -> Json:
        """See KubeApi."""
        kind = "application/strategic-merge-patch+json" if strategic else "application/merge-patch+json"
        return await self._write("PATCH", _path(resource, namespace, name, query=WRITER), body, kind)

    async def aclose(self) -> None:
        """See KubeApi."""
        await self._session.close()
        self._cluster.close()

    def _name(self) -> str:
        """The API server, for messages; known once its address has been read."""
        return urlsplit(self._cluster.server).netloc or "the API server"

    async def _write(self, method: str, path: str, body: Json, content_type: str) -> Json:
        return await self._answer(method, path, WRITE_SECONDS, answers.MAX_LINE, json.dumps(body).encode(), content_type)

    async def _answer(self, method: str, path: str, seconds: float, cap: int, body: bytes | None = None, content_type: str = "") -> Json:
        """One request and its whole answer, within `seconds` and `cap` bytes."""
        with outside(self._name, seconds):
            async with asyncio.timeout(seconds), self._turn:
                response = await self._send(method, path, body, content_type)
                try:
                    return answers.decode(await _read(response, cap))
                finally:
                    _drop(response)

    async def _send(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> aiohttp.ClientResponse:
        """An answer with a status of 2xx, whose body is still to come; the caller limits its time and closes it."""
        credentials = await self._cluster.credentials()
        try:
            response = await self._request(credentials, method, path, body, content_type)
        except aiohttp.ClientConnectorCertificateError:
            other = await self._cluster.renew(credentials)
            if other is None:
                raise
            response = await self._request(other, method, path, body, content_type)
        else:
            if response.status == 401 and (other := await self._renew(response, credentials)) is not None:
                response = await self._request(other, method, path, body, content_type)
        if 200 <= response.status < 300:
            return response
        try:
            text = await _read(response, answers.MAX_REFUSAL)
        finally:
            _drop(response)
        raise answers.refused(response.status, text, response.headers.get("Retry-After"))

    async def _renew(self, response: aiohttp.ClientResponse, credentials: Credentials) -> Credentials | None:
        """Others than `credentials`, which were refused by `response`; that is closed, unless there are none."""
        try:
            other = await self._cluster.renew(credentials)
        except BaseException:
            _drop(response)
            raise
        if other is not None:
            _drop(response)
        return other

    async def _request(
        self, credentials: Credentials, method: str, path: str, body: bytes | None, content_type: str
    ) -> aiohttp.ClientResponse:
        headers = {}
        if credentials.authorization:
            headers["Authorization"] = credentials.authorization
        if content_type:
            headers["Content-Type"] = content_type
        return await self._session.request(
            method,
            URL(self._cluster.server + path, encoded=True),
            headers=headers,
            data=body,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            allow_redirects=False,
            ssl=credentials.tls.context,
            server_hostname=self._cluster.tls_server_name,
            proxy=self._cluster.proxy,
        )


async def connect(
    kubeconfig: Path | None = None, context: str | None = None, trace_configs: Iterable[aiohttp.TraceConfig] = ()
) -> LeanClient:
    """A client for the API server that `access.find` finds, with its credentials read; nothing is sent there yet.

    May run a kubeconfig's exec plug-in. Raises KubeError: no kubeconfig, no such context, unusable certificates.
    """
    cluster = access.find(kubeconfig, context)
    try:
        await cluster.credentials()
    except BaseException:
        cluster.close()
        raise
    return LeanClient(cluster, trace_configs)


def _drop(response: aiohttp.ClientResponse) -> None:
    """Let go of an answer: after its end the connection is idle already, before it nobody waits for a farewell."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


async def _next_chunk(response: aiohttp.ClientResponse, ends: float) -> bytes:
    """What has come of the body, b"" at its end. TimeoutError at the loop's time `ends`."""
    async with asyncio.timeout_at(ends):
        return await response.content.readany()


async def _read(response: aiohttp.ClientResponse, cap: int) -> bytes:
    """The body. Raises BadAnswer when it is larger than `cap` bytes."""
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > cap:
            raise BadAnswer(f"the answer is larger than {cap} bytes")
    return bytes(body)


def _path(resource: Resource, namespace: str, name: str = "", query: Mapping[str, str] | None = None) -> str:
    """Path and query, encoded; nothing in a name can lead elsewhere."""
    path = resource.path(_segment(namespace)) + (f"/{_segment(name)}" if name else "")
    return f"{path}?{urlencode(query, quote_via=quote)}" if query else path


def _segment(name: str) -> str:
    return quote(name, safe="").replace(".", "%2E") if set(name) <= {"."} else quote(name, safe="")


def _query(selection: Selection) -> dict[str, str]:
    """The selectors. With a name the request is allowed by a rule that names it (`resourceNames`)."""
    query = {}
    if selection.name:
        query["fieldSelector"] = f"metadata.name={selection.name}"
    if selection.labels:
        query["labelSelector"] = selection.labels
    return query


def _socket(address: Any) -> socket.socket:
    """See aiohttp.TCPConnector: a socket that notices when its peer has vanished."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, seconds)
    return made
