"""The manifests of infra/kuberay, as files and as kustomize builds them."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "infra" / "kuberay"
OVERLAYS = ("dev", "aws-gpu")

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    """All documents of a YAML file."""
    return [
        document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document
    ]


def source_documents() -> Iterator[tuple[Path, Manifest]]:
    """Every Kubernetes object in a file of infra/kuberay."""
    for path in sorted(KUBERAY.rglob("*.yaml")):
        for document in documents(path):
            if (
                isinstance(document, dict)
                and {"apiVersion", "kind"} <= document.keys()
                and document["kind"] not in ("Kustomization", "Component")
            ):
                yield path, document


@functools.cache
def _built(folder: Path) -> str:
    kustomize = shutil.which("kustomize")
    if kustomize is None:
        pytest.skip("no kustomize on PATH; on Debian: apt-get install kustomize")
    done = subprocess.run(
        [kustomize, "build", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(overlay: str) -> list[Manifest]:
    """All objects of an overlay; skips without kustomize."""
    return [
        document
        for document in yaml.safe_load_all(_built(KUBERAY / "overlays" / overlay))
        if document
    ]


def cluster_spec(manifest: Manifest) -> Manifest:
    """The RayCluster's spec inside a RayCluster, RayJob or RayService."""
    key = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}[
        manifest["kind"]
    ]
    spec: Manifest = manifest["spec"] if key is None else manifest["spec"][key]
    return spec


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    """The templates of all pods that a Ray manifest starts."""
    spec = cluster_spec(manifest)
    yield spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["template"]
    if "submitterPodTemplate" in manifest["spec"]:
        yield manifest["spec"]["submitterPodTemplate"]
