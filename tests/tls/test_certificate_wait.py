"""A document that was refused for a certificate's file is tried again when its files are good, and by no other document's leave."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support import RawClient, ScriptedUpstream, Sidecar, answer, response
from support.certificates import issue
from support.fake_kube import FakeKube, listing, no_answer
from support.tls import CA, LOCAL, client, server

from sidecar.config.certificate_files import CertificateFiles
from sidecar.config.certificate_wait import AGAIN_MAX_SECONDS, AGAIN_SECONDS, CertificateWait, pause_after
from sidecar.config.problem import Problem
from sidecar.config.source import Mailbox, News, Offer, Unavailable
from sidecar.config.store import Outcome, Result
from sidecar.model.snapshot import Snapshot, Upstream
from sidecar.model.tls import CaRef, UpstreamTls

LONG = 30.0
OTHER = issue(CA, "other", hosts=["127.0.0.1"])


def document(upstream: str, folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "outrider.dev/v1alpha1",
        "kind": "SidecarConfig",
        "listeners": [
            {
                "name": "inbound",
                "port": 0,
                "bind": "127.0.0.1",
                "tls": {"certFile": str(folder / "tls.crt"), "keyFile": str(folder / "tls.key")},
            }
        ],
        "upstreams": [
            {
                "name": "app",
                "targets": [{"url": upstream}],
                "tls": {"caCertificateRefs": [{"file": str(folder / "ca.crt")}], "wellKnownCACertificates": "None"},
            }
        ],
        "routes": [{"name": "all", "backendRefs": [{"name": "app"}]}],
    }


async def served(sidecar: Sidecar) -> None:
    """By TLS on both sides; the listener is known from the log line of the document that is in force by now."""
    port = int(sidecar.wait_for("config_applied")["listeners"]["inbound"].rpartition(":")[2])
    async with await RawClient.open(port, ssl=client()) as one:
        assert (await one.request("/")).body == b"x"


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_come_one_after_the_other_put_the_refused_document_in_force(tmp_path: Path, workers: int) -> None:
    """The bundle, then a certificate without its key, then a key that is another's, then the right one. The folder comes last of all."""
    folder = tmp_path / "later"

    async def main() -> None:
        async with (
            ScriptedUpstream(answer(response(body=b"x")), ssl=server()) as fake,
            Sidecar(document(fake.url, folder), wait_ready=False, flags=[f"--workers={workers}"]) as sidecar,
        ):
            refused = await sidecar.await_for("config_rejected")
            assert "ca.crt cannot be opened" in str(refused["problems"]) or "tls.crt cannot be opened" in str(refused["problems"])
            assert "tried again when its files are good" in str(refused["problems"])
            folder.mkdir()
            for name, data in (("ca.crt", CA.pem), ("tls.crt", LOCAL.pem), ("tls.key", OTHER.key_pem)):
                (folder / name).write_bytes(data)
                await asyncio.sleep(0.3)  # long enough for a look at what is there so far
                assert not sidecar.events("config_applied")
            (folder / "tls.key").write_bytes(LOCAL.key_pem)
            await sidecar.await_for("config_applied")
            await served(sidecar)
            assert len(sidecar.events("config_rejected")) == 1, "it was not offered while a file was no good"
            assert not sidecar.events("certificate_failed"), "what is not in use yet is not talked about"

    asyncio.run(main())


def test_a_reload_that_was_refused_for_a_file_comes_into_force_when_the_file_does(tmp_path: Path) -> None:
    """Until then the one before serves."""

    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x")), ssl=server()) as fake:
            (tmp_path / "ca.crt").write_bytes(CA.pem)
            LOCAL.write(tmp_path, "tls")
            before = document(fake.url, tmp_path)
            async with Sidecar(before) as sidecar:
                later = json.loads(json.dumps(before).replace("ca.crt", "new-ca.crt")) | {"lifecycle": {"drainTimeout": "3s"}}
                await asyncio.to_thread(sidecar.refuse, later)
                await served(sidecar)
                (tmp_path / "new-ca.crt").write_bytes(CA.pem)
                applied = await sidecar.await_for("config_applied", count=2)
                assert applied["revision"] == sidecar.events("config_rejected")[0]["revision"]
                await served(sidecar)

    asyncio.run(main())


def test_a_document_of_a_configmap_is_tried_again_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedUpstream(answer(response(body=b"x")), ssl=server()) as fake:
            metadata = {"name": "orders", "namespace": "shop", "uid": "1", "resourceVersion": "1"}
            item = {"metadata": metadata, "data": {"sidecar.yaml": json.dumps(document(fake.url, tmp_path))}}
            async with FakeKube([listing(1, item)], [no_answer()]) as kube:
                flags = ["--configmap=shop/orders", f"--kubeconfig={kube.kubeconfig(tmp_path / 'kubeconfig')}", "--config="]
                async with Sidecar(None, flags=flags, wait_ready=False) as sidecar:
                    await sidecar.await_for("config_rejected", source="configmap")
                    (tmp_path / "ca.crt").write_bytes(CA.pem)
                    LOCAL.write(tmp_path, "tls")
                    await sidecar.await_for("config_applied", source="configmap")
                    await served(sidecar)

    asyncio.run(main())


