"""Puts the experiments file on standard input into a ConfigMap: an `--apply-command` of the autopilot, run in its pod.

`apply.py CONFIGMAP KEY SENTENCE`. The ConfigMap is changed only where it is what this pod's file says (the variable
ABFLEET_EXPERIMENTS), so that an edit that the kubelet has not brought yet is not overwritten; and by its
resourceVersion, so that one of the same moment is not either. Then it ends with 1, and the autopilot tries again.
Where another program keeps the ConfigMap (Argo CD, Flux), give the autopilot a command that commits to its repository.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECONDS = 20.0


def main(name: str, key: str, sentence: str) -> int:
    """Exit code: 0 where the ConfigMap has the new file, 1 where it has not, with the reason on standard error."""
    wanted = sys.stdin.read()
    mounted = Path(os.environ["ABFLEET_EXPERIMENTS"]).read_text(encoding="utf-8")
    try:
        live = asked("GET", name)
        text = live["data"][key]
        if text == wanted:
            return 0
        if text != mounted:
            print("the ConfigMap was changed, and this pod does not have the change yet", file=sys.stderr)
            return 1
        version = live["metadata"]["resourceVersion"]
        notes = {"abfleet/last-act": sentence}
        asked("PATCH", name, {"metadata": {"resourceVersion": version, "annotations": notes}, "data": {key: wanted}})
    except urllib.error.HTTPError as error:
        print(f"the API server answered {error.code} {error.reason}", file=sys.stderr)
        return 1
    except (OSError, KeyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def asked(method: str, name: str, patch: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the API server answers. Raises OSError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    namespace = (ACCOUNT / "namespace").read_text().strip()
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/configmaps/{name}",
        data=None if patch is None else json.dumps(patch).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/merge-patch+json",
        },
        method=method,
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:4]))
