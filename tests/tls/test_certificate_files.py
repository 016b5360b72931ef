"""Certificates in files: followed by content, edits and mounted Secrets alike, and the last good one stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Pair, issue
from support.tls import CA, LOCAL, OTHER_CA

from sidecar.config.certificate_files import CertificateFiles, FollowedFile
from sidecar.errors import UpstreamError
from sidecar.model.snapshot import Listener, Mode, Snapshot, Target, Upstream
from sidecar.model.tls import CaRef, CertificateRef, ListenerTls, UpstreamTls
from sidecar.tls.contexts import HTTP1
from sidecar.tls.material import CaBundle, KeyPair
from sidecar.tls.store import CertificateRefused, TlsStore

LONG = 60.0
OTHER = issue(CA, "other", hosts=["b.test"])


def mount(folder: Path, pair: Pair, generation: str) -> None:
    """As the kubelet does: a folder of its own, and one symlink that is swapped."""
    data = folder / f"..{generation}"
    data.mkdir(parents=True)
    (data / "tls.crt").write_bytes(pair.pem)
    (data / "tls.key").write_bytes(pair.key_pem)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not holds():
            await asyncio.sleep(0.01)


def pair_of(followed: FollowedFile) -> bytes | None:
    return followed.value.certificate.strip() if isinstance(followed.value, KeyPair) else None


@pytest.mark.parametrize("use_inotify", [True, False])
def test_a_mounted_secret_is_followed_through_its_symlink(tmp_path: Path, use_inotify: bool) -> None:
    async def main() -> None:
        mount(tmp_path, LOCAL, "1")
        files = CertificateFiles(poll_seconds=0.05, use_inotify=use_inotify)
        told: list[int] = []
        reference = CertificateRef(cert_file=str(tmp_path / "tls.crt"), key_file=str(tmp_path / "tls.key"))
        followed = files.follow(reference, lambda: told.append(1))
        await followed.settled()
        assert (pair_of(followed), followed.problem, told) == (LOCAL.pem.strip(), "", [])
        mount(tmp_path, OTHER, "2")
        await until(lambda: pair_of(followed) == OTHER.pem.strip())
        assert told
        followed.close()
        await files.aclose()

    asyncio.run(main())


def test_a_bad_edit_keeps_the_last_good_one_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "outrider")

    async def main() -> None:
        file = tmp_path / "ca.crt"
        file.write_bytes(CA.pem)
        files = CertificateFiles(poll_seconds=0.05)
        followed = files.follow(CaRef(file=str(file)), lambda: None)
        await followed.settled()
        file.write_text("nonsense")
        await until(lambda: bool(followed.problem))
        assert (followed.value, followed.problem) == (CaBundle(CA.pem), f"{file}: it holds no PEM certificate")
        file.unlink()
        await until(lambda: "cannot be opened" in followed.problem)
        assert followed.value == CaBundle(CA.pem)
        file.write_bytes(OTHER_CA.pem)
        await until(lambda: followed.value == CaBundle(OTHER_CA.pem))
        assert followed.problem == ""
        followed.close()
        await files.aclose()

    asyncio.run(main())
    events = [record.event for record in caplog.records if str(getattr(record, "event", "")).startswith("certificate")]
    assert events == ["certificate_loaded", "certificate_failed", "certificate_failed", "certificate_loaded"]


def test_who_comes_later_is_read_as_well_and_the_last_to_leave_ends_it(tmp_path: Path) -> None:
    async def main() -> None:
        for name, ca in (("a", CA), ("b", OTHER_CA)):
            (tmp_path / name).write_bytes(ca.pem)
        files = CertificateFiles(poll_seconds=0.05)
        one = files.follow(CaRef(file=str(tmp_path / "a")), lambda: None)
        await one.settled()
        two = files.follow(CaRef(file=str(tmp_path / "b")), lambda: None)
        await two.settled()
        assert two.value == CaBundle(OTHER_CA.pem)
        one.close()
        two.close()
        again = files.follow(CaRef(file=str(tmp_path / "a")), lambda: None)
        await again.settled()
        assert again.value == CaBundle(CA.pem)
        await files.aclose()

    asyncio.run(main())


def snapshot(**tls: Any) -> Snapshot:
    listener = Listener(name="in", port=0, bind="127.0.0.1", mode=Mode.REVERSE, tls=ListenerTls(**tls))
    return Snapshot(revision="", hash="", listeners=(listener,), upstreams={}, routes=())


def test_a_document_that_names_a_file_that_is_no_good_is_refused_by_its_place(tmp_path: Path) -> None:
    async def main() -> None:
        LOCAL.write(tmp_path, "a")
        OTHER.write(tmp_path, "b")
        files = CertificateFiles(poll_seconds=0.05)
        store = TlsStore(files.follow)
        good = snapshot(certificates=(CertificateRef(cert_file=str(tmp_path / "a.crt"), key_file=str(tmp_path / "a.key")),))
        await store.want(good)
        store.keep(good)
        bad = snapshot(certificates=(CertificateRef(cert_file=str(tmp_path / "a.crt"), key_file=str(tmp_path / "b.key")),))
        with pytest.raises(CertificateRefused, match=r"b\.key does not belong to .*a\.crt") as caught:
            await store.want(bad)
        assert caught.value.path == "listeners[0].tls"
        store.keep(good)
        assert store.server(good.listeners[0].tls) is not None
        assert len(store.statuses()) == 1
        await store.aclose()
        await files.aclose()

    asyncio.run(main())


def test_an_upstream_that_has_just_been_removed_keeps_its_context_for_exchanges_in_flight(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "ca.crt").write_bytes(CA.pem)
        files = CertificateFiles(poll_seconds=0.05)
        store = TlsStore(files.follow)
        tls = UpstreamTls(ca=(CaRef(file=str(tmp_path / "ca.crt")),), system_ca=False)
        upstream = Upstream(name="app", targets=(Target(host="a.test", port=443, tls=True),), tls=tls)
        one = Snapshot(revision="", hash="", listeners=(), upstreams={"app": upstream}, routes=())
        none = Snapshot(revision="", hash="", listeners=(), upstreams={}, routes=())
        for snapshot_ in (one, none):
            await store.want(snapshot_)
            store.keep(snapshot_)
        context = store.client(tls, HTTP1)
        (tmp_path / "ca.crt").write_bytes(OTHER_CA.pem)
        await store.want(none)
        assert store.client(tls, HTTP1) is context
        store.keep(none)
        with pytest.raises(UpstreamError, match="not known"):
            store.client(tls, HTTP1)
        await store.aclose()
        await files.aclose()

    asyncio.run(main())
