"""What Kubernetes gets from the chart."""

import re

import kubernetes_validate
import pytest
import yaml
from conftest import (
    CHART,
    NAMESPACE,
    RELEASE,
    SETS,
    StrictLoader,
    container,
    environment,
    find,
    pod_templates,
    render,
    run_helm,
    template,
)

# The oldest that the chart accepts, the one whose kubectl comes with Helm, and the newest whose schemas are here.
KUBERNETES = ["1.27", "1.34", "1.37"]
NAME = f"{RELEASE}-customer-accounts"
SELECTOR = {
    "app.kubernetes.io/name": "customer-accounts",
    "app.kubernetes.io/instance": RELEASE,
    "app.kubernetes.io/component": "server",
}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_every_object(value_set, version):
    for made in render("--kube-version", f"{version}.0", values=SETS[value_set]):
        if made["kind"] not in ("GRPCRoute", "ServiceMonitor"):  # test_a_route, test_metrics
            kubernetes_validate.validate(made, version, strict=True)


def test_which_objects_there_are(objects, value_set):
    kinds = sorted(made["kind"] for made in objects)
    always = ["CronJob", "Deployment", "Job", "Pod"]
    expected = {
        "scaled": ["GRPCRoute", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"]
        + ["Service", "Service", "Service", "ServiceAccount", "ServiceMonitor"],
        "prune": ["Service"],
    }.get(value_set, ["PodDisruptionBudget", "Service", "Service"])
    assert kinds == sorted(always + expected)


def test_names_and_labels(objects):
    names = [(made["kind"], made["metadata"]["name"]) for made in objects]
    assert len(names) == len(set(names))
    for made in objects:
        assert made["metadata"]["namespace"] == NAMESPACE
        assert len(made["metadata"]["name"]) <= 52
        assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    for pod in pod_templates(objects).values():
        container_ = container(pod)
        for things in (container_["env"], container_.get("volumeMounts", []), pod["spec"].get("volumes", [])):
            assert len({thing["name"] for thing in things}) == len(things)
        mounted = {mount["name"] for mount in container_.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", [])}


def test_a_long_name_is_cut():
    objects = render("--set", "fullnameOverride=" + "a" * 200, "--set", "nameOverride=" + "b" * 60, values=SETS["scaled"])
    for made in objects:
        assert len(made["metadata"]["name"]) <= 52
        assert all(len(value) <= 63 for value in made["metadata"]["labels"].values())


# What Kubernetes accepts as the name of a service: no dots, a letter first, at most 63 characters.
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("release", "values"),
    [
        ("a" * 53, ""),
        ("a", "nameOverride: " + "n" * 63),
        ("a" * 42 + "--b", ""),  # cut behind the first hyphens
        ("a", f"nameOverride: {'n' * 42}--b"),
        ("a", f"fullnameOverride: {'n' * 41}---b"),
        ("1234", "fullnameOverride: accounts"),
        ("my.release", "fullnameOverride: accounts"),
    ],
)
def test_names_can_be_those_of_services(release, values):
    rendered = run_helm("template", release, CHART, "--values", SETS["minimal"], "--values", "-", values=values)
    assert rendered.returncode == 0, rendered.stderr
    for made in yaml.load_all(rendered.stdout, StrictLoader):
        assert SERVICE_NAME.fullmatch(made["metadata"]["name"])
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", made["metadata"]["labels"]["app.kubernetes.io/name"])


@pytest.mark.parametrize("release", ["my.release", "1234", "1-customer-accounts"])
def test_a_release_that_cannot_name_a_service_is_refused(release):
    rendered = run_helm("template", release, CHART, "--values", SETS["minimal"])
    assert rendered.returncode != 0, "not refused"
    assert "cannot be the name of a service" in rendered.stderr and "Set fullnameOverride" in rendered.stderr


# Texts that YAML reads as something else when they stand without quotes.
NOT_TEXTS = """
nameOverride: "{0}"
imagePullSecrets: ["{0}"]
database: {{secretName: "{0}", key: "{0}"}}
migration: {{secretName: "{0}", key: "{0}"}}
prune: {{timeZone: "{0}"}}
issuerCA: {{configMapName: "{0}"}}
tls: {{secretName: "{0}", clientCA: {{secretName: "{0}"}}, probeClient: {{secretName: "{0}"}}}}
otlp: {{endpoint: "http://a", headers: {{secretName: "{0}", key: "{0}"}}}}
serviceAccount: {{name: "{0}"}}
priorityClassName: "{0}"
"""


@pytest.mark.parametrize("text", ["1234", "1e3", "true", "null"])
def test_texts_stay_texts(text):
    values = NOT_TEXTS.format(text)
    rendered = run_helm("template", f"a-{text}", CHART, "--values", SETS["minimal"], "--values", "-", values=values)
    assert rendered.returncode == 0, rendered.stderr
    objects = [made for made in yaml.load_all(rendered.stdout, StrictLoader) if made]
    for made in objects:
        kubernetes_validate.validate(made, KUBERNETES[-1], strict=True)
    assert find(objects, "Deployment")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] == text
    assert {text} <= set(references(pod_templates(objects)["server"]))


