"""The webhooks over real TLS, in this process: sizes, deadlines, broken clients, and files that change under a running injector."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import uvloop
from cryptography import x509
from injector.injector_kit import APP_PORT, DEFAULTS, body, eventually, injector, options, patched, pod, warnings
from support.certificates import Pair, authority, issue

from sidecar.injector import app
from sidecar.injector import port as injector_port
from sidecar.injector.app import MAX_BODY
from sidecar.injector.server import Injector

Json = dict[str, Any]
HOST = "outrider-injector.outrider-system.svc"
CA = authority("outrider-tests-webhooks")


def write_pair(folder: Path, pair: Pair) -> None:
    """As cert-manager's Secret appears in a pod: both files at once, by a symlink that moves."""
    version = folder / f"..{time.monotonic_ns()}"
    version.mkdir(parents=True)
    pair.write(version, "tls")
    link = folder / "..new"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


@contextlib.asynccontextmanager
async def running(folder: Path, *, defaults: str | None = DEFAULTS, **fields: Any) -> AsyncIterator[Injector]:
    """An injector with certificates from files, and without an API server."""
    certificates = folder / "certificates"
    write_pair(certificates, issue(CA, "webhooks", hosts=[HOST, "127.0.0.1"]))
    (folder / "defaults.yaml").write_text(defaults or "image: 5\n")
    chosen = options(folder, namespace="outrider-system", certificate_dir=certificates, kubeconfig=folder / "none", **fields)
    async with injector(chosen) as made:
        if defaults:
            await eventually(lambda: made.ready)
        yield made


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def run(script: Callable[[Injector, Path], Awaitable[None]], **fields: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), running(tmp_path, **fields) as made:
                await script(made, tmp_path)

        uvloop.run(main())

    return run


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CA.pem.decode())


def post(made: Injector, path: str, data: bytes, *, method: str = "POST") -> tuple[int, bytes, str]:
    """Status, body and the Connection header."""
    connection = http.client.HTTPSConnection("127.0.0.1", made.addresses[0].port, timeout=20, context=context())
    try:
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Connection", "")
    finally:
        connection.close()


async def apost(made: Injector, path: str, data: bytes, **fields: Any) -> tuple[int, bytes, str]:
    return await asyncio.to_thread(post, made, path, data, **fields)


