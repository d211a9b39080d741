"""The InferenceService of a promoted model: its manifest, and applying it to a cluster."""

from __future__ import annotations

from typing import Literal

from vhm.errors import InputError, ServeError
from vhm.io import JsonObject
from vhm.recipe import Recipe

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"


def inference_service(model_uri: str, recipe: Recipe, canary: int | None = None) -> JsonObject:
    """The InferenceService for the model at `model_uri` (s3://…, pvc://…), served by the runtime in manifests/.

    `canary` is the percentage of the traffic that the model receives; the rest goes to the one promoted before.
    """
    if "://" not in model_uri:
        raise InputError(f"model URI {model_uri!r} has no scheme: give s3://…, pvc://… or another storage URI")
    if canary is not None and not 0 <= canary <= 100:
        raise InputError(f"--canary {canary}: give a percentage from 0 to 100")
    resources = {"cpu": recipe.cluster.cpu, "memory": recipe.cluster.memory}
    if recipe.cluster.gpus:
        resources["nvidia.com/gpu"] = str(recipe.cluster.gpus)
    predictor: JsonObject = {
        "model": {
            "modelFormat": {"name": "vhm"},
            "runtime": "vhm",
            "protocolVersion": "v2",
            "storageUri": model_uri,
            "resources": {"requests": resources, "limits": resources},
        },
        "minReplicas": 1,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    if canary is not None:
        predictor["canaryTrafficPercent"] = canary
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "InferenceService",
        "metadata": {"name": recipe.serving.name, "namespace": recipe.cluster.namespace},
        "spec": {"predictor": predictor},
    }


def apply(service: JsonObject) -> Literal["created", "configured"]:
    """Create the InferenceService in the current cluster, or update it where it exists.

    Raises ServeError when no cluster is configured, it does not answer, or it refuses the InferenceService.
    """
    from kubernetes import client
    from kubernetes.client.rest import ApiException

    _load_cluster_configuration()
    objects = client.CustomObjectsApi()
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    try:
        try:
            objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, service)
            return "created"
        except ApiException as error:
            if error.status != 409:  # it exists
                raise
            objects.patch_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name, service)
            return "configured"
    except ApiException as error:
        raise ServeError(f"the cluster refused InferenceService {namespace}/{name}: {error.reason}") from None
    except Exception as error:
        raise ServeError(f"the cluster does not answer ({type(error).__name__})") from None


def _load_cluster_configuration() -> None:
    """From $KUBECONFIG or ~/.kube/config, else from the pod's service account."""
    from kubernetes import config

    try:
        config.load_kube_config()
    except config.ConfigException:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            raise ServeError("no Kubernetes cluster is configured: set KUBECONFIG, or use --dry-run") from None
