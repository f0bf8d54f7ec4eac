"""deploy/kubernetes: what kustomize makes of it, against Kubernetes' schemas and our rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.configured import check_command, load_with_secrets
from tests.deploy.tools import DEPLOY, program, run

KUBERNETES = DEPLOY / "kubernetes"
# The oldest that knows every field, and the newest that the tool has.
VERSIONS = ("1.27", "1.37")
# Not of Kubernetes itself, so there is no schema of it here.
CUSTOM_KINDS = {"PodMonitor"}

Object = dict[str, Any]


@pytest.fixture(scope="module", params=["base", "example"])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """What is sent to the cluster."""
    kubectl = program("kubectl", source="a package of Kubernetes")
    built = run(kubectl, "kustomize", KUBERNETES / request.param)
    return [found for found in yaml.safe_load_all(built) if found]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The kind and the pod template of everything that makes pods."""
    for found in objects:
        if found["kind"] in ("Deployment", "Job"):
            yield found["kind"], found["spec"]["template"]
        elif found["kind"] == "CronJob":
            yield found["kind"], found["spec"]["jobTemplate"]["spec"]["template"]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    found = [each for each in objects if each["kind"] in kinds]
    assert found, f"there is no {' or '.join(kinds)}"
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_of_their_schemas(objects: list[Object], version: str, tmp_path: Path) -> None:
    validate = program("kubernetes-validate", source="PyPI")
    known = [each for each in objects if each["kind"] not in CUSTOM_KINDS]
    built = tmp_path / "built.yaml"
    built.write_text(yaml.safe_dump_all(known))

    said = run(validate, "--strict", "-k", version, built)

    assert said.count("passed") == len(known)


def test_pods_are_what_the_restricted_standard_asks_for(objects: list[Object]) -> None:
    for _, template in pods(objects):
        spec = template["spec"]
        assert spec["serviceAccountName"] == "relay"
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        security = spec["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == security["runAsGroup"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            resources = container["resources"]
            assert {"cpu", "memory"} == resources["requests"].keys()
            assert "memory" in resources["limits"]


def test_services_have_probes_and_time_to_drain(objects: list[Object], tmp_path: Path) -> None:
    for deployment in of_kind(objects, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        settings = load_with_secrets(*_environment(container, spec, objects), tmp_path)
        assert ports["admin"] == settings.admin_bind.port
        assert ports.get("webhooks", settings.bind.port) == settings.bind.port
        for probe, path in (
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ):
            assert container[probe]["httpGet"]["path"] == path
            assert container[probe]["httpGet"]["port"] in ports
            # The database is given 3 s.
            assert container[probe]["timeoutSeconds"] >= 3
        waits = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        seconds = float(waits[1]) if waits else 0.0
        assert spec["terminationGracePeriodSeconds"] > settings.drain_seconds + seconds


def test_relay_takes_its_settings_and_commands(objects: list[Object], tmp_path: Path) -> None:
    roles: list[str] = []
    for _, template in pods(objects):
        spec = template["spec"]
        for container in spec["containers"]:
            settings = load_with_secrets(*_environment(container, spec, objects), tmp_path)
            roles += check_command(container["args"], settings)
    assert sorted(roles) == ["admin", "forwarder", "receiver", "snapshotter"]


def _environment(
    container: Object, spec: Object, objects: list[Object]
) -> tuple[dict[str, str], set[str]]:
    """The variables that the container gets, and the paths at which it may find secrets."""
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(objects, "ConfigMap")}
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= maps[source["configMapRef"]["name"]]
    for each in container["env"]:
        chosen = each.get("valueFrom", {}).get("configMapKeyRef")
        variables[each["name"]] = (
            each["value"] if chosen is None else maps[chosen["name"]][chosen["key"]]
        )
    secrets = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
    keys = ("database-url", "encryption-keys", "admin-token")
    paths = {
        f"{mount['mountPath']}/{key}"
        for mount in container["volumeMounts"]
        if mount["name"] in secrets
        for key in keys
    }
    return variables, paths


def test_no_secret_is_in_the_files(objects: list[Object]) -> None:
    assert not [each for each in objects if each["kind"] == "Secret"]
    for settings in of_kind(objects, "ConfigMap"):
        for name in settings["data"]:
            assert not any(word in name for word in ("PASSWORD", "TOKEN", "KEYS", "DATABASE_URL"))


def test_selectors_find_pods(objects: list[Object]) -> None:
    labels = [template["metadata"]["labels"] for _, template in pods(objects)]
    for found in of_kind(objects, "Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment"):
        spec = found["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
        chosen = [each for each in labels if wanted.items() <= each.items()]
        for rule in selector.get("matchExpressions", ()):
            assert rule["operator"] == "In"
            chosen = [each for each in chosen if each[rule["key"]] in rule["values"]]
        assert chosen, f"{found['kind']} {found['metadata']['name']} selects nothing"
        if found["kind"] != "NetworkPolicy":
            assert len(chosen) == 1


def test_references_exist(objects: list[Object]) -> None:
    deployments = {each["metadata"]["name"] for each in of_kind(objects, "Deployment")}
    scaler = of_kind(objects, "HorizontalPodAutoscaler")[0]["spec"]["scaleTargetRef"]
    assert scaler["name"] in deployments
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Service")}
    for ingress in (each for each in objects if each["kind"] == "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                ports = services[backend["name"]]["ports"]
                assert backend["port"]["name"] in {port["name"] for port in ports}


def test_receivers_are_scaled_by_one_authority(objects: list[Object]) -> None:
    """A Deployment that states replicas undoes the autoscaler at every apply."""
    by_name = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Deployment")}
    assert "replicas" not in by_name["relay-receiver"]
    assert by_name["relay-forwarder"]["replicas"] >= 2
    assert of_kind(objects, "HorizontalPodAutoscaler")[0]["spec"]["minReplicas"] >= 2
