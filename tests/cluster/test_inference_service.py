"""The InferenceService's manifest, and applying it to an API server that speaks Kubernetes' protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from vhm.cluster.inference_service import apply, inference_service
from vhm.errors import InputError, ServeError
from vhm.recipe import load_recipe

PATH = "/apis/serving.kserve.io/v1beta1/namespaces/vhm/inferenceservices"


class ApiServer(HTTPServer):
    """Answers requests with `statuses` in turn and records them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.requests: list[tuple[str, str, dict]] = []


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.command, self.path, body))
        content = b"{}"
        self.send_response(self.server.statuses.pop(0))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PATCH = _answer

    def log_message(self, *_: object) -> None:
        """Print nothing: the requests are recorded."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    server = ApiServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    named = {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}, "name": "test"}
    configuration = {
        "clusters": [named],
        "contexts": [{"context": {"cluster": "test", "user": "test"}, "name": "test"}],
        "users": [{"name": "test", "user": {}}],
        "current-context": "test",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(configuration))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def service() -> dict:
    return inference_service("s3://models/vhm", load_recipe("tiny", ["cluster.namespace=vhm"]))


def test_the_canary_percentage_is_in_the_manifest_when_given() -> None:
    recipe = load_recipe("tiny")
    assert inference_service("s3://models/vhm", recipe, 10)["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert inference_service("s3://models/vhm", recipe, 0)["spec"]["predictor"]["canaryTrafficPercent"] == 0
    assert "canaryTrafficPercent" not in inference_service("s3://models/vhm", recipe)["spec"]["predictor"]


@pytest.mark.parametrize(
    ("uri", "canary", "message"),
    [
        ("models/vhm", None, "has no scheme: give s3://"),
        ("s3://models/vhm", 101, "--canary 101: give a percentage"),
        ("s3://models/vhm", -1, "--canary -1: give a percentage"),
    ],
)
def test_a_wrong_uri_or_percentage_is_an_error(uri: str, canary: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inference_service(uri, load_recipe("tiny"), canary)


def test_gpus_are_requested_when_the_recipe_has_them() -> None:
    def resources(gpus: int) -> dict:
        manifest = inference_service("s3://models/vhm", load_recipe("tiny", [f"cluster.gpus={gpus}"]))
        return manifest["spec"]["predictor"]["model"]["resources"]["limits"]

    assert resources(2)["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in resources(0)


def test_a_new_inference_service_is_created(cluster: ApiServer) -> None:
    cluster.statuses = [201]
    assert apply(service()) == "created"
    assert cluster.requests == [("POST", PATH, service())]


def test_an_existing_inference_service_is_updated(cluster: ApiServer) -> None:
    cluster.statuses = [409, 200]
    assert apply(service()) == "configured"
    assert cluster.requests == [("POST", PATH, service()), ("PATCH", f"{PATH}/vhm", service())]


def test_a_refusal_names_the_inference_service_and_the_reason(cluster: ApiServer) -> None:
    cluster.statuses = [403]
    with pytest.raises(ServeError, match="the cluster refused InferenceService vhm/vhm: Forbidden"):
        apply(service())


def test_an_unreachable_cluster_is_an_error(cluster: ApiServer) -> None:
    cluster.shutdown()
    cluster.server_close()
    with pytest.raises(ServeError, match="the cluster does not answer"):
        apply(service())


def test_without_a_configured_cluster_the_error_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "absent"))
    with pytest.raises(ServeError, match="no Kubernetes cluster is configured: set KUBECONFIG"):
        apply(service())
