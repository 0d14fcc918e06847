"""The chart sets options that the service has, and knows all of them."""

import json
import re

import options
import pytest
from conftest import CHART, ROOT, SETS, container, environment, pod_templates, render


def test_every_variable_is_one_that_the_service_reads(objects, value_set):
    known = options.of_the_service() | options.OTHERS
    if "extraEnv" in SETS[value_set].read_text():
        known.add("OTEL_TRACES_SAMPLER")  # of the value set itself
    for component, pod in pod_templates(objects).items():
        assert set(environment(pod)) <= known, component


def test_the_schema_lists_every_option():
    schema = json.loads((CHART / "values.schema.json").read_text())
    names = schema["properties"]["config"]["properties"]
    listed = {"CUSTOMER_ACCOUNTS_" + name.upper().replace("-", "_") for name in names}
    assert listed == options.of_the_service() - options.SET_BY_THE_CHART, (
        "values.schema.json lists the options under config by name, or tests/options.py says that the chart sets them"
    )


def test_the_schema_knows_which_durations_may_be_zero():
    schema = json.loads((CHART / "values.schema.json").read_text())
    listed = schema["properties"]["config"]["properties"]
    of_kind = lambda kind: {name for name, part in listed.items() if part.get("$ref") == f"#/definitions/{kind}"}  # noqa: E731
    assert of_kind("positiveDuration") == options.parsed_by("not_zero")
    assert of_kind("duration") == options.parsed_by("duration") | {"token-leeway"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("max-message-bytes: 104857600", "104857600"),  # Helm would print 1.048576e+08
        ("compress-above: never", "never"),
        ("reflection: false", "false"),
        ("token-audience: [a, b]", "a,b"),
        ("token-audience: a", "a"),
        ("read-lanes: 0", "0"),
        ('log: "warn,customer_accounts=debug"', "warn,customer_accounts=debug"),
    ],
)
def test_values_arrive_as_the_service_reads_them(value, text):
    name = value.split(":")[0]
    values = f"config: {{{value}}}"
    pod = pod_templates(render("--values", SETS["minimal"], values=values))["server"]
    assert environment(pod)["CUSTOMER_ACCOUNTS_" + name.upper().replace("-", "_")] == text


def test_all_commands_get_the_same_options(objects):
    pods = pod_templates(objects)
    server = environment(pods["server"])
    for command in ("migrate", "prune"):
        assert container(pods[command])["args"] == [command]
        for name, value in environment(pods[command]).items():
            assert name == "DATABASE_URL" or server[name] == value, (command, name)


def test_the_service_listens_for_others_and_never_migrates(objects, value_set):
    variables = environment(pod_templates(objects)["server"])
    host = "[::]" if value_set == "prune" else "0.0.0.0"
    assert variables["CUSTOMER_ACCOUNTS_LISTEN"] == f"{host}:50051"
    assert variables["CUSTOMER_ACCOUNTS_MIGRATE"] == "false"
    metrics = variables.get("CUSTOMER_ACCOUNTS_METRICS_LISTEN")
    assert metrics == (f"{host}:9464" if value_set == "scaled" else None)


def test_the_chart_is_for_this_version_of_the_service():
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert f'appVersion: "{version}"' in (CHART / "Chart.yaml").read_text()
    image = container(pod_templates(render(values=SETS["minimal"]))["server"])["image"]
    assert image == f"registry.example/customer-accounts:{version}"
