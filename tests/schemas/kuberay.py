"""Writes kuberay.json.xz anew: python tests/schemas/kuberay.py JOBS.yaml SERVICES.yaml VERSION

In: `ray.io_rayjobs.yaml` and `ray.io_rayservices.yaml` of KubeRay's
helm-chart/kuberay-operator/crds/ (Apache-2.0). Out: {"source", "licence", "schemas": {kind:
openAPIV3Schema of ray.io/v1}}, without descriptions and status, which are 99% of the bytes and
check nothing.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("kuberay.json.xz")


def trimmed(node: Any) -> Any:
    """The schema without its prose; a property that is called description stays."""
    if isinstance(node, list):
        return [trimmed(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        name: trimmed(value)
        for name, value in node.items()
        if not (name == "description" and isinstance(value, str))
    }


def main(rayjobs: str, rayservices: str, version: str) -> None:
    """Reads the two CRDs and writes FILE."""
    schemas = {}
    for path in (rayjobs, rayservices):
        crd = yaml.load(Path(path).read_text(), Loader=yaml.CSafeLoader)
        (stored,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1" and v["storage"])
        schema = trimmed(stored["schema"]["openAPIV3Schema"])
        del schema["properties"]["status"]
        schemas[crd["spec"]["names"]["kind"]] = schema
    content = {
        "source": f"ray-project/kuberay {version}, helm-chart/kuberay-operator/crds",
        "licence": "Apache-2.0",
        "schemas": schemas,
    }
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    FILE.write_bytes(lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    main(*sys.argv[1:])
