"""The files of a folder that `outrider validate` looks at: `*.yaml`, `*.yml` and `*.json`, in the same order every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sidecar.cli.files import cannot_read
from sidecar.errors import UsageError

SUFFIXES: Final = (".yaml", ".yml", ".json")


def files_in(folder: str) -> Iterator[str | UsageError]:
    """The names of the files below `folder`, each folder's own first, then its folders, by name; why one cannot be read.

    Hidden entries are left out (`.git`, and the real files behind a mounted ConfigMap's symlinks), and so are a Helm
    chart's templates, which are no YAML before they are rendered. Symlinks are followed, each folder is read once.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        name = waiting.pop()
        try:
            status = os.stat(name)  # noqa: PTH116 - names stay text: what is shown is what was given
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(name) as entries:
                visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            yield cannot_read(name, error)
            continue
        yield from (entry.path.removeprefix("./") for entry in visible if _is_candidate(entry))
        is_chart = any(entry.name == "Chart.yaml" for entry in visible)
        waiting += [entry.path for entry in reversed(visible) if _is_folder(entry) and not (is_chart and entry.name == "templates")]


def _is_candidate(entry: os.DirEntry[str]) -> bool:
    """Whether it is worth opening: a pipe would wait for its writer. A symlink to nothing is reported when it is read."""
    if not entry.name.endswith(SUFFIXES):
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a symlink that leads to itself
        return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
