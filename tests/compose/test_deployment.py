"""Images, compose file and manifests against the code: flags, ports, names, drains and pins agree. Starts nothing."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from abfleet_autopilot.settings import declared as declared_autopilot
from abfleet_autopilot.settings import parse as parse_autopilot
from abfleet_dashboard.settings import parse as parse_dashboard
from abfleet_process.flags import SettingsError
from abfleet_router.settings import parse as parse_router
from abfleet_worker.settings import parse as parse_worker

from tests.support.fleet import ROOT

COMPOSE = ROOT / "compose"
KUBERNETES = COMPOSE / "kubernetes"
AUTOPILOT = KUBERNETES / "components" / "autopilot"
OVERLAYS = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
PARSERS = {"router": parse_router, "worker": parse_worker}
VALIDATOR = shutil.which("kubernetes-validate") or shutil.which("kubernetes-validate", path=Path(sys.executable).parent)
KUSTOMIZE = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
EXPERIMENTS = yaml.safe_load((ROOT / "experiments" / "recommender.yaml").read_text())
TARGETS = {version: model["target"].removeprefix("dns:///") for version, model in EXPERIMENTS["models"].items()}
"""Version to HOST:PORT, as the file that ships has them."""


def image_environment(kind: str) -> dict[str, str]:
    """The settings in the ENV of an image's last stage; the commit that it is built from is none."""
    text = (COMPOSE / f"{kind}.Dockerfile").read_text().split("\nFROM ")[-1]
    return {name: value for name, value in re.findall(r"(ABFLEET_\w+)=(\S+)", text) if name != "ABFLEET_REVISION"}


def compose_file() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text())
    return document


def manifests(folder: Path) -> list[dict[str, Any]]:
    """Every object of a folder's manifests."""
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    files = [folder / name for name in names if name.endswith(".yaml")]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def workloads() -> Iterator[tuple[str, dict[str, Any]]]:
    """(router or worker, object) for each that runs pods."""
    for item in manifests(KUBERNETES / "base"):
        if item["kind"] in {"Deployment", "StatefulSet"}:
            yield item["spec"]["template"]["spec"]["containers"][0]["name"], item


def settings_of_everything() -> list[Any]:
    """(where, kind, its whole environment, seconds that it is given to end) for each container that runs our code."""
    found = [pytest.param(kind, image_environment(kind), None, id=f"image {kind}") for kind in PARSERS]
    for name, service in compose_file()["services"].items():
        kind = service["image"].removeprefix("abfleet-")
        if kind in PARSERS and "entrypoint" not in service:
            own = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for key, value in service["environment"].items()}
            own = {key: {"False": "off", "True": "on"}.get(value, value) for key, value in own.items()}
            grace = float(service["stop_grace_period"].removesuffix("s"))
            found.append(pytest.param(kind, image_environment(kind) | own, grace, id=f"compose {name}"))
    for kind, item in workloads():
        pod = item["spec"]["template"]["spec"]
        own = {one["name"]: one.get("value", "a-pod") for one in pod["containers"][0]["env"]}
        grace = float(pod["terminationGracePeriodSeconds"])
        where = f"kubernetes {item['metadata']['name']}"
        found.append(pytest.param(kind, image_environment(kind) | own, grace, id=where))
    return found


