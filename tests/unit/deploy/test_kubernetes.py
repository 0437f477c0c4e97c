"""Do the files of deploy/kubernetes fit Kubernetes' schemas, the settings, the commands and Dagster's launcher?

No cluster is at hand. The manifests are held to the schemas of Kubernetes' API; Dagster loads the instance that its
Helm chart would render, as far as the chart's templates say (dagster-io/dagster, helm/dagster/templates); and the
launcher posts its Job for real, to a server of the test's own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.launcher import LaunchRunContext
from dagster_k8s import K8sRunLauncher
from typer.main import get_command

from email_platform.adapters.dagster_yaml import production_dagster_yaml
from email_platform.cli.app import app
from email_platform.settings import Settings, variable_of

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
KUBERNETES = "1.37"
SERVED = ("receiver", "api")
NAMESPACE = "email-platform"
# How long a step may need after a signal: the provider's answer, and then the ledger's and the bucket's.
AFTER_THE_ANSWER_SECONDS = 30


def objects() -> list[dict[str, Any]]:
    """Every object of every manifest."""
    paths = [path for path in sorted(FOLDER.glob("*/*.yaml")) if path.name != "kustomization.yaml"]
    assert len(paths) == 7
    return [one for path in paths for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects() if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The pods' specs by the name of what makes them."""
    return {
        name: one["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for name, one in of_kind(kind).items()
    }


@pytest.mark.parametrize("one", objects(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_every_object_fits_the_schema_of_kubernetes_api(one: dict[str, Any]) -> None:
    if one["kind"] == "ScaledObject":
        assert one["apiVersion"] == "keda.sh/v1alpha1", "of KEDA, whose schema is not among Kubernetes' own"
        return
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_refused() -> None:
    wrong = {**of_kind("Job")["migrate"], "spec": {"templates": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_every_kustomization_names_the_files_that_are_there() -> None:
    for path in sorted(FOLDER.glob("*/kustomization.yaml")):
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        there = {file.name for file in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed["resources"] if name != "../config"} == there
        assert listed["namespace"] == NAMESPACE


def test_every_container_runs_a_command_that_exists_as_nobody_special_within_limits() -> None:
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            program, command = container["args"][:2]
            assert program == "email-platform"
            assert command in commands
            assert container["resources"]["limits"]["memory"], name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_what_serves_has_probes_at_least_two_pods_and_is_never_gone_at_once() -> None:
    for name in SERVED:
        (container,) = pods()[name]["containers"]
        port = container["args"][-1]
        assert str(container["ports"][0]["containerPort"]) == port
        assert str(Settings.model_fields[f"{name}_port"].default) == port
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"
        assert {"startupProbe", "livenessProbe", "lifecycle"} <= set(container)
        assert of_kind("HorizontalPodAutoscaler")[name]["spec"]["minReplicas"] == 2
        assert of_kind("Service")[name]["spec"]["selector"] == {"app.kubernetes.io/name": name}
    for name, budget in of_kind("PodDisruptionBudget").items():
        labels = of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_stop_leaves_the_time_to_see_calls_to_their_end() -> None:
    needed = Settings.model_fields["provider_answer_seconds"].default + AFTER_THE_ANSWER_SECONDS
    assert pods()["worker"]["terminationGracePeriodSeconds"] >= needed
    run = VALUES["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["podSpecConfig"]
    assert run["terminationGracePeriodSeconds"] >= needed
    for name in SERVED:
        assert pods()[name]["terminationGracePeriodSeconds"] >= 30 + 5, "as compose.yaml, and the sleep before it"


def test_settings_are_ones_that_somebody_reads_and_no_secret_is_among_them(tmp_path: Path) -> None:
    data = of_kind("ConfigMap")["email-platform"]["data"]
    secrets = {
        "EMAIL_PLATFORM_POSTGRES_URL": "postgresql+psycopg://u:p@h/d",
        "EMAIL_PLATFORM_DAGSTER_POSTGRES_URL": "postgresql+psycopg2://u:p@h/d",
        "EMAIL_PLATFORM_CLICKHOUSE_URL": "http://u:p@h/d",
        "EMAIL_PLATFORM_UNSUBSCRIBE_SECRET": "0123456789abcdef",
    }
    settings = Settings.load({**data, **secrets}, state_folder=tmp_path)
    known = {variable_of(name) for name in Settings.model_fields}
    assert {name for name in data if not name.startswith("EMAIL_PLATFORM_SES_")} <= known
    assert not data.keys() & secrets.keys()
    runs = VALUES["additionalInstanceConfig"]["concurrency"]["runs"]["max_concurrent_runs"]
    assert settings.max_concurrent_runs == runs
    assert not of_kind("Secret"), "a Secret is made from a file that is in no repository"


# --- Dagster ------------------------------------------------------------------------------------------------


def test_the_chart_s_instance_is_ours_but_for_its_launcher_storage_and_telemetry() -> None:
    runs = VALUES["additionalInstanceConfig"]["concurrency"]["runs"]["max_concurrent_runs"]
    ours = yaml.safe_load(production_dagster_yaml(runs))
    for name in ("storage", "run_launcher", "telemetry", "compute_logs"):
        ours.pop(name)
    assert VALUES["additionalInstanceConfig"] == ours, "copy it from `email-platform dagster-yaml`"
    daemon = VALUES["dagsterDaemon"]
    for part in ("runCoordinator", "runMonitoring", "runRetries"):
        assert daemon[part] == {"enabled": False}, "the chart would write the same key a second time"
    assert not daemon["sensors"]["useThreads"]
    assert not VALUES["retention"]["enabled"]
    assert VALUES["telemetry"] == {"enabled": False}
    logs = VALUES["computeLogManager"]["config"]["s3ComputeLogManager"]
    assert logs == yaml.safe_load(production_dagster_yaml(runs))["compute_logs"]["config"]


def rendered_launcher(kubeconfig: Path) -> dict[str, Any]:
    """The run launcher's part of ``dagster.yaml`` as the chart renders it (``_run-launcher.tpl``)."""
    values = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    return {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {
            "load_incluster_config": False,  # the cluster of the test has a file
            "kubeconfig_file": str(kubeconfig),
            "job_namespace": NAMESPACE,
            "image_pull_policy": values["imagePullPolicy"],
            "service_account_name": "dagster",
            "dagster_home": {"env": "DAGSTER_HOME"},
            "instance_config_map": "dagster-instance",
            "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
            "env_config_maps": [one["name"] for one in values["envConfigMaps"]],
            "env_secrets": [one["name"] for one in values["envSecrets"]],
            "fail_pod_on_run_failure": values["failPodOnRunFailure"],
            "resources": values["resources"],
            "run_k8s_config": {
                _snake(name): part for name, part in values["runK8sConfig"].items()
            },
        },
    }  # fmt: skip


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


@contextmanager
def api_server(tmp_path: Path) -> Iterator[tuple[Path, list[tuple[str, dict[str, Any]]]]]:
    """A Kubernetes API that takes Jobs; yields its kubeconfig, and what was posted."""
    posted: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # its base class's name
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            posted.append((self.path, body))
            answer = json.dumps(body).encode()
            self.send_response(201)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "own", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "own", "user": {}}],
                "contexts": [{"name": "own", "context": {"cluster": "own", "user": "own"}}],
                "current-context": "own",
            }
        ),
        encoding="utf-8",
    )
    try:
        yield kubeconfig, posted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def a_job() -> dg.JobDefinition:
    @dg.job(name="campaign_job")
    def job() -> None: ...

    return job


def test_the_launcher_posts_a_job_that_kubernetes_takes_with_its_secrets_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("EMAIL_PLATFORM_POSTGRES_URL", "postgresql://u:never-in-a-manifest@h/d")
    values = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    with api_server(tmp_path) as (kubeconfig, posted):
        config = {**VALUES["additionalInstanceConfig"], "run_launcher": rendered_launcher(kubeconfig)}
        (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            launcher = instance.run_launcher
            assert isinstance(launcher, K8sRunLauncher)
            origin = dg.reconstructable(a_job).get_python_origin()
            origin = origin._replace(
                repository_origin=origin.repository_origin._replace(container_image="registry.example.com/image:1")
            )
            run = instance.create_run_for_job(a_job(), tags={"email_platform/campaign_id": "7"}, job_code_origin=origin)
            launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    ((path, job),) = posted
    assert path.partition("?")[0] == f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    assert job["spec"]["backoffLimit"] == 0
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/image:1"
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert container["resources"] == values["resources"]
    assert {"secretRef": {"name": "email-platform"}} in container["envFrom"]
    assert {"configMapRef": {"name": "email-platform"}} in container["envFrom"]
    assert (
        pod["terminationGracePeriodSeconds"] == values["runK8sConfig"]["podSpecConfig"]["terminationGracePeriodSeconds"]
    )
    assert pod["securityContext"]["runAsNonRoot"]
    assert "never-in-a-manifest" not in json.dumps(job)
    names = {one["name"]: one for one in container["env"]}
    assert "value" not in names["DAGSTER_PG_PASSWORD"], "by reference"