# -- without a process


class Waiting:
    """A CertificateWait for documents that name `ca.crt`, and what came out of its mailbox."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ca.crt"
        self.mailbox = Mailbox()
        self.wait = CertificateWait(self.mailbox, CertificateFiles(poll_seconds=0.02, use_inotify=False, quiet=True))
        self.first = Offer("file", "1", b"one")

    async def say(self, news: News) -> None:
        """A source tells, and it is fetched."""
        self.mailbox.put(news)
        assert await self.mailbox.get() is news

    def refused(self, offer: Offer, place: str = "upstreams[0].tls.caCertificateRefs[0]") -> None:
        tls = UpstreamTls(ca=(CaRef(file=str(self.file)),))
        snapshot = Snapshot(revision="", hash="", listeners=(), upstreams={"app": Upstream(name="app", tls=tls)}, routes=())
        self.wait.hear(offer, Outcome(Result.REJECTED, (Problem(place, 1, 1, "no"),), snapshot))

    async def again(self) -> News:
        async with asyncio.timeout(LONG):
            return await self.mailbox.get()

    async def nothing(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await self.mailbox.get()


def test_it_is_offered_again_as_its_source_told_it_and_not_before_the_file_is_good(tmp_path: Path) -> None:
    async def main() -> None:
        waiting = Waiting(tmp_path)
        await waiting.say(waiting.first)
        waiting.refused(waiting.first)
        waiting.file.write_text("half a certificate")
        await waiting.nothing()
        waiting.file.write_bytes(CA.pem)
        assert await waiting.again() is waiting.first
        await waiting.wait.aclose()

    asyncio.run(main())


def test_a_file_that_was_mended_before_anybody_looked_is_good_enough(tmp_path: Path) -> None:
    async def main() -> None:
        waiting = Waiting(tmp_path)
        waiting.file.write_bytes(CA.pem)
        await waiting.say(waiting.first)
        waiting.refused(waiting.first)
        assert await waiting.again() is waiting.first
        await waiting.wait.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("place", ["listeners[0]", "upstreams[0].client", ""])
def test_what_is_refused_for_something_else_is_not_offered_again(tmp_path: Path, place: str) -> None:
    async def main() -> None:
        waiting = Waiting(tmp_path)
        waiting.file.write_bytes(CA.pem)
        await waiting.say(waiting.first)
        waiting.refused(waiting.first, place)
        await waiting.nothing()
        await waiting.wait.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("word", [Offer("file", "2", b"two"), Unavailable("file", "gone")])
def test_a_document_is_not_offered_again_once_its_source_has_said_something_newer(tmp_path: Path, word: News) -> None:
    """Also while what is newer is on its way, and nobody has heard what became of it."""

    async def main() -> None:
        waiting = Waiting(tmp_path)
        await waiting.say(waiting.first)
        waiting.refused(waiting.first)
        await waiting.say(word)
        waiting.file.write_bytes(CA.pem)
        await waiting.nothing()
        await waiting.wait.aclose()

    asyncio.run(main())


def test_another_sources_word_does_not_end_the_wait(tmp_path: Path) -> None:
    async def main() -> None:
        waiting = Waiting(tmp_path)
        await waiting.say(waiting.first)
        waiting.refused(waiting.first)
        other = Unavailable("configmap", "away")
        await waiting.say(other)
        waiting.wait.hear(other, None)
        waiting.file.write_bytes(CA.pem)
        assert await waiting.again() is waiting.first
        await waiting.wait.aclose()

    asyncio.run(main())


def test_a_document_that_stays_refused_with_good_files_is_offered_ever_more_rarely() -> None:
    pauses = [pause_after(times) for times in range(100)]
    assert pauses[0] == AGAIN_SECONDS
    assert all(later >= 2 * earlier or later == AGAIN_MAX_SECONDS for earlier, later in itertools.pairwise(pauses))
    assert pauses[-1] == AGAIN_MAX_SECONDS


def test_what_was_offered_again_with_the_same_files_counts_and_other_files_begin_anew(tmp_path: Path) -> None:
    async def main() -> None:
        waiting = Waiting(tmp_path)
        waiting.file.write_bytes(CA.pem)
        await waiting.say(waiting.first)
        counted = []
        for _ in range(2):
            waiting.refused(waiting.first)
            assert await waiting.again() is waiting.first
            counted.append(waiting.wait._tried["file"].times)
        waiting.file.write_bytes(issue(CA, "other").pem)
        waiting.refused(waiting.first)
        assert await waiting.again() is waiting.first
        counted.append(waiting.wait._tried["file"].times)
        assert counted == [1, 2, 1]
        await waiting.wait.aclose()

    asyncio.run(main())