@pytest.mark.parametrize(("kind", "environment", "grace_seconds"), settings_of_everything())
def test_settings_are_ones_that_the_code_takes(
    kind: str, environment: dict[str, str], grace_seconds: float | None
) -> None:
    """Every variable is a flag of that process, its value is allowed, it listens outside, and may drain in peace."""
    parse = PARSERS[kind]
    settings: Any = parse([], environment)
    plain: Any = parse([], {})
    flags = subprocess.run(
        [sys.executable, "-m", f"abfleet_{kind}", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for name in environment:
        flag = "--" + name.removeprefix("ABFLEET_").lower().replace("_", "-")
        assert re.search(rf"{flag}\b", flags) or f"--no-{flag[2:]}" in flags, f"{name} is no flag of the {kind}"
    assert settings.listen.startswith("0.0.0.0:")
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 8000)
    drain = settings.drain_delay_seconds + settings.drain_timeout_seconds
    assert drain > plain.drain_delay_seconds + plain.drain_timeout_seconds
    if grace_seconds is not None:
        assert grace_seconds > drain + 2


@pytest.mark.parametrize("kind", [*PARSERS, "dashboard"])
def test_images_say_what_they_are(kind: str) -> None:
    """Each has the labels of the OCI with the project's version, a user, a signal to stop by and a health check."""
    text = (COMPOSE / f"{kind}.Dockerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["title"] == f"abfleet-{kind}"
    assert labels["version"] == project["version"]
    assert labels["licenses"].split(" AND ")[0] == project["license"]
    assert re.search(r"^USER 10001:10001\n", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM\n", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK --interval", text, re.MULTILINE)


def test_the_builds_context_has_every_package() -> None:
    """What .dockerignore lets through holds all that wheels are made of: hatchling says nothing of a missing one."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    let_through = {line[1:] for line in lines if line[:1] == "!"}
    assert {"protos", *(package.split("/")[0] for package in wheel["packages"])} <= let_through


# --- compose ---------------------------------------------------------------------------------------------------------


def test_compose_has_a_service_for_every_version_of_the_file() -> None:
    """The workers' services are the DNS names of the experiments file, listen on its ports, and publish none."""
    services = compose_file()["services"]
    workers = {name: service for name, service in services.items() if service["image"] == "abfleet-worker"}
    found = {
        service["environment"]["ABFLEET_VERSION"]: f"{name}:{service['environment']['ABFLEET_LISTEN'].split(':')[1]}"
        for name, service in workers.items()
    }
    assert found == TARGETS
    assert not any("ports" in service for service in workers.values())


def test_compose_publishes_the_ports_that_are_promised() -> None:
    """50051 and 8000 of the router, 9090, 3000; each on the loopback unless told otherwise."""
    published = {
        name: [port.removeprefix("${ABFLEET_PUBLISH:-127.0.0.1}:") for port in service["ports"]]
        for name, service in compose_file()["services"].items()
        if "ports" in service
    }
    dashboard = published.pop("dashboard")
    assert dashboard == ["127.0.0.1:8080:8080"], "it asks for no token, so no variable may open it to the network"
    assert published == {"router": ["50051:50051", "8000:8000"], "prometheus": ["9090:9090"], "grafana": ["3000:3000"]}


def test_the_dashboard_of_compose_reads_and_does_nothing_else() -> None:
    """Its variables are its flags; it listens outside; log, file and registry are mounted read-only."""
    service = compose_file()["services"]["dashboard"]
    environment = image_environment("dashboard") | {key: str(value) for key, value in service["environment"].items()}
    settings = parse_dashboard([], environment)
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert settings.tokens is None
    with pytest.raises(SettingsError):
        parse_dashboard([], image_environment("dashboard"))  # the image alone wants a decision
    command = [sys.executable, "-m", "abfleet_dashboard", "--help"]
    flags = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for name in environment:
        assert f"--{name.removeprefix('ABFLEET_').lower().replace('_', '-')}" in flags
    writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
    assert writable == ["scratch:/tmp"]
    mounted = {volume.removesuffix(":ro").rpartition(":")[2] for volume in service["volumes"]}
    assert {str(settings.logs[0]), str(settings.experiments.parent), str(settings.registry)} <= mounted


def test_the_autopilot_of_compose_may_write_what_it_has_to(tmp_path: Path) -> None:
    """Its variables are its flags, and nobody is notified unless somebody is named; the log's folder, where its actions
    go, and that of the file are mounted to be written."""
    service = compose_file()["services"]["autopilot"]
    own = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for key, value in service["environment"].items()}
    flags = {f"ABFLEET_{flag.name.upper().replace('-', '_')}" for flag in declared_autopilot({}).declared}
    assert own.keys() <= flags
    environment = {key: value for key, value in (image_environment("dashboard") | own).items() if key in flags}
    settings = parse_autopilot(["--logs", str(tmp_path)], environment)
    assert (settings.metrics_host, settings.metrics_port, settings.notify_url) == ("0.0.0.0", 8000, None)
    mounted = {volume.rpartition(":")[2] for volume in service["volumes"] if not volume.endswith(":ro")}
    assert {str(settings.experiments.parent), environment["ABFLEET_LOGS"]} <= mounted


def test_prometheus_looks_for_every_service() -> None:
    """prometheus.yml resolves the router and every worker service, at the port where they serve /metrics."""
    jobs = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    found = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs if "dns_sd_configs" in job}
    assert found["abfleet-router"]["names"] == ["router"]
    assert found["abfleet-worker"]["names"] == [target.split(":")[0] for target in TARGETS.values()]
    assert {one["port"] for one in found.values()} == {8000}


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_takes_the_file() -> None:
    """docker-compose finds no unknown key and no wrong value."""
    command = ["docker-compose", "--file", str(COMPOSE / "docker-compose.yml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
@pytest.mark.parametrize("kind", [*PARSERS, "dashboard"])
def test_hadolint_finds_nothing(kind: str) -> None:
    """hadolint has no word to say on the Dockerfiles."""
    command = ["hadolint", str(COMPOSE / f"{kind}.Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9._-]+==\S+)", path.read_text(), flags=re.MULTILINE))


def test_images_are_pinned_like_everything_else() -> None:
    """What goes into the images is a part of requirements.lock, hashed; each image leaves the other's weight out."""
    everything = pins(ROOT / "requirements.lock")
    router, worker, build, dashboard = (
        pins(COMPOSE / f"{name}.lock") for name in ("router", "worker", "build", "dashboard")
    )
    assert router <= everything
    assert worker <= everything
    assert build <= everything
    assert dashboard <= everything
    for name in ("router", "worker", "build", "dashboard"):
        blocks = re.split(r"^(?=\S+==)", (COMPOSE / f"{name}.lock").read_text(), flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in block for block in blocks)
    assert not any(re.match(r"onnx|numpy|scipy|duckdb", pin) for pin in router)
    assert not any(re.match(r"scipy|duckdb|ibis|typer|hatchling", pin) for pin in worker)
    assert not any(re.match(r"onnx|typer|hatchling", pin) for pin in dashboard)


@pytest.mark.parametrize(
    ("kind", "extras"),
    [
        ("router", ("router", "cli", "experiments", "tracing")),
        ("worker", ("worker", "tracing")),
        ("dashboard", ("dashboard", "analysis", "experiments")),
    ],
)
def test_images_have_everything_that_the_project_names(kind: str, extras: tuple[str, ...]) -> None:
    """Each direct requirement of the image's extras is in its lock: pip installs the wheel without asking for more."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    wanted = {re.match(r"[\w.-]+", line)[0].lower() for line in lines} - {"abfleet", "abfleet-client"}  # type: ignore[index]
    assert wanted <= {pin.split("==")[0] for pin in pins(COMPOSE / f"{kind}.lock")}, "run: ./run lock"


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def test_kubernetes_has_workers_for_every_version_of_the_file() -> None:
    """Services have the DNS names and ports of the experiments file; workload, probes and disruption budget match."""
    items = manifests(KUBERNETES / "base")
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in items}
    for version, target in TARGETS.items():
        name, _, port = target.partition(":")
        labels = {"app.kubernetes.io/name": "abfleet-worker", "abfleet/version": version}
        service, workload = by_name["Service", name]["spec"], by_name["Deployment", name]["spec"]
        container = workload["template"]["spec"]["containers"][0]
        assert service["clusterIP"] == "None"
        assert service["selector"] == workload["template"]["metadata"]["labels"] == labels
        assert workload["selector"]["matchLabels"] == labels
        assert by_name["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"] == labels
        assert by_name["HorizontalPodAutoscaler", name]["spec"]["scaleTargetRef"]["name"] == name
        assert [one["port"] for one in service["ports"]] == [int(port), 8000]
        environment = {one["name"]: one["value"] for one in container["env"]}
        assert environment["ABFLEET_VERSION"] == version
        assert environment["ABFLEET_LISTEN"].endswith(f":{port}")
        assert container["readinessProbe"]["grpc"] == {"port": int(port), "service": version}
    assert len([item for item in items if item["kind"] == "Deployment"]) == len(TARGETS)


def test_versions_differ_by_their_name_only() -> None:
    """The workers' manifests are one text with another version in it."""
    texts = set()
    for version, target in TARGETS.items():
        name = target.split(":")[0]
        text = (KUBERNETES / "base" / f"{name}.yaml").read_text()
        texts.add(text.replace(name, "worker-VERSION").replace(version, "VERSION"))
    assert len(texts) == 1


def test_named_ports_are_those_that_are_listened_on() -> None:
    """Container ports, services' target ports, probes and network policies name the same ports."""
    policies = [item for item in manifests(KUBERNETES / "base") if item["kind"] == "NetworkPolicy"]
    allowed = {
        (policy["metadata"]["name"], port["port"])
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    for kind, item in workloads():
        container = item["spec"]["template"]["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert environment["ABFLEET_LISTEN"] == f"0.0.0.0:{ports['grpc']}"
        assert environment["ABFLEET_METRICS_PORT"] == str(ports["metrics"])
        assert container["readinessProbe"]["grpc"]["port"] == ports["grpc"]
        assert {(kind, port) for port in ports.values()} <= allowed


def test_service_monitors_give_the_jobs_that_rules_ask_for() -> None:
    """The job label of each monitor is a job of prometheus.yml, so rules and dashboards work on both."""
    jobs = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    items = [*manifests(KUBERNETES / "base"), *manifests(AUTOPILOT)]
    labels = {
        item["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        for monitor in items
        if monitor["kind"] == "ServiceMonitor"
        for item in items
        if item["kind"] == "Service"
        and monitor["spec"]["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
    }
    assert labels == {job["job_name"] for job in jobs if "dns_sd_configs" in job}


def test_the_autopilots_manifest_is_what_the_code_takes(tmp_path: Path) -> None:
    """Its variables are its flags, its mounts are where they point; it may edit the routers' ConfigMap alone; it waits
    for as many routers as there are at least; and the routers' logs are the claim that it reads."""
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in manifests(AUTOPILOT)}
    pod = by_name["Deployment", "autopilot"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    settings = parse_autopilot(["--logs", str(tmp_path)], environment)
    flags = {f"ABFLEET_{flag.name.upper().replace('-', '_')}" for flag in declared_autopilot({}).declared}
    assert environment.keys() <= flags
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    assert str(settings.experiments.parent) in mounts
    assert environment["ABFLEET_LOGS"] in mounts
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert settings.apply_command is not None
    program, script, name, key = settings.apply_command.split()
    assert (program, Path(script).name) == ("python", "apply.py")
    assert str(Path(script).parent) in mounts
    assert (AUTOPILOT / "apply.py").exists()
    (rule,) = by_name["Role", "autopilot"]["rules"]
    assert (rule["resourceNames"], rule["verbs"]) == ([name], ["get", "patch"])
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["experiments"]["configMap"]["name"] == name
    assert key == settings.experiments.name
    base = {(item["kind"], item["metadata"]["name"]): item for item in manifests(KUBERNETES / "base")}
    assert settings.routers == base["HorizontalPodAutoscaler", "router"]["spec"]["minReplicas"]
    claim = by_name["PersistentVolumeClaim", "logs"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volumes["logs"]["persistentVolumeClaim"]["claimName"] == "logs"
    text = (AUTOPILOT / "kustomization.yaml").read_text()
    assert "all routers' logs are one folder" in text, "whoever applies it has to know"


def test_the_config_map_is_the_file_that_ships() -> None:
    """The base's copy of the experiments file is the original: kustomize reads nothing outside its folder."""
    copy = KUBERNETES / "base" / "recommender.yaml"
    assert copy.read_bytes() == (ROOT / "experiments" / "recommender.yaml").read_bytes(), (
        "cp experiments/recommender.yaml compose/kubernetes/base/"
    )


def validate(path: Path) -> None:
    """Holds a file of manifests against the schemas of Kubernetes, unknown keys being errors."""
    assert VALIDATOR is not None
    done = subprocess.run([VALIDATOR, "--strict", str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(VALIDATOR is None, reason="kubernetes-validate is not installed")
def test_manifests_are_valid(tmp_path: Path) -> None:
    """Every object of the base has the shape that Kubernetes asks for; kinds of others' are left out."""
    items = [*manifests(KUBERNETES / "base"), *manifests(AUTOPILOT)]
    core = [item for item in items if "monitoring.coreos.com" not in item["apiVersion"]]
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump_all(core))
    validate(path)


@pytest.mark.skipif(shutil.which(KUSTOMIZE[0]) is None, reason="neither kustomize nor kubectl is installed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_build(overlay: str, tmp_path: Path) -> None:
    """kustomize builds each overlay; what comes out is valid, and has the images, mounts and kinds that it is for."""
    command = [*KUSTOMIZE, str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    items = list(yaml.safe_load_all(done.stdout))
    kinds = {item["kind"] for item in items}
    configs = {item["metadata"]["name"]: item for item in items if item["kind"] == "ConfigMap"}
    assert configs.keys() == {"experiments", *({"autopilot-apply"} if overlay == "shared-log" else ())}
    config = configs["experiments"]
    assert yaml.safe_load(config["data"]["recommender.yaml"]) == EXPERIMENTS
    assert all(item["metadata"].get("namespace", "abfleet") == "abfleet" for item in items)
    if overlay == "production":
        workers = [item for item in items if item["kind"] == "Deployment"]
        for pod in (item["spec"]["template"]["spec"] for item in workers):
            assert pod["containers"][0]["image"].startswith("registry.example.com/abfleet-worker:")
            assert {"name": "registry", "mountPath": "/models", "readOnly": True} in pod["containers"][0][
                "volumeMounts"
            ]
    elif overlay == "single-node":
        assert not kinds & {"HorizontalPodAutoscaler", "ServiceMonitor", "PodDisruptionBudget"}
    else:
        (router,) = [item for item in items if item["kind"] == "StatefulSet"]
        assert "volumeClaimTemplates" not in router["spec"]
        claim = {"name": "logs", "persistentVolumeClaim": {"claimName": "logs"}}
        pods = [
            item
            for item in items
            if item["metadata"]["name"] in ("router", "autopilot") and "template" in item.get("spec", {})
        ]
        assert len(pods) == 2
        assert all(claim in item["spec"]["template"]["spec"]["volumes"] for item in pods)
    if VALIDATOR is not None:
        path = tmp_path / "built.yaml"
        path.write_text(yaml.safe_dump_all(i for i in items if "monitoring.coreos.com" not in i["apiVersion"]))
        validate(path)
