"""The Kubernetes manifests are complete, valid and safe, and their commands and configs exist.

KubeRay's schemas are not in this repository; they are looked for beside the checkout.
"""

import functools
import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from jobs.catalogue import JOBS, job_named
from tests.infra.manifests import (
    KUBERAY,
    OVERLAYS,
    RAY_KINDS,
    ROOT,
    built,
    cluster_spec,
    documents,
    locked,
    only,
    pod_templates,
    source_documents,
)
from tests.world.program import words_of
from xrec.config.base import parse_config
from xrec.config.serve import ServeConfig, is_loopback
from xrec.serve.app import FRONTEND, GENERATOR
from xrec.serve.artifacts import choice_of

WITH_WORKERS = ("train-adapter", "backfill", "compare")
PROJECT = KUBERAY / "base" / "project.yaml"
JOB_FOLDERS = sorted((KUBERAY / "jobs").iterdir())
SCHEMAS = [
    folder / "shared" / "schemas"
    for folder in ROOT.parents
    if (folder / "shared" / "schemas").is_dir()
]
each_ray_manifest = pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(document, id=str(path.relative_to(KUBERAY)))
        for path, document in source_documents()
        if document["kind"] in RAY_KINDS
    ],
)


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    if not SCHEMAS:
        pytest.skip("no ../shared/schemas: the schemas of KubeRay's CRDs lie beside the checkout")
    text = (SCHEMAS[0] / f"{kind.lower()}s.v1.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(_strict(json.loads(text)))


def _strict(schema: Any) -> Any:
    """The schema with unknown keys refused, which Kubernetes drops without a message."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        allowed = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        made.setdefault("additionalProperties", allowed)
    return made


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_valid(overlay):
    manifests = built(overlay, *RAY_KINDS)
    assert manifests
    found = [error for each in manifests for error in _validator(each["kind"]).iter_errors(each)]
    assert [f"{error.json_path}: {error.message}" for error in found] == []


def test_kustomizations_name_every_file_and_what_they_name_is_there():
    resources: set[Path] = set()
    for path in KUBERAY.rglob("kustomization.yaml"):
        (values,) = documents(path)
        resources |= {path.parent / name for name in values["resources"]}
        named = [*values["resources"]]
        named += [file for each in values.get("configMapGenerator", []) for file in each["files"]]
        named += [patch["path"] for patch in values.get("patches", []) if "path" in patch]
        for target in (path.parent / name for name in named):
            assert target.is_file() or (target / "kustomization.yaml").is_file(), (path, target)
    assert {path for path, _ in source_documents()} - resources == set()


def test_jobs_there_is_one_for_each_command_that_runs_on_a_cluster():
    elsewhere = {"build-sample-llm", "serve"}  # made once beside the sample; a RayService
    assert [folder.name for folder in JOB_FOLDERS] == sorted(
        job.name for job in JOBS if job.name not in elsewhere
    )


@pytest.mark.parametrize("folder", JOB_FOLDERS, ids=lambda folder: folder.name)
def test_jobs_project_has_a_config_of_that_job_and_its_entrypoint_runs_it(folder):
    assert job_named(folder.name).load_config(str(PROJECT), []).workspace.startswith("s3://")
    (values,) = documents(folder / "kustomization.yaml")
    (patch,) = values["patches"]
    changes = {change["path"]: change.get("value") for change in yaml.safe_load(patch["patch"])}
    assert shlex.split(changes["/spec/entrypoint"]) == [
        "xrec",
        *words_of(folder.name),
        "/etc/xrec/project.yaml",
    ]
    assert changes["/metadata/labels/app.kubernetes.io~1component"] == folder.name
    assert changes["/metadata/name"] == f"xrec-{folder.name}"


@pytest.mark.parametrize("name", ["pretrain-graph", *WITH_WORKERS])
def test_jobs_workers_have_room_for_what_the_config_asks(name):
    config = job_named(name).load_config(str(PROJECT), [])
    (job,) = [each for each in built("dev", "RayJob") if each["metadata"]["name"] == f"xrec-{name}"]
    (group,) = cluster_spec(job)["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = int(container["resources"]["limits"]["cpu"])
    scaling, actors = getattr(config, "scaling", None), getattr(config, "actors", None)
    num = scaling.num_workers if scaling else actors.num_actors
    each = scaling.cpus_per_worker if scaling else actors.cpus_per_actor
    assert each <= cpus
    assert num <= group["replicas"] * (cpus // each)


@each_ray_manifest
def test_ray_manifest_demands_a_token_and_names_the_ray_that_is_locked(manifest):
    spec = cluster_spec(manifest)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == ray.__version__
    assert locked("base")["ray"] == ray.__version__


@each_ray_manifest
def test_ray_manifest_pods_are_limited_and_have_no_privileges(manifest):
    templates = list(pod_templates(manifest))
    assert templates
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["image"] == "xrec"  # an overlay sets the tag
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert limits.keys() >= {"cpu", "memory"}
            assert limits["memory"] == requests["memory"]  # Ray takes the limit for what there is


def test_ray_job_waits_in_the_queue_and_has_no_autoscaler_that_kueue_would_refuse():
    job, queue = only("RayJob"), only("LocalQueue")["metadata"]["name"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]


def _serve_config() -> dict[str, Any]:
    return yaml.safe_load(only("RayService")["spec"]["serveConfigV2"])


def test_ray_service_application_exists_and_its_arguments_are_its_config():
    assert ServeDeploySchema.model_validate(_serve_config()).http_options.port == 8000
    (application,) = _serve_config()["applications"]
    module, _, function = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    config = parse_config(ServeConfig, application["args"])
    assert not is_loopback(config.http.host)
    assert config.security.keys
    assert config.workspace == documents(PROJECT)[0]["workspace"]
    found = {each["name"]: each["user_config"] for each in application["deployments"]}
    assert found == dict.fromkeys((FRONTEND, GENERATOR), choice_of(config))


def test_ray_service_reads_only_and_logs_to_the_pod():
    service = only("RayService")
    for template in pod_templates(service):
        pod = template["spec"]
        assert pod["serviceAccountName"] == "xrec-endpoint"
        (container,) = pod["containers"]
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert variables["RAY_LOG_TO_STDERR"] == "1"
    _, workers = pod_templates(service)
    assert workers["spec"]["automountServiceAccountToken"] is False
    jobs = [each for _, each in source_documents() if each["kind"] in ("RayCluster", "RayJob")]
    accounts = {pod["spec"]["serviceAccountName"] for job in jobs for pod in pod_templates(job)}
    made = [each for _, each in source_documents() if each["kind"] == "ServiceAccount"]
    assert {each["metadata"]["name"] for each in made} == accounts | {"xrec-endpoint"}
    assert "xrec-endpoint" not in accounts


def test_network_policies_deny_by_default_and_let_in_by_name_and_port_only():
    policies = {
        document["metadata"]["name"]: document["spec"]
        for _, document in source_documents()
        if document["kind"] == "NetworkPolicy"
    }
    assert policies.pop("deny-all") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"], name  # an empty or absent list means everybody
            inside = all("namespaceSelector" not in source for source in rule["from"])
            assert inside or rule["ports"], name
    metrics = policies["prometheus-to-metrics"]["ingress"][0]["ports"]
    assert [port["port"] for port in metrics] == [8080]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_builds_with_an_image_and_a_label_to_choose_by_for_everything_that_runs(overlay):
    manifests = built(overlay, *RAY_KINDS)
    assert len({(each["kind"], each["metadata"]["name"]) for each in manifests}) == len(manifests)
    assert len(manifests) == 2 + len(JOB_FOLDERS)
    for manifest in manifests:
        assert manifest["metadata"]["labels"]["app.kubernetes.io/component"]
        assert manifest["metadata"]["namespace"] == "xrec"
        pods = [template["spec"] for template in pod_templates(manifest)]
        (image,) = {container["image"] for pod in pods for container in pod["containers"]}
        assert ":" in image


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_job_mounts_the_config_that_is_built_with_it(overlay):
    configs = {each["metadata"]["name"]: each["data"] for each in built(overlay, "ConfigMap")}
    mount = {"name": "config", "mountPath": "/etc/xrec", "readOnly": True}
    for job in built(overlay, "RayJob"):
        pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        (name,) = [each["configMap"]["name"] for each in pod["volumes"] if "configMap" in each]
        assert yaml.safe_load(configs[name]["project.yaml"])["workspace"].startswith("s3://")
        assert mount in pod["containers"][0]["volumeMounts"]


def test_overlay_aws_gpu_gives_every_worker_that_generates_or_trains_a_gpu():
    with_gpu = set()
    for manifest in built("aws-gpu", *RAY_KINDS):
        groups = cluster_spec(manifest).get("workerGroupSpecs", [])
        pods = [group["template"]["spec"]["containers"][0] for group in groups]
        gpus = [pod["resources"]["limits"].get("nvidia.com/gpu") for pod in pods]
        if gpus and set(gpus) == {"1"}:
            with_gpu.add((manifest["kind"], manifest["metadata"]["name"]))
    jobs = {("RayJob", f"xrec-{name}") for name in WITH_WORKERS}
    assert with_gpu == {("RayCluster", "xrec"), ("RayService", "xrec"), *jobs}
