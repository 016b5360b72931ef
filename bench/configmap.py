"""How fast an edit of the ConfigMap is in force, and a start without the API server: `python -m bench.configmap [EDITS]`.

A real kube-apiserver with etcd (`make tools`) and a real sidecar on this machine. Three clocks stop at the `config_applied`
line: begun before the edit is sent, when it has been accepted, and when another watch is told of it.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import Sidecar
from support.apiserver import ApiServer
from support.documents import one_upstream

EDITS = 200
STARTS = 5
PATH = "/api/v1/namespaces/default/configmaps"


def document(number: int) -> dict[str, str]:
    return {"sidecar.yaml": json.dumps(one_upstream(9, lifecycle={"drainDelay": "0s", "drainTimeout": f"{number + 1}ms"}))}


class Witness(threading.Thread):
    """Another watch; notes when it is told of each version."""

    def __init__(self, server: ApiServer, version: str) -> None:
        super().__init__(daemon=True)
        self.told: dict[str, float] = {}
        self._connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=server._admin_context(), timeout=60)
        self._connection.request("GET", f"{PATH}?watch=1&resourceVersion={version}")
        self._answer = self._connection.getresponse()

    def run(self) -> None:
        while line := self._answer.readline():
            self.told[json.loads(line)["object"]["metadata"]["resourceVersion"]] = time.time()

    def stop(self) -> None:
        self._connection.close()


def show(what: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{what:48} median {statistics.median(ordered) * 1000:6.1f} ms   p99 {p99 * 1000:6.1f} ms   max {ordered[-1] * 1000:6.1f} ms")


def edits(server: ApiServer, flags: list[str], count: int) -> None:
    first = server.admin.create("ConfigMap", "default", "bench", data=document(0))
    sent: dict[str, float] = {}
    accepted: dict[str, float] = {}
    with Sidecar(None, flags=flags) as sidecar:
        witness = Witness(server, first["metadata"]["resourceVersion"])
        witness.start()
        for number in range(1, count + 1):
            begin = time.time()
            version = server.admin.patch("ConfigMap", "default", "bench", {"data": document(number)})["metadata"]["resourceVersion"]
            sent[version], accepted[version] = begin, time.time()
            sidecar.wait_for("config_applied", revision=version)
        applied = {line["revision"]: datetime.fromisoformat(line["time"]).timestamp() for line in sidecar.events("config_applied")}
        show_memory("memory of a sidecar that follows a ConfigMap", sidecar)
    witness.join(5)
    for what, began in (("edit sent to active", sent), ("edit accepted to active", accepted), ("watch event to active", witness.told)):
        show(what, [applied[version] - began[version] for version in sent])


def show_memory(what: str, sidecar: Sidecar) -> None:
    text = Path(f"/proc/{sidecar.pid}/status").read_text("ascii")
    print(f"{what:48} {int(text.partition('VmRSS:')[2].split()[0]) / 1024:6.1f} MiB")


def starts(what: str, config: dict[str, Any] | None, flags: list[str]) -> None:
    """From the process's start to its `ready` line, the API server away."""
    seconds = []
    for _ in range(STARTS):
        begin = time.time()
        with Sidecar(config, flags=flags) as sidecar:
            seconds.append(datetime.fromisoformat(sidecar.wait_for("ready")["time"]).timestamp() - begin)
            if not flags and len(seconds) == 1:
                show_memory("memory of a sidecar that follows a file", sidecar)
    show(what, seconds)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EDITS
    with tempfile.TemporaryDirectory() as folder, ApiServer() as server:
        kubeconfig = server.kubeconfig(Path(folder) / "kubeconfig")
        followed = [f"--kubeconfig={kubeconfig}", "--configmap=default/bench"]
        alone = [*followed, f"--state-dir={folder}/state", "--config="]
        file = json.loads(document(0)["sidecar.yaml"])
        edits(server, alone, count)
        starts("start with a file alone", file, [])
        starts("start with the API server, a last good document", None, alone)
        server.pause()
        try:
            starts("start, API server silent, a last good document", None, alone)
            starts("start, API server silent, a file", file, followed)
        finally:
            server.resume()
        server.stop()
        starts("start, API server gone, a last good document", None, alone)
        server.start()


if __name__ == "__main__":
    main()
