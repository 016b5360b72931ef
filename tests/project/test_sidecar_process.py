"""The helper that runs a real process, against the real thing."""

from __future__ import annotations

import asyncio

import pytest
from support import RawClient, ScriptedUpstream, Sidecar, answer, one_upstream, response


def test_a_request_reaches_the_upstream_and_a_document_can_be_replaced_or_refused() -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"hi"))) as upstream, Sidecar(one_upstream(upstream.port)) as sidecar:
            async with await RawClient.open(sidecar.port()) as client:
                assert (await client.request("/a")).body == b"hi"
            redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere", "statusCode": 301}}
            await sidecar.aapply(one_upstream(upstream.port, routes=[{"name": "away", "filters": [redirect]}]))
            async with await RawClient.open(sidecar.port()) as client:
                assert (await client.request("/a")).status == 301
            rejected = await asyncio.to_thread(sidecar.refuse, {"kind": "Nonsense"})
            assert rejected["event"] == "config_rejected"
            assert await sidecar.astop() == 0

    asyncio.run(main())


def test_a_process_that_does_not_get_ready_is_a_failure_that_shows_what_it_said() -> None:
    with pytest.raises(AssertionError, match="unknown-flag"):
        Sidecar(None, flags=["--unknown-flag"]).start()
