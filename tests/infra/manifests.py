"""The manifests of infra/kuberay, as files and as built by kustomize; the lists of packages."""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "infra" / "kuberay"
OVERLAYS = ("dev", "aws-gpu")
RAY_KINDS = ("RayCluster", "RayJob", "RayService")

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def source_documents() -> Iterator[tuple[Path, Manifest]]:
    for path in sorted(KUBERAY.rglob("*.yaml")):
        for document in documents(path):
            kind = document.get("kind") if isinstance(document, dict) else None
            if kind not in (None, "Kustomization", "Component"):
                yield path, document


def only(kind: str) -> Manifest:
    (found,) = [document for _, document in source_documents() if document["kind"] == kind]
    return found


@functools.cache
def _built(folder: Path) -> str:
    if not (program := shutil.which("kustomize") or shutil.which("kubectl")):
        pytest.skip("neither kustomize nor kubectl on PATH; on Debian: apt-get install kustomize")
    command = [program, "build" if program.endswith("kustomize") else "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(overlay: str, *kinds: str) -> list[Manifest]:
    """Return the objects of an overlay of these kinds; skips without kustomize and kubectl."""
    found = yaml.safe_load_all(_built(KUBERAY / "overlays" / overlay))
    return [document for document in found if document and document["kind"] in kinds]


def cluster_spec(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(manifest["kind"])
    return spec[key] if key else spec


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    spec = cluster_spec(manifest)
    yield spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["template"]
    if "submitterPodTemplate" in manifest["spec"]:
        yield manifest["spec"]["submitterPodTemplate"]


def requirements_of(wanted: Requirement) -> Iterator[Requirement]:
    """What an installed package requires here; nothing of one that is not installed."""
    try:
        found = map(Requirement, requires(wanted.name) or [])
    except PackageNotFoundError:  # of another platform, or of an extra that is not installed
        return
    for each in found:
        extras = wanted.extras or {""}
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
            yield each


def locked(name: str) -> dict[str, str]:
    """Return the versions in requirements/NAME.txt by package. Each package must have a hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    lines = re.sub(r" \\\n +", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    pattern = r"([\w.-]+)==([\w.+]+)( ; [^\\]+?)?( --hash=sha256:[0-9a-f]{64})+"
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1]: match[2] for match in matches if match}