def test_the_name_of_a_release_stays_a_text():
    rendered = run_helm("template", "1234", CHART, "--values", SETS["scaled"])
    assert rendered.returncode == 0, rendered.stderr
    for made in yaml.load_all(rendered.stdout, StrictLoader):
        assert made["metadata"]["labels"]["app.kubernetes.io/instance"] == "1234"


def test_large_numbers_have_no_exponent():
    values = """
    replicaCount: 1000000
    rollout: {maxSurge: 1000000}
    migration: {activeDeadlineSeconds: 1000000, backoffLimit: 1000000}
    prune: {activeDeadlineSeconds: 1000000, backoffLimit: 1000000}
    podDisruptionBudget: {maxUnavailable: 1000000}
    """
    objects = render("--values", SETS["minimal"], values=values)
    deployment = find(objects, "Deployment")["spec"]
    assert deployment["replicas"] == deployment["strategy"]["rollingUpdate"]["maxSurge"] == 1000000
    for job in (find(objects, "Job")["spec"], find(objects, "CronJob")["spec"]["jobTemplate"]["spec"]):
        assert job["activeDeadlineSeconds"] == job["backoffLimit"] == 1000000
    assert find(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1000000
    scaled = "autoscaling: {minReplicas: 1000000, maxReplicas: 1000000}"
    scaler = find(render("--values", SETS["scaled"], values=scaled), "HorizontalPodAutoscaler")["spec"]
    assert scaler["minReplicas"] == scaler["maxReplicas"] == 1000000


@pytest.mark.parametrize(
    "change",
    [
        "podLabels: {app.kubernetes.io/name: other, app.kubernetes.io/component: other}",
        "commonLabels: {app.kubernetes.io/instance: other, team: a}",
        "image: {tag: other}",
        "replicaCount: 9",
    ],
)
def test_selectors_never_change(change):
    objects = render("--values", SETS["minimal"], values=change)
    assert find(objects, "Deployment")["spec"]["selector"]["matchLabels"] == SELECTOR
    assert find(objects, "Service", NAME)["spec"]["selector"] == SELECTOR
    assert find(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == SELECTOR
    pods = pod_templates(objects)
    selected = [name for name, pod in pods.items() if SELECTOR.items() <= pod["metadata"]["labels"].items()]
    assert selected == ["server"]


def references(pod):
    """The names of everything that must exist before a pod can start."""
    spec = pod["spec"]
    yield from ([spec["serviceAccountName"]] if "serviceAccountName" in spec else [])
    for secret in spec.get("imagePullSecrets", []):
        yield secret["name"]
    for source in spec.get("volumes", []):
        yield source.get("secret", {}).get("secretName") or source.get("configMap", {}).get("name")
    for variable in container(pod)["env"]:
        for source in variable.get("valueFrom", {}).values():
            yield source["name"]
    for source in container(pod).get("envFrom", []):
        yield from (named["name"] for named in source.values())


def test_the_migration_needs_nothing_of_the_chart(objects):
    job = find(objects, "Job")
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"
    made = {other["metadata"]["name"] for other in objects}
    needed = set(references(job["spec"]["template"]))
    assert needed and not needed & made


def test_a_service_account_is_only_for_whom_it_exists():
    accounts = {
        name: {component: pod["spec"].get("serviceAccountName") for component, pod in pod_templates(objects).items()}
        for name in ("minimal", "scaled", "prune")
        for objects in [render(values=SETS[name])]
    }
    nobody = dict.fromkeys(["server", "migrate", "prune", "test"])
    assert accounts["minimal"] == nobody
    assert accounts["scaled"] == nobody | {"server": "accounts"}  # one that the chart makes
    assert accounts["prune"] == nobody | dict.fromkeys(["server", "migrate", "prune"], "accounts")  # an existing one


def test_pods_have_no_rights(objects, value_set):
    for pod in pod_templates(objects).values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        user = {} if value_set == "prune" else dict.fromkeys(["runAsUser", "runAsGroup", "fsGroup"], 65532)
        safe = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert spec["securityContext"] == safe | user
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container(pod)["resources"]["limits"]["memory"]


READY = {"command": ["/customer-accounts", "healthcheck"]}
ALIVE = {"command": ["/customer-accounts", "healthcheck", "liveness"]}


def test_probes(objects, value_set):
    server = container(pod_templates(objects)["server"])
    probes = {name: server.get(name) for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    if value_set in ("tls", "mesh", "prune"):
        assert probes["readinessProbe"]["exec"] == READY
        # Readiness follows the database, which no restart brings back.
        assert probes["startupProbe"]["exec"] == probes["livenessProbe"]["exec"] == ALIVE
        # A healthcheck fails for up to 10 seconds after a change of the certificate.
        for name in ("readinessProbe", "livenessProbe"):
            assert probes[name]["periodSeconds"] * (probes[name]["failureThreshold"] - 1) > 10
        # A healthcheck takes at most 3 seconds to connect and 3 to be answered.
        assert all(probe["timeoutSeconds"] > 6 for probe in probes.values())
    else:
        asked = {name: probe["grpc"] for name, probe in probes.items()}
        live, ready = ({"port": 50051, "service": name} for name in ("liveness", "readiness"))
        assert asked == {"startupProbe": live, "readinessProbe": ready, "livenessProbe": live}
        assert server["ports"][0] == {"name": "grpc", "containerPort": 50051}


def sidecar_outlives(pod):
    """For how many seconds the proxy of a mesh goes on after SIGTERM, when it is no native sidecar."""
    annotations = pod["metadata"]["annotations"]
    if "linkerd.io/inject" in annotations:
        return int(annotations["config.alpha.linkerd.io/proxy-wait-before-exit-seconds"])
    config = yaml.safe_load(annotations["proxy.istio.io/config"])
    assert config["holdApplicationUntilProxyStarts"] is True
    return int(config["terminationDrainDuration"].removesuffix("s"))


def test_a_sidecar_outlives_the_service():
    sections = re.findall(r"\*\*(?:Istio|Linkerd)\..*?```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert len(sections) == 2
    for values in [SETS["mesh"].read_text(), *sections]:
        pod = pod_templates(render("--values", SETS["minimal"], values=values))["server"]
        deadline = int(environment(pod)["CUSTOMER_ACCOUNTS_SHUTDOWN_DEADLINE"].removesuffix("s"))
        assert deadline < sidecar_outlives(pod) < pod["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("settings", "by_exec"),
    [("probes.kind=exec", True), ("probes.kind=grpc,config.mesh-header=l5d-client-id", False)],
)
def test_the_kind_of_probes_can_be_chosen(settings, by_exec):
    probe = container(pod_templates(render("--set", settings, values=SETS["minimal"]))["server"])["readinessProbe"]
    assert ("exec" in probe) == by_exec


def test_upgrades_lose_no_replica(objects, value_set):
    spec = find(objects, "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec.get("replicas") == {"scaled": None, "prune": 1}.get(value_set, 2)
    scaler = find(objects, "HorizontalPodAutoscaler")
    assert (scaler is None) == ("replicas" in spec)
    if scaler:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": find(objects, "Deployment")["metadata"]["name"]}
        assert scaler["spec"]["scaleTargetRef"] == target


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ("", 82),
        ("config.shutdown-deadline=70500ms", 81),  # rounded up
        ("config.shutdown-deadline=2m", 130),
        ("config.shutdown-deadline=1h", 3610),
        ("terminationGracePeriodSeconds=82", 82),
        ("terminationGracePeriodSeconds=600", 600),
    ],
)
def test_the_grace_period_fits_the_shutdown(settings, seconds):
    pod = pod_templates(render("--set", settings, values=SETS["minimal"]))["server"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == seconds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("terminationGracePeriodSeconds=81", "terminationGracePeriodSeconds is 81 and must be at least 82"),
        ("config.shutdown-deadline=19999ms", "config.shutdown-deadline (19999ms) must be at least config.shutdown-delay (10s)"),
        ("config.shutdown-delay=63s", "config.shutdown-deadline (72s) must be at least config.shutdown-delay (63s)"),
        ("config.default-deadline=2m", "and config.default-deadline (2m) together"),
    ],
)
def test_a_shutdown_that_cuts_calls_off_is_refused(settings, message):
    rendered = template("--set", settings, values=SETS["minimal"])
    assert rendered.returncode != 0 and message in rendered.stderr


def test_secrets(objects, value_set):
    """Where each pod gets its credentials: from secrets that must exist."""
    of = lambda pod: environment(pod_templates(objects)[pod])  # noqa: E731
    key = lambda name, key: {"secretKeyRef": {"name": name, "key": key}}  # noqa: E731
    expected = {
        "tls": ("accounts-database", "service-url", "accounts-database", "migration-url"),
    }.get(value_set, ("accounts-database", "url", "accounts-migration", "url"))
    assert of("server")["DATABASE_URL"] == key(*expected[:2])
    assert of("migrate")["DATABASE_URL"] == key(*expected[2:])
    assert of("prune")["DATABASE_URL"] == (key("accounts-prune", "prune-url") if value_set == "prune" else key(*expected[2:]))
    assert "DATABASE_URL" not in of("test")
    for pod in pod_templates(objects).values():
        sources = [variable.get("valueFrom", {}) for variable in container(pod)["env"]] + pod["spec"].get("volumes", [])
        for source in sources:
            assert not any(isinstance(each, dict) and each.get("optional") for each in source.values())
    if value_set == "tls":
        assert of("server")["OTEL_EXPORTER_OTLP_HEADERS"] == key("collector-login", "headers")
        assert all(pod["spec"]["imagePullSecrets"] == [{"name": "registry-login"}] for pod in pod_templates(objects).values())


def test_only_who_needs_a_credential_has_it(objects, value_set):
    migration = "accounts-prune" if value_set == "prune" else "accounts-migration"
    pods = pod_templates(objects)
    for component in ("server", "test"):
        assert not {migration, "accounts-migration"} & set(references(pods[component])), component
    for component in ("migrate", "prune"):
        assert not {"accounts-tls", "accounts-probe", "collector-login"} & set(references(pods[component])), component


LITERALS = re.compile(r"postgres(ql)?://|passw(or)?d|BEGIN [A-Z ]*PRIVATE KEY|Bearer ", re.IGNORECASE)


def test_no_credential_stands_in_a_manifest(value_set):
    rendered = template(values=SETS[value_set])
    assert not LITERALS.findall(rendered.stdout)
    for made in render(values=SETS[value_set]):
        assert made["kind"] not in ("Secret", "ConfigMap")
    for pod in pod_templates(render(values=SETS[value_set])).values():
        for name, value in environment(pod).items():
            if re.search("URL|HEADERS|PASSWORD", name):
                assert "secretKeyRef" in value, name


def test_tls_files_are_mounted_where_the_options_look(objects, value_set):
    pods = pod_templates(objects)
    for component in ("server", "test"):
        variables = environment(pods[component])
        files = {name: value for name, value in variables.items() if re.search("_(CERT|KEY|CA)$|^SSL", name)}
        folders = {mount["mountPath"] for mount in container(pods[component]).get("volumeMounts", [])}
        assert all(path.rsplit("/", 1)[0] in folders for path in files.values())
        for mount in container(pods[component]).get("volumeMounts", []):
            assert "subPath" not in mount and mount["readOnly"] is True
        for volume in pods[component]["spec"].get("volumes", []):
            assert volume.get("secret", {"defaultMode": 0o440})["defaultMode"] == 0o440
        all_files = {"TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "CLIENT_CERT", "CLIENT_KEY"}
        expected = {"tls": all_files, "prune": {"TLS_CERT", "TLS_KEY"}}.get(value_set, set())
        assert {name.removeprefix("CUSTOMER_ACCOUNTS_") for name in files} - {"SSL_CERT_FILE"} == expected
    if value_set == "tls":
        volumes = {volume["name"]: volume for volume in pods["server"]["spec"]["volumes"]}
        secrets = {name: volume.get("secret", {}).get("secretName") for name, volume in volumes.items()}
        assert secrets == {"tls": "accounts-tls", "client-ca": "accounts-client-ca", "probe-client": "accounts-probe"} | {
            "issuer-ca": None
        }
        assert volumes["issuer-ca"]["configMap"] == {"name": "company-authorities"}
        assert environment(pods["server"])["SSL_CERT_FILE"].endswith("/bundle.pem")


def test_every_command_trusts_the_same_authorities():
    # A URL of the database with sslrootcert=system trusts those of SSL_CERT_FILE.
    pods = pod_templates(render(values=SETS["tls"]))
    for component in ("server", "migrate", "prune"):
        path = environment(pods[component])["SSL_CERT_FILE"]
        (mount,) = [each for each in container(pods[component])["volumeMounts"] if each["name"] == "issuer-ca"]
        assert path == f"{mount['mountPath']}/bundle.pem" and mount["readOnly"] is True
        (volume,) = [each for each in pods[component]["spec"]["volumes"] if each["name"] == "issuer-ca"]
        assert volume["configMap"] == {"name": "company-authorities"}


def test_services(objects, value_set):
    service = find(objects, "Service", "accounts")["spec"]
    protocol = {"tls": "tls", "mesh": "grpc", "scaled": "kubernetes.io/h2c"}.get(value_set)
    port = {"name": "grpc", "port": 443 if value_set == "scaled" else 50051, "targetPort": "grpc"}
    port |= {"appProtocol": protocol} if protocol else {}
    assert service["ports"] == [port]
    assert service["type"] == ("LoadBalancer" if value_set == "scaled" else "ClusterIP")
    headless = find(objects, "Service", "-headless")
    if value_set == "prune":
        assert headless is None
    else:
        # Clients reach replicas themselves, so they need the port of the replicas.
        assert headless["spec"] == {"clusterIP": "None", "selector": service["selector"], "ports": [port | {"port": 50051}]}


def test_the_test_asks_the_service(objects, value_set):
    made = find(objects, "Pod")
    assert made["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container(made)["args"] == ["healthcheck"]
    service = find(objects, "Service", "accounts")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert environment(made)["CUSTOMER_ACCOUNTS_LISTEN"] == address


def test_a_route():
    route = find(render(values=SETS["scaled"]), "GRPCRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"] == {
        "parentRefs": [{"name": "internal", "namespace": "gateways"}],
        "hostnames": ["accounts.internal.example"],
        "rules": [{"backendRefs": [{"name": "accounts", "port": 443}]}],
    }


def test_a_network_policy():
    objects = render(values=SETS["scaled"])
    policy = find(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == SELECTOR
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ingress, metrics = policy["ingress"]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert metrics == {"from": [monitoring], "ports": [{"port": 9464, "protocol": "TCP"}]}
    gateways = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    test = {"podSelector": {"matchLabels": SELECTOR | {"app.kubernetes.io/component": "test"}}}
    assert ingress == {"from": [gateways, test], "ports": [{"port": 50051, "protocol": "TCP"}]}
    assert test["podSelector"]["matchLabels"].items() <= find(objects, "Pod")["metadata"]["labels"].items()
    dns = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
    assert policy["egress"][1:] == [dns] and policy["egress"][0]["ports"][0]["port"] == 5432
    open_to = find(render("--set", "networkPolicy.enabled=true", values=SETS["minimal"]), "NetworkPolicy")["spec"]
    assert open_to["policyTypes"] == ["Ingress"] and "egress" not in open_to
    (ingress,) = open_to["ingress"]
    assert ingress["from"] == [{"podSelector": {}}]  # the namespace
    settings = "networkPolicy.enabled=true,metrics.enabled=true"
    both = find(render("--set", settings, values=SETS["minimal"]), "NetworkPolicy")["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in both] == [50051, 9464]
    assert all(rule["from"] == [{"podSelector": {}}] for rule in both)


def test_metrics():
    objects = render(values=SETS["scaled"])
    service = find(objects, "Service", "-metrics")
    assert service["spec"] == {
        "clusterIP": "None",  # each replica is scraped
        "publishNotReadyAddresses": True,
        "selector": SELECTOR,
        "ports": [{"name": "metrics", "port": 9464, "targetPort": "metrics"}],
    }
    ports = container(pod_templates(objects)["server"])["ports"]
    assert ports[1:] == [{"name": "metrics", "containerPort": 9464}]
    monitor = find(objects, "ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"] == {
        "selector": {"matchLabels": SELECTOR},
        "endpoints": [{"port": "metrics", "path": "/metrics", "interval": "15s"}],
    }
    # One of the selected services has the port, and it is not the one that may be reachable from outside.
    selected = [made for made in objects if made["kind"] == "Service" and SELECTOR.items() <= made["metadata"]["labels"].items()]
    with_port = [made for made in selected if any(port["name"] == "metrics" for port in made["spec"]["ports"])]
    assert with_port == [service] and len(selected) == 3
    silent = render(values=SETS["minimal"])
    assert find(silent, "Service", "-metrics") is None
    assert len(container(pod_templates(silent)["server"])["ports"]) == 1


def test_replicas_are_spread(objects, value_set):
    rules = pod_templates(objects)["server"]["spec"].get("topologySpreadConstraints", [])
    zone, node = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
    expected = {
        "scaled": {zone: "DoNotSchedule", node: "ScheduleAnyway"},
        "prune": {},
    }.get(value_set, {zone: "ScheduleAnyway", node: "ScheduleAnyway"})
    assert {rule["topologyKey"]: rule["whenUnsatisfiable"] for rule in rules} == expected
    assert all(rule["labelSelector"]["matchLabels"] == SELECTOR for rule in rules)


def test_the_prune_job(objects, value_set):
    spec = find(objects, "CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    own = ("@daily", "Europe/Zurich") if value_set == "prune" else ("17 3 * * *", "Etc/UTC")
    assert (spec["schedule"], spec["timeZone"]) == own
    assert environment(pod_templates(objects)["prune"]).get("CUSTOMER_ACCOUNTS_MIN_ACTIVITY_RETENTION") == environment(
        pod_templates(objects)["server"]
    ).get("CUSTOMER_ACCOUNTS_MIN_ACTIVITY_RETENTION")


@pytest.mark.parametrize(("setting", "kind"), [("migration.enabled", "Job"), ("prune.enabled", "CronJob")])
def test_jobs_can_be_left_out(setting, kind):
    assert find(render("--set", f"{setting}=false", values=SETS["minimal"]), kind) is None


def test_extras_reach_every_pod_and_only_their_object():
    objects = render(values=SETS["scaled"])
    pods = pod_templates(objects)
    for component in ("server", "migrate", "prune"):
        assert environment(pods[component])["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
        assert {"name": "issuer", "mountPath": "/etc/issuer", "readOnly": True} in container(pods[component])["volumeMounts"]
    for pod in pods.values():
        assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert pod["spec"]["tolerations"][0]["key"] == "dedicated"
    assert pods["server"]["spec"]["priorityClassName"] == "important"
    assert "nodeAffinity" in pods["server"]["spec"]["affinity"]
    assert find(objects, "Service", "accounts")["metadata"]["annotations"] == {"example.org/internal": "true"}
    assert "annotations" not in find(objects, "Service", "headless")["metadata"]
    assert find(objects, "ServiceAccount")["metadata"]["annotations"] == {"example.org/role": "accounts"}
    for made in render(values=SETS["tls"]):
        assert made["metadata"]["annotations"]["example.org/owner"] == "accounts"
        assert made["metadata"]["labels"]["team"] == "accounts"
    mesh = pod_templates(render(values=SETS["mesh"]))
    inject = {component: pod["metadata"]["labels"]["sidecar.istio.io/inject"] for component, pod in mesh.items()}
    assert inject == {"server": "true", "migrate": "false", "prune": "false", "test": "true"}
    assert "proxy.istio.io/config" in mesh["server"]["metadata"]["annotations"]
    prune = pod_templates(render(values=SETS["prune"]))["prune"]
    assert prune["metadata"]["annotations"] == {"linkerd.io/inject": "disabled"}


def test_telemetry():
    variables = environment(pod_templates(render(values=SETS["tls"]))["server"])
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://collector.observability:4318"
    assert variables["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    assert variables["OTEL_SERVICE_NAME"] == "accounts"
    attributes = "deployment.environment.name=production,k8s.cluster.name=one"
    assert variables["OTEL_RESOURCE_ATTRIBUTES"] == attributes
    silent = environment(pod_templates(render(values=SETS["minimal"]))["server"])
    assert not [name for name in silent if name.startswith("OTEL_")]
