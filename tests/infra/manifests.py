"""The manifests of infra/kuberay, as files and as built by kustomize."""

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
    """Return all documents of a YAML file."""
    return [
        document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document
    ]


def source_documents() -> Iterator[tuple[Path, Manifest]]:
    """Yield every Kubernetes object in the files of infra/kuberay, with its path."""
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
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl on PATH; on Debian: apt-get install kustomize")
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(overlay: str) -> list[Manifest]:
    """Return all objects of an overlay; skips the test without kustomize and kubectl."""
    return [
        document
        for document in yaml.safe_load_all(_built(KUBERAY / "overlays" / overlay))
        if document
    ]


def cluster_spec(manifest: Manifest) -> Manifest:
    """Return the RayCluster's spec inside a RayCluster, RayJob or RayService."""
    key = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}[
        manifest["kind"]
    ]
    spec: Manifest = manifest["spec"] if key is None else manifest["spec"][key]
    return spec


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    """Yield the templates of all pods that a Ray manifest starts."""
    spec = cluster_spec(manifest)
    yield spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["template"]
    if "submitterPodTemplate" in manifest["spec"]:
        yield manifest["spec"]["submitterPodTemplate"]
