"""Values: what is refused and how, what the notes say, and what people read about them."""

import json
import re

import kubernetes_validate
import pytest
import yaml
from conftest import CHART, ROOT, SETS, find, render, run_helm, template

# Values beside those of ci/minimal.yaml, and what the refusal says.
REFUSED = [
    # Unknown names, at every level.
    ("replicas: 3", "additional properties 'replicas' not allowed"),
    ("image: {name: a}", "at '/image': additional properties 'name' not allowed"),
    ("tls: {clientCA: {name: a}}", "at '/tls/clientCA': additional properties 'name' not allowed"),
    ("config: {poolSize: 8}", "at '/config': additional properties 'poolSize' not allowed"),
    ("networkPolicy: {from: [{pods: {}}]}", "at '/networkPolicy/from/0': additional properties 'pods' not allowed"),
    ("tolerations: [{keys: a}]", "at '/tolerations/0': additional properties 'keys' not allowed"),
    ("resources: {limits: {gpu: 1}}", "at '/resources/limits': additional properties 'gpu' not allowed"),
    ("extraEnv: [{name: A, from: b}]", "at '/extraEnv/0': additional properties 'from' not allowed"),
    # Options that other values set, or that have no use here.
    ("config: {listen: '0.0.0.0:1'}", "at '/config': additional properties 'listen' not allowed"),
    ("config: {migrate: true}", "at '/config': additional properties 'migrate' not allowed"),
    ("config: {tls-cert: a}", "at '/config': additional properties 'tls-cert' not allowed"),
    ("config: {data-dir: a}", "at '/config': additional properties 'data-dir' not allowed"),
    ("extraEnv: [{name: CUSTOMER_ACCOUNTS_POOL_SIZE, value: '1'}]", "extraEnv: CUSTOMER_ACCOUNTS_POOL_SIZE has a value"),
    ("extraEnv: [{name: DATABASE_URL, value: a}]", "extraEnv: DATABASE_URL has a value of its own"),
    # Types, ports, quantities, durations, names.
    ("replicaCount: '2'", "at '/replicaCount': got string, want integer"),
    ("replicaCount: -1", "at '/replicaCount': minimum: got -1, want 0"),
    ("podLabels: {a: 1}", "at '/podLabels/a': got number, want string"),
    ("service: {port: 0}", "at '/service/port': minimum: got 0, want 1"),
    ("service: {port: 65536}", "at '/service/port': maximum"),
    ("service: {type: External}", "at '/service/type': value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
    ("service: {appProtocol: http}", "at '/service/appProtocol': value must be one of"),
    ("resources: {limits: {memory: 1Gb}}", "'1Gb' does not match pattern"),
    ("resources: {requests: {cpu: lots}}", "'lots' does not match pattern"),
    ("config: {pool-size: 0}", "at '/config/pool-size': minimum: got 0, want 1"),
    ("config: {pool-size: many}", "at '/config/pool-size': got string, want integer"),
    ("config: {tenant-share: 101}", "at '/config/tenant-share': maximum: got 101, want 100"),
    ("config: {max-deadline: 60}", "at '/config/max-deadline': got number, want string"),
    ("config: {max-deadline: 1 minute}", "at '/config/max-deadline': '1 minute' does not match pattern"),
    ("config: {pool-wait: 2s}", "at '/config/pool-wait': '2s' does not match pattern"),
    ("config: {shutdown-delay: null}", "at '/config': missing property 'shutdown-delay'"),
    ("config: {log-format: xml}", "at '/config/log-format': value must be one of 'auto', 'text', 'json'"),
    ("config: {token-audience: ['a,b']}", "'a,b' does not match pattern"),
    ("image: {digest: 'sha256:abc'}", "at '/image/digest': 'sha256:abc' does not match pattern"),
    ("image: {pullPolicy: Sometimes}", "at '/image/pullPolicy': value must be one of"),
    ("database: {secretName: 'postgres://a:b@c/d'}", "at '/database/secretName'"),
    ("otlp: {endpoint: 'collector:4317'}", "at '/otlp/endpoint'"),
    ("otlp: {protocol: http/json}", "at '/otlp/protocol': value must be one of 'grpc', 'http/protobuf'"),
    ("metrics: {port: 1}", "at '/metrics': additional properties 'port' not allowed"),
    ("metrics: {serviceMonitor: {interval: often}}", "'often' does not match pattern"),
    ("config: {metrics-listen: '0.0.0.0:1'}", "at '/config': additional properties 'metrics-listen' not allowed"),
    ("prune: {schedule: daily}", "at '/prune/schedule': 'daily' does not match pattern"),
    ("listenHost: 127.0.0.1", "at '/listenHost': value must be one of '0.0.0.0', '[::]'"),
    ("topologySpread: {zones: Maybe}", "at '/topologySpread/zones': value must be one of"),
    ("securityContext: {runAsUser: 0}", "at '/securityContext/runAsUser': minimum: got 0, want 1"),
    ("nameOverride: a.b", "at '/nameOverride': 'a.b' does not match pattern"),
    ("fullnameOverride: a.b", "at '/fullnameOverride': 'a.b' does not match pattern"),
    ("fullnameOverride: '1a'", "at '/fullnameOverride': '1a' does not match pattern"),
    # Null, which removes a value.
    ("tls: null", "missing property 'tls'"),
    ("prune:", "missing property 'prune'"),
    ("tls: {clientCA: null}", "at '/tls': missing property 'clientCA'"),
    ("database: {key: null}", "at '/database': missing property 'key'"),
    ("service: {port: null}", "at '/service': missing property 'port'"),
    ("{autoscaling: {enabled: true}, resources: null}", "autoscaling needs resources.requests.cpu"),
    # Labels that Kubernetes refuses, after the migration.
    ("commonLabels: {team: Customer Accounts}", "at '/commonLabels/team': 'Customer Accounts' does not match pattern"),
    (f"podLabels: {{a: {'b' * 64}}}", "at '/podLabels/a': '" + "b" * 64 + "' does not match pattern"),
    ("podLabels: {'a b': c}", "'a b' does not match pattern"),
    ("migration: {podLabels: {a: '-'}}", "at '/migration/podLabels/a': '-' does not match pattern"),
    ("nodeSelector: {a/b/c: d}", "'a/b/c' does not match pattern"),
    # Objects that Kubernetes refuses, or accepts and then makes no pod of.
    ("resources: {requests: {memory: 512Mi}}", "resources.requests.memory (512Mi) is more than resources.limits.memory (256Mi)"),
    ("resources: {limits: {memory: 60M}}", "resources.requests.memory (64Mi) is more than resources.limits.memory (60M)"),
    ("resources: {limits: {cpu: 0.05}}", "resources.requests.cpu (100m) is more than resources.limits.cpu (0.05)"),
    ("resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}", "resources.requests.cpu (2) is more than resources.limits.cpu"),
    ("image: {repository: 'registry.example/a:1.0'}", "'registry.example/a:1.0' does not match pattern"),
    ("image: {repository: 'registry.example/Accounts'}", "'registry.example/Accounts' does not match pattern"),
    ("prune: {schedule: '@often'}", "at '/prune/schedule': '@often' does not match pattern"),
    ("prune: {schedule: 'TZ=UTC 3 * * *'}", "at '/prune/schedule': 'TZ=UTC 3 * * *' does not match pattern"),
    # A budget that lets no node be drained, ever.
    ("podDisruptionBudget: {maxUnavailable: 0}", "at '/podDisruptionBudget/maxUnavailable'"),
    ("podDisruptionBudget: {maxUnavailable: 0%}", "at '/podDisruptionBudget/maxUnavailable'"),
    ("podDisruptionBudget: {maxUnavailable: 101%}", "at '/podDisruptionBudget/maxUnavailable'"),
    # Options that the service refuses.
    ("config: {lock-timeout: 0s}", "at '/config/lock-timeout': '0s' does not match pattern"),
    ("config: {max-connection-age: 00m}", "at '/config/max-connection-age': '00m' does not match pattern"),
    ("config: {max-streams: 4294967296}", "at '/config/max-streams': maximum"),
    ("config: {max-calls: 1000000000000000000000}", "at '/config/max-calls': maximum"),
    ("config: {token-issuer: 'https://login.example'}", "'https://login.example' does not match pattern"),
    ("config: {token-issuer: ['https://login.example']}", "'https://login.example' does not match pattern"),
    ("config: {token-actor-prefix: partner}", "'partner' does not match pattern"),
    ("config: {token-issuer: 'a=https://a/k,b=https://b/k'}", "config.token-issuer has 2 issuers, and only 0 have a prefix"),
    (
        "config: {token-issuer: ['a=https://a/k', 'b=https://b/k', 'c=https://c/k'], token-actor-prefix: 'b=b:'}",
        "config.token-issuer has 3 issuers, and only 1 have a prefix (config.token-actor-prefix). All but one need one",
    ),
    ("config: {mesh-header: x forwarded}", "at '/config/mesh-header': 'x forwarded' does not match pattern"),
    (
        "{tls: {secretName: a, clientCA: {secretName: a}}, config: {mesh-proxies: spiffe://a/b}}",
        "config.mesh-proxies is set, but not config.mesh-header",
    ),
    # Extras that collide.
    ("extraEnv: [{name: A, value: a}, {name: A, value: b}]", "extraEnv: A is there twice"),
    ("extraEnv: [{name: A, value: a, valueFrom: {}}]", "extraEnv: A has both value and valueFrom"),
    ("extraVolumes: [{name: tls, emptyDir: {}}]", "extraVolumes: tls is a volume of this chart"),
    ("extraVolumes: [{name: a, emptyDir: {}}, {name: a, emptyDir: {}}]", "extraVolumes: a is there twice"),
    ("extraVolumes: [{name: A_b, emptyDir: {}}]", "at '/extraVolumes/0/name': 'A_b' does not match pattern"),
    ("extraVolumeMounts: [{name: a, mountPath: /a}]", "extraVolumeMounts: a is not one of extraVolumes"),
    (
        "{extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /a}, {name: a, mountPath: /a/}]}",
        "extraVolumeMounts: something is mounted at /a twice",
    ),
    (
        "{extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /etc/customer-accounts/tls}]}",
        "extraVolumeMounts: /etc/customer-accounts/tls is for the files of this chart",
    ),
    (
        "{extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /etc/customer-accounts}]}",
        "extraVolumeMounts: /etc/customer-accounts is for the files of this chart",
    ),
    # What must be said.
    ("image: {repository: null}", "image.repository is required"),
    ("database: {secretName: ''}", "database.secretName is required"),
    ("migration: {secretName: ''}", "migration.secretName is required"),
    ("migration: {enabled: false, secretName: ''}", "prune.secretName is required, unless migration.secretName is set"),
    ("config: {token-issuer: ''}", "config.token-issuer and config.token-audience are required"),
    ("config: {token-audience: []}", "config.token-issuer and config.token-audience are required"),
    ("grpcRoute: {enabled: true}", "grpcRoute.parentRefs is required"),
    # What does not fit together.
    ("tls: {clientCA: {secretName: a}}", "tls.clientCA.secretName is set, but not tls.secretName"),
    ("tls: {secretName: a, probeClient: {secretName: a}}", "tls.probeClient.secretName is set, but not tls.clientCA"),
    ("config: {mesh-header: a, mesh-proxies: b}", "config.mesh-proxies is set, but not tls.clientCA.secretName"),
    ("config: {allowed-workloads: a}", "config.allowed-workloads needs tls.clientCA.secretName or config.mesh-header"),
    ("{tls: {secretName: a}, probes: {kind: grpc}}", "probes.kind grpc needs a service without TLS"),
    ("{tls: {secretName: a}, service: {appProtocol: kubernetes.io/h2c}}", "kubernetes.io/h2c means plain text"),
    ("metrics: {serviceMonitor: {enabled: true}}", "metrics.serviceMonitor.enabled is set, but not metrics.enabled"),
    ("service: {appProtocol: tls}", "service.appProtocol tls means TLS, but tls.secretName is not set"),
    ("autoscaling: {enabled: true, minReplicas: 9}", "autoscaling.minReplicas (9) is more than autoscaling.maxReplicas (6)"),
    ("{autoscaling: {enabled: true}, resources: {requests: {cpu: null}}}", "autoscaling needs resources.requests.cpu"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_wrong_values_are_refused(values, message):
    # The later --values win.
    rendered = run_helm("template", "a", CHART, "--values", SETS["minimal"], "--values", "-", values=values)
    assert rendered.returncode != 0, "not refused"
    assert message in rendered.stderr


# Values without which Kubernetes chooses. All others with a default must be there.
MAY_BE_NULL = {
    "terminationGracePeriodSeconds",
    "securityContext",
    "securityContext.runAsUser",
    "securityContext.runAsGroup",
    "securityContext.fsGroup",
    "resources",
    "resources.requests",
    "resources.requests.cpu",
    "resources.requests.memory",
    "resources.limits",
    "resources.limits.memory",
}


@pytest.mark.parametrize(
    "values",
    [
        "resources: {requests: {memory: 256Mi}, limits: {memory: 268435456}}",
        "resources: {requests: {cpu: 1000m, memory: 0.5Gi}, limits: {cpu: 1, memory: 0.5Gi}}",
        "resources: {requests: {memory: 1M}, limits: {memory: 1000k}}",
        "resources: {requests: null}",
        "resources: {limits: {memory: null}}",
        "image: {repository: 'localhost:5000/team/customer-accounts'}",
        "image: {repository: 'Registry.example:443/a/b__c.d-e'}",
        "image: {repository: customer-accounts}",
        "prune: {schedule: '*/5 0-6,12 ? JAN-MAR MON'}",
        "podDisruptionBudget: {maxUnavailable: 100%}",
        "config: {lock-timeout: 1ms, watch-poll-interval: 0s, max-streams: 4294967295, max-buffered-bytes: 8589934592}",
        "config: {token-issuer: 'a=https://a/k?x=y,b=https://b/k', token-actor-prefix: 'b=b:'}",
        "config: {token-issuer: ['a=/k', 'b=/k'], token-actor-prefix: ['a=', 'b=b:']}",
    ],
)
def test_right_values_are_accepted(values):
    assert render("--values", SETS["minimal"], values=values)


def test_labels_that_kubernetes_accepts():
    labels = f"{{a.b/C_d: E.f-g, e: '', f: {'b' * 63}, 'sidecar.istio.io/inject': 'true'}}"
    assert render("--values", SETS["minimal"], values=f"{{podLabels: {labels}, nodeSelector: {labels}}}")


def test_null_is_refused_where_it_means_nothing():
    """Helm removes a value that is null, also a section below which every line is a comment."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    empty = {}

    def visit(values, part, path):
        required = set()
        for name, value in values.items():
            inner = f"{path}.{name}".lstrip(".")
            if value in ("", [], {}):
                parent = empty
                for key in path.split(".") if path else []:
                    parent = parent.setdefault(key, {})
                parent[name] = None
            elif inner not in MAY_BE_NULL:
                required.add(name)
            if isinstance(value, dict) and value:
                visit(value, part["properties"][name], inner)
        if not path.startswith("resources"):
            assert set(part.get("required", [])) == required, path

    visit(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")
    # What is empty by default may be null, which means the same.
    for name in ("image", "database", "migration", "config"):
        del empty[name]
    empty["image"] = {"tag": None, "digest": None}
    assert render("--values", SETS["minimal"], values=yaml.safe_dump(empty)) == render(values=SETS["minimal"])


@pytest.mark.parametrize("section", ["securityContext", "resources"])
def test_sections_that_may_be_null(section):
    template_ = find(render("--values", SETS["minimal"], values=f"{section}: null"), "Deployment")["spec"]["template"]["spec"]
    assert template_["securityContext"]["runAsNonRoot"] is True
    assert ("runAsUser" in template_["securityContext"]) == (section == "resources")
    assert ("resources" in template_["containers"][0]) == (section != "resources")


def test_an_old_kubernetes_is_refused():
    rendered = template("--kube-version", "1.26.15", values=SETS["minimal"])
    assert rendered.returncode != 0 and "requires kubeVersion" in rendered.stderr


# What Kubernetes checks, because it has dozens of forms of it.
FREE = {
    "global",
    "affinity.nodeAffinity",
    "affinity.podAffinity",
    "affinity.podAntiAffinity",
    "extraEnv[].valueFrom",
    "extraVolumes[]",
}


def test_the_schema_is_closed_at_every_level():
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_at = set()

    def visit(part, path):
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rsplit("/", 1)[1]]
        if part.get("type") == "object" and part.get("additionalProperties", True) is True:
            open_at.add(path)
        for name, inner in part.get("properties", {}).items():
            visit(inner, f"{path}.{name}".lstrip("."))
        if "items" in part:
            visit(part["items"], path + "[]")
        for inner in part.get("anyOf", []):
            visit(inner, path)
        assert part, f"{path} takes everything"

    visit(schema, "")
    assert open_at == FREE


def test_every_value_is_in_the_schema_and_has_a_comment():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    before = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if re.match(r" *[a-zA-Z-]+: *[^ ]", line):  # a value, not the beginning of a group
            assert "# " in line or before.lstrip().startswith("#"), f"no comment: {line}"
        before = line


def notes(*arguments, values):
    rendered = run_helm(
        "install", "shop", CHART, "--namespace", "sales", "--dry-run=client", "--values", values, *arguments
    )
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout.partition("NOTES:\n")[2]


@pytest.mark.parametrize(
    ("name", "settings", "sum_", "warned"),
    [
        # In an upgrade every old replica can still be ending when the last new one is ready: Kubernetes does not wait.
        ("minimal", "", "at most 42, which are 4 replicas (2 and, in an upgrade, the 2 before) x 10", False),
        ("minimal", "replicaCount=4", "at most 82, which are 8 replicas", False),
        ("minimal", "replicaCount=5", "at most 102, which are 10 replicas", True),
        ("minimal", "database.maxConnections=44", "at most 42", True),  # PostgreSQL keeps 3 for superusers
        ("minimal", "database.maxConnections=45", "at most 42", False),
        ("minimal", "rollout.maxSurge=2,config.pool-size=20,config.read-lanes=0", "at most 82, which are 4 replicas", False),
        ("minimal", "migration.enabled=false,prune.enabled=false", "at most 40", False),
        ("scaled", "", "at most 402, which are 40 replicas", False),
        ("scaled", "database.maxConnections=100", "at most 402, which are 40 replicas", True),
        ("minimal", "database.maxConnections=1000000,replicaCount=100000", "database.maxConnections is 1000000,", True),
    ],
)
def test_the_notes_add_up_database_connections(name, settings, sum_, warned):
    text = notes("--set", settings, values=SETS[name])
    assert sum_ in text
    assert ("WARNING: the server has only" in text) == warned


def test_the_notes_warn_of_cut_off_calls_and_forgeable_headers():
    cut_off, forgeable = "WARNING: a replica that ends cuts off", "WARNING: whoever reaches the port"
    found = {name: (cut_off in text, forgeable in text) for name in SETS for text in [notes(values=SETS[name])]}
    expected = dict.fromkeys(SETS, (False, False)) | {"prune": (True, False), "mesh": (False, True)}
    assert found == expected
    safe = notes("--set", "networkPolicy.enabled=true", values=SETS["mesh"])
    assert forgeable not in safe


def test_the_notes_name_the_image_that_runs():
    digest = "sha256:" + "a" * 64
    assert f"Customer Accounts {digest} serves" in notes("--set", f"image.tag=1.0,image.digest={digest}", values=SETS["minimal"])
    assert "Customer Accounts 1.0 serves" in notes("--set-string", "image.tag=1.0", values=SETS["minimal"])


def test_the_notes_name_what_there_is():
    text = notes(values=SETS["minimal"])
    names = {made["metadata"]["name"] for made in render(values=SETS["minimal"])}
    assert {"shop-customer-accounts", "shop-customer-accounts-headless"} <= names
    assert "shop-customer-accounts.sales:50051" in text
    assert "dns:///shop-customer-accounts-headless.sales:50051" in text
    assert "helm test shop --namespace sales" in text and "deployment/shop-customer-accounts" in text
    assert "headless" not in notes(values=SETS["prune"])


README = CHART / "README.md"


def examples(language):
    """The fenced blocks of README.md in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_every_example_of_the_readme_renders(tmp_path):
    first, *others = examples("yaml")
    (tmp_path / "values.yaml").write_text(first)
    assert find(render(values=first), "Deployment")
    additions = [block for block in others if "apiVersion:" not in block]  # else an object of a mesh
    assert len(additions) > 4
    for block in additions:
        objects = render("--values", tmp_path / "values.yaml", values=block)
        assert objects != render(values=first), block
        for made in objects:
            if made["kind"] not in ("GRPCRoute", "ServiceMonitor"):
                kubernetes_validate.validate(made, "1.37", strict=True)


def test_the_readme_names_values_options_and_files_that_exist():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    options = schema["properties"]["config"]["properties"]
    text = re.sub(r"```.*?```", "", README.read_text(), flags=re.DOTALL)
    named = re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z-]+)+)`", text)
    assert len(named) > 20
    for name in named:
        group, *path = name.split(".")
        if group not in values or name.endswith((".crt", ".key")):  # those are files
            continue
        if group == "config":
            assert path[0] in options, name
            continue
        value = values[group]
        for key in path:
            assert key in value, name
            value = value[key]
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (CHART / link).resolve().exists(), link
        assert (CHART / link).resolve().is_relative_to(ROOT)
