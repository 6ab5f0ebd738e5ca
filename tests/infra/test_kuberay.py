"""The Kubernetes manifests are complete, valid and safe, and their commands and configs exist.

They are read as files, and as built by kustomize. KubeRay's schemas are read from a folder beside
the checkout, if it exists.
"""

import functools
import importlib
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.world.program import words_of
from xrec.cli.main import app
from xrec.config import CONFIG_TYPES, ServeConfig, is_loopback, load_config, parse_config
from xrec.serve.app import FRONTEND, GENERATOR
from xrec.serve.artifacts import choice_of

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "infra" / "kuberay"
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
PROJECT = KUBERAY / "base" / "project.yaml"
OVERLAYS = sorted(folder.name for folder in (KUBERAY / "overlays").iterdir())
SCHEMAS = [each / "shared/schemas" for each in ROOT.parents if (each / "shared/schemas").is_dir()]
Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return [each for each in yaml.load_all(path.read_bytes(), yaml.CSafeLoader) if each]


NOT_APPLIED = (None, "Kustomization", "Component")
FILES = [
    document
    for path in sorted(KUBERAY.rglob("*.yaml"))
    for document in documents(path)
    if isinstance(document, dict) and document.get("kind") not in NOT_APPLIED
]


def of_kinds(*kinds: str) -> list[Manifest]:
    return [document for document in FILES if document["kind"] in kinds]


