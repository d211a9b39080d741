"""Manifests: schema-valid if the schemas are available, hardened, one image, and equal to what the commands print."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import vhm
from components import IMAGE, IMAGE_NAME
from vhm.cluster.inference_service import inference_service
from vhm.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT.parent / "shared" / "crds"
DOCUMENTS = [
    (path.relative_to(ROOT), document)
    for path in sorted((ROOT / "manifests").rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def schema_of(document: dict[str, Any]) -> dict[str, Any]:
    group, _, version = document["apiVersion"].partition("/")
    for path in SCHEMAS.glob(f"{group}_*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        if definition["names"]["kind"] == document["kind"]:
            return next(v for v in definition["versions"] if v["name"] == version)["schema"]["openAPIV3Schema"]
    raise AssertionError(f"no schema for {document['kind']}")


@pytest.mark.parametrize(("path", "document"), DOCUMENTS, ids=[f"{p}-{d['kind']}" for p, d in DOCUMENTS])
def test_custom_resources_fit_their_schemas(path: Path, document: dict[str, Any]) -> None:
    assert {"apiVersion", "kind"} <= set(document)
    if not document["apiVersion"].startswith(("serving.kserve.io", "trainer.kubeflow.org")):
        return
    if not SCHEMAS.is_dir():
        pytest.skip("the schemas of KServe and Kubeflow Trainer are not next to this checkout")
    jsonschema.validate(document, schema_of(document))


def containers(value: Any) -> list[dict[str, Any]]:
    """Every container below `value`."""
    if isinstance(value, list):
        return [container for child in value for container in containers(child)]
    if not isinstance(value, dict):
        return []
    own = [container for container in value.get("containers", []) if isinstance(container, dict)]
    return own + [container for child in value.values() for container in containers(child)]


def test_every_container_is_confined() -> None:
    all_containers = [c for _, document in DOCUMENTS for c in containers(document)]
    assert len(all_containers) == 2
    for container in all_containers:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])


def test_nothing_is_allowed_by_default() -> None:
    policies = [d for _, d in DOCUMENTS if d["kind"] == "NetworkPolicy"]
    deny = next(p for p in policies if p["metadata"]["name"] == "default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_tag_of_the_image_is_the_version_of_the_package() -> None:
    """Manifests name the image without a tag; the kustomization sets the package's version, as components do."""
    assert {container["image"] for _, document in DOCUMENTS for container in containers(document)} == {IMAGE_NAME}
    [image] = yaml.safe_load((ROOT / "manifests/base/kustomization.yaml").read_text())["images"]
    assert (image["name"], image["newTag"]) == (IMAGE_NAME, vhm.__version__)
    compiled = next(yaml.safe_load_all((ROOT / "pipelines/vhm.yaml").read_text()))
    executors = compiled["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {IMAGE}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "vhm/__init__.py"
    for name in ("Makefile", "Containerfile", "components/__init__.py"):
        assert vhm.__version__ not in (ROOT / name).read_text()


def test_the_inference_service_is_what_vhm_deploy_prints() -> None:
    kept = yaml.safe_load((ROOT / "manifests/base/inference-service.yaml").read_text())
    assert kept == inference_service("s3://models/vhm", load_recipe("vhm-7b"))
