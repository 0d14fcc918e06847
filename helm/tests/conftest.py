"""Renders the chart with the real Helm. `.ci/chart` puts `helm` on PATH."""

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/customer-accounts"
SETS = {path.stem: path for path in sorted((CHART / "ci").glob("*.yaml"))}
RELEASE, NAMESPACE = "shop", "sales"


class StrictLoader(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which Kubernetes would take either."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"the same key twice in {keys}{node.start_mark}"
        return super().construct_mapping(node, deep)


def run_helm(*arguments, values=None):
    """Runs helm. `values` is YAML text that goes to its standard input, for `--values -`."""
    return subprocess.run(["helm", *map(str, arguments)], input=values, capture_output=True, text=True)


def template(*arguments, values=""):
    """Renders the chart. `values` is YAML text or a value set's path, and wins over files among the arguments."""
    if isinstance(values, Path):
        values = values.read_text()
    return run_helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *arguments, "--values", "-", values=values)


def render(*arguments, values=""):
    """The objects of the chart."""
    rendered = template(*arguments, values=values)
    assert rendered.returncode == 0, rendered.stderr
    return [made for made in yaml.load_all(rendered.stdout, StrictLoader) if made]


def find(objects, kind, suffix=""):
    """The only object of this kind with such a name, or None."""
    found = [made for made in objects if made["kind"] == kind and made["metadata"]["name"].endswith(suffix)]
    assert len(found) <= 1, [made["metadata"]["name"] for made in found]
    return found[0] if found else None


def pod_templates(objects):
    """The metadata and spec of every pod, by its component."""
    pods = {}
    for made in objects:
        match made["kind"]:
            case "Pod":
                pod = made
            case "Deployment" | "Job":
                pod = made["spec"]["template"]
            case "CronJob":
                pod = made["spec"]["jobTemplate"]["spec"]["template"]
            case _:
                continue
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        assert component not in pods, f"two kinds of pods are {component}"
        pods[component] = pod
    return pods


def container(pod):
    """The only container of a pod."""
    (only,) = pod["spec"]["containers"]
    return only


def environment(pod):
    """The variables of a pod's container: their values, or where these come from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container(pod)["env"]}


@pytest.fixture(params=SETS)
def value_set(request):
    """The name of each value set in turn."""
    return request.param


@pytest.fixture
def objects(value_set):
    """The objects of each value set in turn."""
    return render(values=SETS[value_set])