@functools.cache
def built(overlay: str, *kinds: str) -> list[Manifest]:
    """Return the objects of an overlay of these kinds."""
    if not (program := shutil.which("kustomize") or shutil.which("kubectl")):
        pytest.skip("neither kustomize nor kubectl on PATH; on Debian: apt-get install kustomize")
    folder = str(KUBERAY / "overlays" / overlay)
    command = [program, "build" if program.endswith("kustomize") else "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = yaml.load_all(done.stdout, yaml.CSafeLoader)
    return [each for each in found if each and each["kind"] in kinds]


def cluster_spec(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(manifest["kind"])
    return spec[key] if key else spec


def pod_templates(manifest: Manifest) -> list[Manifest]:
    spec = cluster_spec(manifest)
    groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]
    submitter = manifest["spec"].get("submitterPodTemplate")
    return [*(group["template"] for group in groups), *([submitter] if submitter else [])]


def strict(schema: Any) -> Any:
    """Return the schema with unknown keys refused, which Kubernetes silently drops."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        allowed = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        made.setdefault("additionalProperties", allowed)
    return made


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    if not SCHEMAS:
        pytest.skip("no ../shared/schemas: the schemas of KubeRay's CRDs lie beside the checkout")
    text = (SCHEMAS[0] / f"{kind.lower()}s.v1.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(strict(json.loads(text)))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_valid(overlay):
    found = [
        f"{error.json_path}: {error.message}"
        for manifest in built(overlay, *RAY_KINDS)
        for error in validator(manifest["kind"]).iter_errors(manifest)
    ]
    assert found == []


@pytest.mark.parametrize("overlay", ["dev", "gpu8"])
def test_project_of_an_overlay_replaces_that_of_the_base_and_is_valid_for_each_job(overlay):
    project = KUBERAY / "overlays" / overlay / "project.yaml"
    (made,) = built(overlay, "ConfigMap")
    assert made["metadata"]["name"] == "xrec-project"
    assert made["metadata"]["labels"] == {"app.kubernetes.io/component": "base"}
    assert made["data"] == {"project.yaml": project.read_text()}
    jobs = [found["metadata"]["name"].removeprefix("xrec-") for found in built(overlay, "RayJob")]
    for job in jobs:
        assert load_config(CONFIG_TYPES[job], project).workspace.startswith("s3://")


def requested(manifest: Manifest, resource: str) -> float:
    """Return the CPUs, or GiB of memory, that all pods request, with all workers."""
    spec = cluster_spec(manifest)
    pods = [(1, spec["headGroupSpec"]["template"])]
    groups = spec.get("workerGroupSpecs", [])
    pods += [(group["maxReplicas"], group["template"]) for group in groups]
    pods += [(1, manifest["spec"].get("submitterPodTemplate", {"spec": {"containers": []}}))]
    containers = [(count, each) for count, pod in pods for each in pod["spec"]["containers"]]
    containers += [(1, spec[name]) for name in ("autoscalerOptions",) if name in spec]
    return sum(n * quantity(each["resources"]["requests"][resource]) for n, each in containers)


def quantity(text: str) -> float:
    """Return an amount of CPUs, or of memory in GiB."""
    units = {"Gi": 1.0, "Mi": 1 / 1024, "m": 1 / 1000}
    unit = next((each for each in units if text.endswith(each)), "")
    return float(text.removesuffix(unit)) * units.get(unit, 1)


def test_each_part_of_the_overlay_for_a_laptop_fits_four_cpus_and_eight_gib():
    """One CPU and one GiB are left for Kubernetes itself."""
    for manifest in built("dev", *RAY_KINDS):
        assert requested(manifest, "cpu") <= 3, manifest["metadata"]["name"]
        assert requested(manifest, "memory") <= 7, manifest["metadata"]["name"]


def test_overlay_of_eight_gpus_has_as_many_as_its_project_wants():
    project = KUBERAY / "overlays" / "gpu8" / "project.yaml"
    jobs = {found["metadata"]["name"]: found for found in built("gpu8", "RayJob")}
    others = {found["kind"]: found for found in built("gpu8", "RayCluster", "RayService")}
    wanted = {
        "train-adapter": load_config(CONFIG_TYPES["train-adapter"], project).workers,
        "backfill": load_config(CONFIG_TYPES["backfill"], project).actors,
        "compare": load_config(CONFIG_TYPES["compare"], project).actors,
    }
    for job, processes in wanted.items():
        for manifest in (jobs[f"xrec-{job}"], others["RayCluster"]):
            *_, group = cluster_spec(manifest)["workerGroupSpecs"]  # before it may be drivers
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert group["maxReplicas"] * int(limits["nvidia.com/gpu"]) == processes.num_processes
            assert processes.num_processes == 8
            assert int(limits["cpu"]) >= processes.cpus
            assert group["template"]["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_each_command_that_runs_on_a_cluster_has_a_job():
    elsewhere = {"build-sample-llm", "serve"}  # made once beside the sample; a RayService
    folders = sorted((KUBERAY / "jobs").iterdir())
    assert [folder.name for folder in folders] == sorted({*CONFIG_TYPES} - elsewhere)
    for folder in folders:
        assert load_config(CONFIG_TYPES[folder.name], PROJECT).workspace.startswith("s3://")
        (patch,) = documents(folder / "kustomization.yaml")[0]["patches"]
        changes = {each["path"]: each.get("value") for each in yaml.safe_load(patch["patch"])}
        command = ["xrec", *words_of(folder.name), "/etc/xrec/project.yaml"]
        assert shlex.split(changes["/spec/entrypoint"]) == command
        assert changes["/metadata/labels/app.kubernetes.io~1component"] == folder.name
        assert changes["/metadata/name"] == f"xrec-{folder.name}"


@pytest.mark.parametrize("overlay", ["dev", "aws-gpu"])
def test_nights_submit_commands_that_exist_to_the_cluster_and_its_drivers(overlay):
    """They fail for good on the exit codes that another try does not change."""
    (cluster,), nights = built(overlay, "RayCluster"), built(overlay, "CronJob")
    (drivers,) = [g for g in cluster["spec"]["workerGroupSpecs"] if g["groupName"] == "drivers"]
    assert {night["metadata"]["name"] for night in nights} == {"xrec-refresh", "xrec-forget"}
    for spec in (night["spec"]["jobTemplate"]["spec"] for night in nights):
        (rule,) = spec["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"]["values"] == [2, 3, 4]
        (container,) = spec["template"]["spec"]["containers"]
        variables = {each["name"]: each.get("value") for each in container["env"]}
        name = cluster["metadata"]["name"]
        assert variables["RAY_API_SERVER_ADDRESS"] == f"http://{name}-head-svc:8265"
        words = shlex.split(container["args"][0])
        resource = words[words.index("--driver") + 1]
        assert json.loads(json.loads(drivers["rayStartParams"]["resources"])) == {resource: 1}
        assert words[:2] == ["xrec", "submit"]
        given = typer.main.get_command(app).commands["submit"].make_context("submit", words[2:])
        assert given.params["key"] == "$(date +%F)"


def test_budgets_of_disruptions_select_pods_and_say_how_many_stay():
    """KubeRay's pods have no scale subresource; a budget of theirs cannot use anything else."""
    for spec in (each["spec"] for each in of_kinds("PodDisruptionBudget")):
        assert spec.keys() == {"minAvailable", "selector"}
        assert isinstance(spec["minAvailable"], int)
        assert all(label.startswith("ray.io/") for label in spec["selector"]["matchLabels"])


def test_folders_of_pods_on_a_disk_are_bounded():
    for template in (each for found in of_kinds(*RAY_KINDS) for each in pod_templates(found)):
        for volume in template["spec"].get("volumes", []):
            assert "emptyDir" not in volume or volume["emptyDir"].keys() == {"sizeLimit"}


def test_ray_manifests_require_a_token_and_have_the_locked_ray():
    assert f"\nray=={ray.__version__} " in (ROOT / "requirements" / "base.txt").read_text()
    for spec in map(cluster_spec, of_kinds(*RAY_KINDS)):
        assert (spec["authOptions"], spec["rayVersion"]) == ({"mode": "token"}, ray.__version__)


def test_ray_pods_are_limited_and_have_no_privileges():
    rights = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for template in (each for found in of_kinds(*RAY_KINDS) for each in pod_templates(found)):
        context = template["spec"]["securityContext"]
        assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 1000)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            assert container["image"] == "xrec"  # an overlay sets the tag
            assert container["securityContext"] == rights
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert limits.keys() >= {"cpu", "memory"}
            assert limits["memory"] == requests["memory"]  # Ray takes the limit for what there is


def test_application_of_the_ray_service_exists_and_has_a_valid_config():
    values = yaml.safe_load(of_kinds("RayService")[0]["spec"]["serveConfigV2"])
    assert ServeDeploySchema.model_validate(values).http_options.port == 8000
    (application,) = values["applications"]
    module, _, function = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    config = parse_config(ServeConfig, application["args"])
    assert not is_loopback(config.http.host)
    assert config.keys
    assert config.workspace == documents(PROJECT)[0]["workspace"]
    found = {each["name"]: each["user_config"] for each in application["deployments"]}
    assert found == dict.fromkeys((FRONTEND, GENERATOR), choice_of(config))


def test_network_policies_deny_by_default_and_allow_named_sources_and_ports():
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kinds("NetworkPolicy")}
    assert policies.pop("deny-all") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"], name  # an empty or absent list means everybody
            inside = all("namespaceSelector" not in source for source in rule["from"])
            assert inside or rule["ports"], name
    metrics = policies["prometheus-to-metrics"]["ingress"][0]["ports"]
    assert [port["port"] for port in metrics] == [8080]
