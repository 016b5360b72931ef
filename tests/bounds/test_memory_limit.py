"""Near its memory limit, which a real cgroup sets, the sidecar refuses work before the kernel kills it, and recovers."""

from __future__ import annotations

import uvloop
from bounds_kit import MIB, PATIENCE, Crowd, ask, chain, descriptors, metrics, rss, until
from support import RawClient, Sidecar
from support.cgroup import memory_cgroup

LIMIT = 128 * MIB
BIG = b"GET /bytes/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (64 * MIB)


def sheds(sidecar: Sidecar) -> bool:
    return any(line["overload"] in ("shed", "narrow", "full") for line in sidecar.events("overloaded"))


def test_near_its_memory_limit_new_requests_get_503_and_the_process_lives() -> None:
    """More slow readers than the memory is enough for: those that come late are refused, and so is everybody else, probes not."""

    async def main() -> None:
        with memory_cgroup(LIMIT) as cgroup:
            async with chain(prefix=cgroup.prefix, upstream={"connectionPool": {"maxConnections": 0, "maxRequests": 0}}) as (sidecar, _):
                honest = [await RawClient.open(sidecar.port(), timeout=PATIENCE) for _ in range(3)]
                for client in honest:
                    assert (await client.request()).status == 200
                async with Crowd(sidecar.port(), receive_buffer=4096) as crowd:
                    while not sheds(sidecar) and len(crowd.sockets) < 2500:
                        await crowd.join(25, BIG)
                    await until(lambda: sheds(sidecar), "it sheds")
                    for client in honest:
                        answer = await client.request()
                        assert answer.status == 200 or (answer.status, answer.get("retry-after")) == (503, "1")
                        await client.close()
                    assert (await ask(sidecar.status_port, "/livez"))[0] == 200
                    assert (await ask(sidecar.admin_port, "/runtime"))[0] in (200, 503), "loaded only where there is room for it"
                    now = await metrics(sidecar)
                    assert now['outrider_overload_actions_total{action="request_refused"}'] > 0
                await until(lambda: descriptors(sidecar.pid) < 100, "the crowd is gone")
                assert await ask(sidecar.port()) == (200, b"ok")
                assert (await ask(sidecar.status_port, "/readyz"))[0] == 200
                await until(lambda: rss(sidecar.pid) < LIMIT * 0.8, "what was given up is given back")
            assert cgroup.kills() == 0

    uvloop.run(main())
