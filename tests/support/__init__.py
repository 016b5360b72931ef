"""Short real fakes that the tests share: `from support import RawClient, ScriptedUpstream, Sidecar, response`.

async def test_a_request_reaches_the_upstream() -> None:
    async with ScriptedUpstream(answer(response(body=b"hi"))) as upstream:
        async with Sidecar(one_upstream(upstream.port)) as sidecar, await RawClient.open(sidecar.port()) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.read_response()).body == b"hi"
"""

from __future__ import annotations

from support.client import RawClient, Response
from support.documents import one_upstream
from support.sidecar import Sidecar
from support.upstream import Connection, Script, ScriptedUpstream, answer, in_turn, response

__all__ = ["Connection", "RawClient", "Response", "Script", "ScriptedUpstream", "Sidecar", "answer", "in_turn", "one_upstream", "response"]
