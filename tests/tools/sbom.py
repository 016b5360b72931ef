"""`python -m tools.sbom FOLDER`: a CycloneDX 1.6 bill of materials for each image, made from its lock: what pip is made to install.

The base image is not in it: the release attests what an image really holds (.github/workflows/release.yml).
"""

from __future__ import annotations

import contextlib
import json
import sys
import uuid
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

import sidecar
from tools.licences import licence_of
from tools.locked import SHIPPED, Package, read

_NAMESPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562 section 6.6: names that are URLs


def bill(image: str) -> dict[str, Any]:
    """The bill of one image; the same lock gives the same bill."""
    packages = read(SHIPPED[image])
    name = "outrider" if image == "sidecar" else f"outrider-{image}"
    ours = f"pkg:pypi/outrider@{sidecar.__version__}"
    components = [_component(package) for package in packages]
    serial = uuid.uuid5(_NAMESPACE, name + ours + json.dumps(components, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": name,
                "version": sidecar.__version__,
                "purl": ours,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
        "dependencies": [{"ref": ours, "dependsOn": sorted(package.purl for package in packages)}],
    }


def _component(package: Package) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "scope": "optional" if package.marker else "required",
        "properties": [{"name": "outrider:accepted-sha256", "value": digest} for digest in package.hashes],
    }
    with contextlib.suppress(PackageNotFoundError):  # not needed by this interpreter
        component["licenses"] = [{"expression": licence_of(package.name)}]
    return component


def main(arguments: list[str]) -> int:
    """Write one file for each image into the folder."""
    if len(arguments) != 1:
        print("usage: python -m tools.sbom FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for image in SHIPPED:
        path = folder / f"outrider-{image}-{sidecar.__version__}.cdx.json"
        path.write_text(json.dumps(bill(image), indent=2) + "\n", encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
