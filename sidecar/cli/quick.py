"""A command line of nothing but known flags, read without argparse.

Importing argparse takes one twentieth of the CPU and of the memory of a sidecar's start, and nearly every start of a pod has a
line that is this simple. Whatever is not (a mistake, --help, a positional word) is argparse's, which then says what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class _Flag(NamedTuple):
    convert: Callable[[str], Any]
    default: Any
    switch: bool


class _NotSimple(Exception):
    """Argparse knows what to make of it."""


class _Flags:
    """What `add_arguments` sees of a parser."""

    def __init__(self) -> None:
        self.epilog = ""
        self.known: dict[str, _Flag] = {}

    def add_argument(self, name: str, *others: str, default: Any = None, nargs: str | None = None, **options: Any) -> None:
        """As argparse's, for the two shapes that cli/flags.py makes. Raises _NotSimple."""
        if others or not name.startswith("--") or "action" in options or nargs not in (None, "?"):
            raise _NotSimple
        self.known[name] = _Flag(options.get("type", str), default, nargs == "?")


def read(add_arguments: Callable[[ArgumentParser], None], words: Sequence[str]) -> Namespace | None:
    """What argparse would make of `words`; None: it has to say itself."""
    flags = _Flags()
    try:
        add_arguments(cast("ArgumentParser", flags))
        given = _values(flags.known, words)
        found = {
            name.removeprefix("--").replace("-", "_"): given[name] if name in given else _default(flag)
            for name, flag in flags.known.items()
        }
    except Exception:  # noqa: BLE001 - argparse finds it again, and has the words for it
        return None
    return cast("Namespace", SimpleNamespace(**found))


def _default(flag: _Flag) -> Any:
    return flag.convert(flag.default) if isinstance(flag.default, str) else flag.default


def _values(known: dict[str, _Flag], words: Sequence[str]) -> dict[str, Any]:
    """Raises _NotSimple, KeyError, IndexError, and what converting raises."""
    given, at = {}, 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        flag = known[name]
        at += 1
        if equals:
            given[name] = flag.convert(value)
        elif flag.switch and (at == len(words) or words[at].startswith("-")):
            given[name] = True
        elif words[at].startswith("-"):
            raise _NotSimple
        else:
            given[name] = flag.convert(words[at])
            at += 1
    return given