def status(made: Injector, path: str) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{made.addresses[1].port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return str(error)


async def series(made: Injector, name: str) -> dict[str, float]:
    text = await asyncio.to_thread(status, made, "/metrics")
    lines = [line for line in text.splitlines() if line.startswith(f"outrider_injector_{name}")]
    return {line.rpartition(" ")[0].partition("{")[2].rstrip("}"): float(line.rpartition(" ")[2]) for line in lines}


def test_a_review_is_answered_and_counted(play: Callable[..., None]) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        code, answer, _ = await apost(made, "/inject/namespace?timeout=5s", body(pod(APP_PORT)))
        assert code == 200
        assert patched(pod(APP_PORT), answer)["spec"]["initContainers"][0]["name"] == "outrider"
        assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[0] == 200
        counted = await series(made, "requests_total")
        assert counted == {'result="injected",reason="none"': 1.0, 'result="skipped",reason="not_wanted"': 1.0}
        assert (await series(made, "request_duration_seconds_count"))['webhook="inject"'] == 2

    play(script)


def test_a_review_of_eight_mebibytes_is_answered_and_one_byte_more_is_too_large(play: Callable[..., None]) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        one = pod(APP_PORT)
        one["spec"]["containers"][0]["env"] = [{"name": f"V{number}", "value": "x" * 8000} for number in range(1000)]
        text = body(one)
        one["spec"]["containers"][0]["env"][0]["value"] += "x" * (MAX_BODY - len(text))
        text = body(one)
        assert len(text) == MAX_BODY
        code, answer, _ = await apost(made, "/inject/namespace", text)
        assert code == 200
        assert len(answer) < 10_000
        assert patched(one, answer)["spec"]["containers"] == one["spec"]["containers"]
        code, answer, connection = await apost(made, "/inject/namespace", text + b" ")
        assert (code, connection) == (413, "close")
        assert (await series(made, "requests_total"))['result="error",reason="too_large"'] == 1

    play(script)


@pytest.mark.parametrize(
    ("method", "path", "data", "code"),
    [
        ("POST", "/inject/pod", b"{}", 400),
        ("POST", "/validate", b"nonsense", 400),
        ("POST", "/inject/pod", body(pod()).replace(b"k8s.io/v1", b"k8s.io/v1beta1"), 400),
        ("GET", "/inject/pod", b"", 405),
        ("POST", "/inject", b"", 404),
        ("POST", "/", b"", 404),
        ("GET", "/metrics", b"", 404),
    ],
)
def test_what_is_no_review_gets_a_plain_status(play: Callable[..., None], method: str, path: str, data: bytes, code: int) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        assert (await apost(made, path, data, method=method))[0] == code
        assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[0] == 200

    play(script)


def test_without_valid_defaults_pods_start_with_a_warning_and_the_injector_is_not_ready(play: Callable[..., None]) -> None:
    async def script(made: Injector, folder: Path) -> None:
        await eventually(lambda: made._defaults.problem.endswith("image: must be text (quote it)"))
        assert not made.ready
        await eventually(lambda: not made._certificates.problem)
        code, answer, _ = await apost(made, "/inject/namespace", body(pod(APP_PORT)))
        assert code == 200
        assert warnings(answer) == ["outrider: no sidecar: the injector has no valid defaults"]
        assert patched(pod(APP_PORT), answer) == pod(APP_PORT)
        (folder / "defaults.yaml").write_text(DEFAULTS)
        await eventually(lambda: made.ready)

    play(script, defaults=None)


def test_an_edit_of_the_defaults_counts_for_the_next_pod_and_a_bad_one_for_none(play: Callable[..., None]) -> None:
    async def image(made: Injector) -> str:
        _, answer, _ = await apost(made, "/inject/namespace", body(pod(APP_PORT)))
        found: str = patched(pod(APP_PORT), answer)["spec"]["initContainers"][0]["image"]
        return found

    async def script(made: Injector, folder: Path) -> None:
        assert await image(made) == "registry.example/outrider:1"
        (folder / "defaults.yaml").write_text('{"image": "registry.example/outrider:2"}')
        await eventually(lambda: made._defaults.value is not None and made._defaults.value.image.endswith(":2"))
        assert await image(made) == "registry.example/outrider:2"
        for bad in ("image: [", "imag: x", "- x", "\x00", "image: x\nlogLevel: {}"):
            (folder / "defaults.yaml").write_text(bad)
            await eventually(lambda: bool(made._defaults.problem))
            assert await image(made) == "registry.example/outrider:2"
            assert made.ready
            (folder / "defaults.yaml").write_text('{"image": "registry.example/outrider:2"}')
            await eventually(lambda: not made._defaults.problem)

    play(script)


def serial(made: Injector) -> int:
    with (
        socket.create_connection(("127.0.0.1", made.addresses[0].port), 5) as plain,
        context().wrap_socket(plain, server_hostname=HOST) as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"").serial_number


def test_a_certificate_of_somebody_elses_is_followed_and_half_a_pair_changes_nothing(play: Callable[..., None]) -> None:
    async def script(made: Injector, folder: Path) -> None:
        first = await asyncio.to_thread(serial, made)
        expires = (await series(made, "certificate_expiry_timestamp_seconds"))[""]
        assert expires > time.time() + 86_400
        kept = http.client.HTTPSConnection("127.0.0.1", made.addresses[0].port, timeout=20, context=context())
        await asyncio.to_thread(kept.connect)
        new = issue(CA, "webhooks", hosts=[HOST, "127.0.0.1"])
        mixed = Pair(issue(CA, "other", hosts=[HOST]).key, new.certificate)
        write_pair(folder / "certificates", mixed)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(serial, made) == first
        assert made.ready
        write_pair(folder / "certificates", new)
        while await asyncio.to_thread(serial, made) != new.certificate.serial_number:
            await asyncio.sleep(0.02)

        def on_the_old_connection() -> int:
            kept.request("POST", "/inject/pod", body(pod(APP_PORT)))
            code = kept.getresponse().status
            kept.close()
            return code

        assert await asyncio.to_thread(on_the_old_connection) == 200

    play(script)


def test_a_body_that_does_not_come_is_given_up_before_the_webhooks_timeout(play: Callable[..., None]) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        def slow() -> tuple[bytes, float]:
            with socket.create_connection(("127.0.0.1", made.addresses[0].port), 10) as plain:
                with context().wrap_socket(plain, server_hostname=HOST) as tls:
                    began = time.monotonic()
                    tls.sendall(b"POST /inject/pod?timeout=1s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
                    return tls.recv(100), time.monotonic() - began

        answer, seconds = await asyncio.to_thread(slow)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 0.5 < seconds < 10
        assert (await series(made, "requests_total"))['result="error",reason="timeout"'] == 1

    play(script)


def test_clients_that_leave_in_the_middle_leave_nothing_behind(play: Callable[..., None]) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        def leave(data: bytes) -> None:
            with socket.create_connection(("127.0.0.1", made.addresses[0].port), 10) as plain:
                with context().wrap_socket(plain, server_hostname=HOST) as tls:
                    tls.sendall(data)

        for data in (b"", b"POST /inj", b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", b"\x00\x01" * 500):
            await asyncio.to_thread(leave, data)
        assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[0] == 200

    play(script)


def test_no_more_is_held_than_there_is_room_for(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        monkeypatch.setattr(app, "MAX_WAITING", 1000)
        code, _, connection = await apost(made, "/inject/pod", body(pod({**APP_PORT, "a": "x" * 2000})))
        assert (code, connection) == (503, "close")
        assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[0] == 200

    play(script)


def test_a_connection_too_many_is_turned_away_and_there_is_room_again(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        monkeypatch.setattr(injector_port, "MAX_CONNECTIONS", 2)
        held = [http.client.HTTPSConnection("127.0.0.1", made.addresses[0].port, timeout=20, context=context()) for _ in range(2)]
        for one in held:
            await asyncio.to_thread(one.connect)
        with pytest.raises((OSError, http.client.HTTPException)):
            await apost(made, "/inject/pod", body(pod(APP_PORT)))
        for one in held:
            one.close()
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[0] == 200
                break

    play(script)


@pytest.mark.expects_traceback("a review failed")
def test_a_bug_of_ours_lets_the_pod_start(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    async def script(made: Injector, _folder: Path) -> None:
        monkeypatch.setattr(app, "mutate", broken)
        monkeypatch.setattr("sidecar.injector.documents.find", broken)
        for path in ("/inject/pod", "/validate"):
            code, answer, _ = await apost(made, path, body(pod(APP_PORT)))
            response = json.loads(answer)["response"]
            assert (code, response["allowed"]) == (200, True)
            assert "see its log" in response["warnings"][0]
            assert b"secret" not in answer

    play(script)


def test_while_it_drains_it_answers_and_asks_for_another_connection(play: Callable[..., None]) -> None:
    async def script(made: Injector, _folder: Path) -> None:
        assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[2] != "close"
        made.stop()
        assert not made.ready
        assert (await apost(made, "/inject/pod", body(pod(APP_PORT))))[::2] == (200, "close")

    play(script, drain_delay=30.0)


@pytest.mark.expects_traceback("task defaults failed")
def test_a_part_that_fails_ends_the_process_so_that_it_is_started_anew(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(made: Injector, folder: Path) -> None:
        def broken(_data: bytes) -> None:
            raise RuntimeError

        monkeypatch.setattr("sidecar.injector.files.parse_defaults", broken)
        (folder / "defaults.yaml").write_text("image: other\n")
        await eventually(lambda: not made.ready)
        ended.append(made)

    ended: list[Any] = []
    play(script)
    assert [made.exit_code for made in ended] == [1]
