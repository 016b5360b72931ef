"""Files that the injector follows by content: its defaults, and certificates that somebody else makes (cert-manager, a company's own CA)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from sidecar.config.file import FileSource
from sidecar.config.source import Mailbox, Unavailable
from sidecar.injector.certificates import Leaf, expiry
from sidecar.injector.settings import Defaults, defaults_document
from sidecar.tasks import cancel_and_wait, create_task
from sidecar.tls.material import CERTIFICATE, PRIVATE_KEY, KeyPair, Unusable

log = logging.getLogger("outrider")

DEFAULTS: Final = "defaults"


class DefaultsFile:
    """`--defaults FILE`. `value` is the newest good one; a bad edit changes nothing."""

    def __init__(self, path: Path) -> None:
        self.value: Defaults | None = None
        self.problem = f"{path} has not been read yet"
        """Why there is no value, or why the newest is not in force; "" when it is."""
        self._path = path

    async def run(self) -> None:
        """Follow it until cancelled."""
        async with AsyncExitStack() as stack:
            mailbox = await _follow(stack, {DEFAULTS: self._path})
            while True:
                news = await mailbox.get()
                if isinstance(news, Unavailable):
                    self._refuse(news.message)
                else:
                    self._take(news.data)

    def _take(self, data: bytes) -> None:
        try:
            self.value = parse_defaults(data)
        except ValueError as error:
            self._refuse(f"{self._path}: {error}")
        else:
            self.problem = ""
            log.info("%s is in force", self._path, extra={"event": "defaults_applied"})

    def _refuse(self, problem: str) -> None:
        self.problem = problem
        stays = "nothing is injected until it is mended" if self.value is None else "what was in force stays"
        log.warning("%s; %s", problem, stays, extra={"event": "defaults_rejected"})


def parse_defaults(data: bytes) -> Defaults:
    """From YAML or JSON. ValueError says what is wrong with it."""
    return Defaults.parse(defaults_document(data))


class CertificateFiles:
    """`--certificate-dir DIR` with tls.crt and tls.key: `use` gets each new pair. Whoever makes them sees to the caBundle, too."""

    def __init__(self, folder: Path, use: Callable[[Leaf], None]) -> None:
        self.problem = f"{folder} has not been read yet"
        """Why there is no certificate; "" when there is one."""
        self._folder = folder
        self._use = use
        self._parts: dict[str, bytes] = {}
        self._pair: KeyPair | None = None

    async def run(self) -> None:
        """Follow both files until cancelled."""
        async with AsyncExitStack() as stack:
            mailbox = await _follow(stack, {name: self._folder / name for name in (CERTIFICATE, PRIVATE_KEY)})
            while True:
                news = await mailbox.get()
                if isinstance(news, Unavailable):
                    self._refuse(news.message)
                    continue
                self._parts[news.source] = news.data
                if len(self._parts) == 2:
                    self._take()

    def _take(self) -> None:
        try:
            pair = KeyPair(self._parts[CERTIFICATE], self._parts[PRIVATE_KEY])
            expires = expiry(pair.certificate)
        except Unusable as error:  # perhaps half of a pair: the other half is on its way
            self._refuse(f"{self._folder}: {error}")
            return
        if pair != self._pair:
            self._pair = pair
            self._use(Leaf(pair, b"", expires, expires))
        self.problem = ""

    def _refuse(self, problem: str) -> None:
        if self._pair is None:
            self.problem = problem
        stays = "there is none" if self._pair is None else "the last good one stays"
        log.warning("%s; %s", problem, stays, extra={"event": "certificate_failed"})


async def _follow(stack: AsyncExitStack, files: dict[str, Path]) -> Mailbox:
    """News of these files, by their names here, for as long as the stack is open."""
    mailbox = Mailbox()
    tasks: list[asyncio.Task[None]] = []
    stack.push_async_callback(cancel_and_wait, tasks)
    for name, path in files.items():
        source = FileSource(path)
        source.name = name
        tasks.append(create_task(source.run(mailbox), name=f"follow {path}"))
    return mailbox
