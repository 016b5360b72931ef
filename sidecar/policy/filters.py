"""The filters of a route: header changes, URL rewriting, redirects (Gateway API HTTPRouteFilter)."""

from __future__ import annotations

from typing import Final

from sidecar.model.head import Field
from sidecar.model.snapshot import HeaderModifier, Redirect, UrlRewrite
from sidecar.policy.matching import wire_path
from sidecar.protocol.target import normalize_path

_WELL_KNOWN: Final = {"http": 80, "https": 443}


def modify(fields: list[Field], modifier: HeaderModifier) -> list[Field]:
    """A new list with `set`, `add` and `remove` carried out in this order; whatever they do not name stays as it is.

    `set` takes the place of the first line of its name and removes the others; `add` appends a line, which is the same
    as appending to the value (RFC 9110 section 5.3).
    """
    pending = {name.lower(): (name, value) for name, value in modifier.set}
    replaced = frozenset(pending)
    remove = modifier.remove
    out: list[Field] = []
    for field in fields:
        lower = field[1]
        if lower in remove:
            continue
        if lower not in replaced:
            out.append(field)
        elif lower in pending:
            name, value = pending.pop(lower)
            out.append((name, lower, value))
    out.extend((name, lower, value) for lower, (name, value) in pending.items() if lower not in remove)
    out.extend((name, lower, value) for name, value in modifier.add if (lower := name.lower()) not in remove)
    return out


def rewrite_target(rewrite: UrlRewrite, target: bytes, prefix: bytes) -> bytes:
    """The target that goes on; the query is kept. `prefix` is `Rule.prefix`.

    The rest behind a replaced prefix keeps its bytes, with one exception: where the raw path does not begin with the
    prefix (`/%61pi/x` matched `/api`), or has dot segments that an upstream would resolve out of the new prefix
    (`/api/../admin` behind `/public`), the rest is cut from the normalised path. `*` and the empty target of CONNECT
    have no path and stay as they are.
    """
    if rewrite.replace_full_path is None and rewrite.replace_prefix_match is None:
        return target
    return _replace_path(rewrite.replace_full_path, rewrite.replace_prefix_match, target, prefix)


def redirect_location(redirect: Redirect, scheme: str, host: bytes, port: int | None, target: bytes, prefix: bytes) -> bytes:
    """The value of `Location` (Gateway API HTTPRequestRedirectFilter); the query is kept.

    `scheme`, `host` (without port; IPv6 with or without brackets) and `port` (None: it had none) are those that the client used. Port: the filter's own;
    else the well-known one of the filter's scheme; else the client's, where Gateway API says "the listener's", which
    for a sidecar is a port that no client knows. A port that goes without saying is left out. Without any host (an
    HTTP/1.0 client) the location is relative.
    """
    path = _replace_path(redirect.replace_full_path, redirect.replace_prefix_match, target, prefix)
    if not path.startswith(b"/"):
        path = b"/"
    authority = host if redirect.hostname is None else redirect.hostname.encode()
    if not authority:
        return b"/." + path if path.startswith(b"//") else path  # "//x" would be another host
    if b":" in authority and not authority.startswith(b"["):
        authority = b"[%b]" % authority
    chosen = redirect.scheme or scheme
    if redirect.port is not None:
        port = redirect.port
    elif redirect.scheme is not None:
        port = _WELL_KNOWN.get(redirect.scheme, port)
    if port is not None and port != _WELL_KNOWN.get(chosen):
        authority = b"%b:%d" % (authority, port)
    return b"%b://%b%b" % (chosen.encode(), authority, path)


def _replace_path(full: str | None, new_prefix: str | None, target: bytes, prefix: bytes) -> bytes:
    if not target.startswith(b"/"):
        return target
    path, mark, query = target.partition(b"?")
    if full is not None:
        path = wire_path(full)
    elif new_prefix is not None:
        path = (wire_path(new_prefix).rstrip(b"/") + _rest(path, prefix)) or b"/"
    return path + mark + query


def _rest(path: bytes, prefix: bytes) -> bytes:
    """What follows `prefix` in `path`: b"" or something that begins with a slash."""
    if (b"%" in path or b"/." in path) and (_has_dot_segment(path) or not _is_under(path, prefix)):
        path = normalize_path(path)
    rest = path[len(prefix) :]
    return b"" if not prefix and rest == b"/" else rest


def _is_under(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/")


def _has_dot_segment(path: bytes) -> bool:
    return any(segment in (b".", b"..") for segment in path.lower().replace(b"%2e", b".").split(b"/"))
