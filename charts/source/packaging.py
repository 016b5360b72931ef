"""`python -m charts.source.packaging --write | --check`: README.md of the chart, and manifests/. The rest of `make charts` is sidecar/injector/charts.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from charts.source import manifests, readme
from charts.source.catalog import ROOT


def files(helm: str) -> dict[Path, str]:
    """By path."""
    return {readme.CHART / "README.md": readme.readme(), **manifests.example(), **manifests.rendered(helm)}


def main(arguments: list[str]) -> int:
    """0; 1 when `--check` finds a file that is not current; 2 without Helm, or when it fails."""
    helm = manifests.find_helm()
    if helm is None:
        sys.stderr.write('manifests/ is rendered by Helm, and there is none: run `make tools NAMES="helm"`\n')
        return 2
    try:
        made = files(helm)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"helm: {error.stderr}")
        return 2
    stale = {path: text for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if "--check" in arguments:
            sys.stdout.write(f"{path.relative_to(ROOT)} is not current: run `make charts`\n")
        else:
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
