"""What runs radit-ray elsewhere is valid and closed: the KubeRay manifests pass the schema of their
CRD (and wrong ones do not), Ray Serve's own, and keep to token, user and limits; the Dockerfile
holds the versions of pyproject.toml and nothing of a checkout but code.

The CRDs' rules in CEL (x-kubernetes-validations) are not evaluated here, an API server does that.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import lzma
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import TypeAdapter
from ray.serve.schema import ServeDeploySchema

import radit_ray
from radit_ray.core.errors import InputError
from radit_ray.serving.config import ServeConfig

ROOT = Path(radit_ray.__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIXTURE = ROOT / "tests" / "schemas" / "kuberay.json.xz"
MANIFESTS = ("rayjob", "rayservice")
CLUSTER = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "deploy" / f"{name}.yaml").read_text()))


def closed(node: Any) -> Any:
    """A schema that refuses unknown fields, as `kubectl apply` does (an API server would drop them
    in silence).
    """
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: closed(value) for name, value in node.items()}
    open_ended = "additionalProperties" in node or "x-kubernetes-preserve-unknown-fields" in node
    if isinstance(node.get("properties"), dict) and node.get("type") == "object" and not open_ended:
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def validators() -> dict[str, jsonschema.Draft202012Validator]:
    content = json.loads(lzma.decompress(FIXTURE.read_bytes()))
    assert "kuberay v" in content["source"]
    assert content["licence"] == "Apache-2.0"
    made = {}
    for kind, schema in content["schemas"].items():
        # of metadata the CRD says "object"; its fields are Kubernetes' own
        jsonschema.Draft202012Validator.check_schema(schema)
        made[kind] = jsonschema.Draft202012Validator(closed(schema))
    return made


def problems(validators: dict[str, Any], value: dict[str, Any]) -> list[str]:
    """Where a manifest breaks its schema."""
    return [error.json_path for error in validators[value["kind"]].iter_errors(value)]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_pass_the_schema_of_their_crd(name: str, validators: dict[str, Any]) -> None:
    assert manifest(name)["apiVersion"] == "ray.io/v1"
    assert problems(validators, manifest(name)) == []


WRONG = {
    "an unknown field": (("rayClusterSpec", "authOption"), {"mode": "token"}, "rayClusterSpec"),
    "a value out of the list": (("rayClusterSpec", "authOptions", "mode"), "none", ".mode"),
    "text for a number": (("backoffLimit",), "two", ".backoffLimit"),
    "a pod without containers": (
        ("rayClusterSpec", "headGroupSpec", "template", "spec", "containers"),
        None,
        "template.spec",
    ),
    "a misspelt field of a pod": (
        ("submitterPodTemplate", "spec", "restartpolicy"),
        "Never",
        "submitterPodTemplate.spec",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_manifest_does_not_pass(what: str, validators: dict[str, Any]) -> None:
    path, value, where = WRONG[what]
    wrong = copy.deepcopy(manifest("rayjob"))  # its anchors make one object of several places
    node = wrong["spec"]
    for part in path[:-1]:
        node = node[part]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    assert any(found.endswith(where) for found in problems(validators, wrong))


def pods(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod specs of head, workers and submitter."""
    spec = value["spec"]
    cluster = spec[CLUSTER[value["kind"]]]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [group["template"] for group in groups]
    templates += [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    yield from (template["spec"] for template in templates)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_want_the_token_no_root_and_say_what_they_use(name: str) -> None:
    value = manifest(name)
    cluster = value["spec"][CLUSTER[value["kind"]]]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "radit-ray-token"}
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    for pod in pods(value):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user.groups()
        assert not pod["automountServiceAccountToken"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            known = {volume["name"] for volume in pod.get("volumes", [])}
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= known
    # no value of a secret stands in a file that is committed
    text = json.dumps(value)
    assert "RAY_AUTH_TOKEN" not in text
    assert '"kind": "Secret"' not in text
    for group in cluster["workerGroupSpecs"]:  # a stage does not wait for an autoscaler
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_the_job_of_the_manifest_is_a_command_of_radit() -> None:
    from radit_ray import commands
    from radit_ray.cli import RecipeArgs, joined
    from radit_ray.options import parse
    from radit_ray.recipes import recipe_named

    words = manifest("rayjob")["spec"]["entrypoint"].split()
    assert words[:2] == ["radit", "run"]
    args = parse(RecipeArgs, joined(words[3:]), "radit run")
    recipe = commands.changed(recipe_named(words[2]), args)
    gpus = [
        group["replicas"] * container["resources"]["limits"].get("nvidia.com/gpu", 0)
        for group in manifest("rayjob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        for container in group["template"]["spec"]["containers"]
    ]
    assert recipe.resources.gpus_per_worker * recipe.resources.num_workers == sum(gpus) == 2
    assert args.output.startswith("/shared/")


def test_the_endpoint_of_the_manifest_is_one_that_serve_and_radit_take() -> None:
    config = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.parse_obj(config)
    (application,) = parsed.applications
    there = yaml.safe_load((ROOT / "jobs" / "serve.yaml").read_text())["applications"][0]
    assert application.import_path == there["import_path"]
    served = TypeAdapter(ServeConfig).validate_python(application.args)
    (group,) = manifest("rayservice")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    needed = len(served.variants) * served.lm.replicas * served.lm.gpus  # an LM of its own each
    assert needed <= group["replicas"] * worker["resources"]["limits"]["nvidia.com/gpu"]
    # on an address of the pod nobody is answered without a token, and the pod has the file
    assert config["http_options"]["host"] == "0.0.0.0"
    for pod in list(pods(manifest("rayservice"))):
        mounts = {m["mountPath"]: m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        name = mounts[str(Path(served.token_file).parent)]
        (volume,) = (v for v in pod["volumes"] if v["name"] == name)
        assert volume["secret"] == {"secretName": "radit-serve-token", "defaultMode": 0o440}


@pytest.mark.parametrize(
    ("arguments", "where"),
    [({"run": "x", "variant": ["radit"]}, "variant"), ({"run": "x", "lm": {"gpu": 1}}, "lm.gpu")],
)
def test_a_misspelt_field_of_the_endpoint_is_named(arguments: dict[str, Any], where: str) -> None:
    from radit_ray.serving.gateway import deploy

    with pytest.raises(InputError, match=f"args of the application: {where}: Unexpected"):
        deploy(arguments)
    with pytest.raises(InputError, match=r"nowhere: no run\.json"):  # this one is well-formed
        deploy({"run": "nowhere"})


def test_every_file_names_the_versions_of_the_project() -> None:
    requirement = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray")
    built = re.search(r"^ARG RAY_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    python = re.search(r"^ARG PYTHON_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    assert built is not None
    assert python is not None
    assert built[1] in requirement.specifier
    cluster = (ROOT / "cluster.yaml").read_text()
    assert f"rayproject/ray:{built[1]}-py{python[1].replace('.', '')}-gpu" in cluster
    tag = f"radit-ray:{radit_ray.__version__}-ray{built[1]}"
    for name in MANIFESTS:
        value = manifest(name)
        assert value["spec"][CLUSTER[value["kind"]]]["rayVersion"] == built[1]
        images = {container["image"] for pod in pods(value) for container in pod["containers"]}
        assert images == {f"registry.example.com/{tag}-gpu"}
    assert set(re.findall(r"radit-ray:\S+-ray[\d.]+", DOCKERFILE)) == {tag}


def test_the_image_holds_one_faiss_no_root_and_code_alone() -> None:
    extras = PROJECT["optional-dependencies"]
    assert '"$EXTRA" != cpu && "$EXTRA" != gpu' in DOCKERFILE
    assert [name for name in ("cpu", "gpu") if any("faiss" in one for one in extras[name])] == [
        "cpu",
        "gpu",
    ]
    assert re.findall(r"\.\[(\S+)\]", DOCKERFILE) == ["$EXTRA,plots"]
    assert "plots" in extras
    last = [line for line in DOCKERFILE.splitlines() if line.startswith("USER ")][-1]
    assert last == "USER 1000:100"
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    ]
    assert ignored[0] == "*"  # all but what is named
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source.rstrip("/").split("/")[0]
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert not any(fnmatch.fnmatch(name, "*token*") for name in allowed)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = ["hadolint", str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
