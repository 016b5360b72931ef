"""Build hook: with OUTRIDER_COMPILE=1 in the environment the modules that every request passes are compiled to C by mypyc.

Without it nothing happens and the package is pure Python, which is the same source, under the same tests, at about
twice the CPU in those modules (docs/decisions/0019). The sources stay beside what is compiled from them: tracebacks
show their lines, and an interpreter that cannot load the extensions runs the sources.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "OUTRIDER_COMPILE"
COMPILED = (
    "sidecar/model/endpoint.py",
    "sidecar/model/exchange.py",
    "sidecar/model/head.py",
    "sidecar/model/outbound.py",
    "sidecar/protocol/b3_context.py",
    "sidecar/protocol/chunked.py",
    "sidecar/protocol/fields.py",
    "sidecar/protocol/forwarded.py",
    "sidecar/protocol/framing.py",
    "sidecar/protocol/head.py",
    "sidecar/protocol/hop_by_hop.py",
    "sidecar/protocol/jaeger_context.py",
    "sidecar/protocol/max_forwards.py",
    "sidecar/protocol/request_id.py",
    "sidecar/protocol/status_line.py",
    "sidecar/protocol/target.py",
    "sidecar/protocol/trace_context.py",
    "sidecar/protocol/upgrade.py",
    "sidecar/protocol/via.py",
    "sidecar/policy/backends.py",
    "sidecar/policy/balancer.py",
    "sidecar/policy/budget.py",
    "sidecar/policy/deadline.py",
    "sidecar/policy/filters.py",
    "sidecar/policy/matching.py",
    "sidecar/policy/retry.py",
    "sidecar/policy/router.py",
    "sidecar/policy/window.py",
    "sidecar/http1/body.py",
    "sidecar/http1/connection.py",
    "sidecar/http1/idle.py",
    "sidecar/http1/relay.py",
    "sidecar/http1/server_connection.py",
    "sidecar/http1/splice.py",
    "sidecar/http1/stream.py",
    "sidecar/http1/upstream_connection.py",
    "sidecar/observe/access_log.py",
    "sidecar/observe/base.py",
    "sidecar/observe/fanout.py",
    "sidecar/observe/metrics.py",
    "sidecar/observe/recorder.py",
    "sidecar/observe/series.py",
    "sidecar/observe/tracing/attributes.py",
    "sidecar/observe/tracing/context.py",
    "sidecar/observe/tracing/encoder.py",
    "sidecar/observe/tracing/propagation.py",
    "sidecar/observe/tracing/protobuf.py",
    "sidecar/observe/tracing/record.py",
    "sidecar/upstream/base.py",
    "sidecar/upstream/native.py",
    "sidecar/tls/stream.py",
    "sidecar/upstream/pool.py",
    "sidecar/proxy/admit.py",
    "sidecar/proxy/body.py",
    "sidecar/proxy/dispatch.py",
    "sidecar/proxy/flight.py",
    "sidecar/proxy/pipeline.py",
    "sidecar/proxy/plan.py",
    "sidecar/proxy/prepare.py",
    "sidecar/proxy/relay.py",
    "sidecar/proxy/respond.py",
    "sidecar/proxy/route.py",
    "sidecar/proxy/states.py",
    "sidecar/proxy/timekeeper.py",
)
"""What a request passes, less upstream/runtime.py: nothing can refer weakly to a compiled object.
No coroutine in them awaits while it handles an exception (sidecar/proxy/pipeline.py says why); a test looks.

They are compiled together: calls between them are then calls of C.
"""


class CustomBuildHook(BuildHookInterface[Any]):
    """Called by hatchling for each wheel; the name is its interface's."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what is compiled to the wheel, which then is for one interpreter and one platform."""
        if os.environ.get(VARIABLE, "") in ("", "0") or version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-build-")
        made = compiled(Path(self.root), Path(self._folder.name))
        build_data["force_include"] |= {str(path): str(path.relative_to(self._folder.name)) for path in made}
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - the interface's
        """The wheel has been written."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compiled(root: Path, folder: Path) -> list[Path]:
    """Compile into `folder`, laid out as in site-packages. Needs mypy, setuptools, a C compiler and Python's headers."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only who compiles has it
    from setuptools import Distribution  # noqa: PLC0415 - as above

    work = folder / "work"
    with chdir(root), tempfile.TemporaryDirectory() as cache:  # relative names: tracebacks show them
        # What is not compiled is only looked at for its types; whether it is right is `make type`'s question.
        options = ["--config-file=", f"--cache-dir={cache}", "--ignore-missing-imports", "--follow-imports=silent"]
        extensions = mypycify([*options, *COMPILED], opt_level="3", debug_level="0", group_name="outrider", target_dir=str(work))
        command = Distribution({"name": "outrider", "ext_modules": extensions}).get_command_obj("build_ext")
        command.ensure_finalized()
        command.build_lib, command.build_temp = str(folder), str(work)
        command.run()
    return sorted(folder.glob("*.so")) + sorted((folder / "sidecar").rglob("*.so"))
