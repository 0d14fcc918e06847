"""checkov finds nothing in the manifests but what is accepted here, each with its reason."""

import json
import subprocess

from conftest import SETS, template

EVERY = {(name, component) for name in SETS for component in ("server", "migrate", "prune", "test")}
# What is accepted: the check, where, and why.
ACCEPTED = {
    # A limit of the processor slows calls down while the node has time to spare; the request reserves what is needed.
    "CKV_K8S_11": EVERY,
    # The operator chooses tag or digest; the value set with TLS has a digest.
    "CKV_K8S_43": {(name, component) for name, component in EVERY if name != "tls"},
    # Tags of releases are not moved, and a digest cannot be.
    "CKV_K8S_15": {(name, component) for name, component in EVERY if name != "tls"},
    # The service takes the URL of the database from the environment only; a command line would be less safe.
    "CKV_K8S_35": {(name, component) for name, component in EVERY if component != "test"},
    # These pods take no connections, and have no policy.
    "CKV2_K8S_6": {(name, component) for name, component in EVERY if component in ("migrate", "test")},
    # The pod of `helm test` ends by itself.
    "CKV_K8S_8": {(name, "test") for name in SETS},
    "CKV_K8S_9": {(name, "test") for name in SETS},
    # OpenShift chooses the ids.
    "CKV_K8S_40": {("prune", component) for component in ("server", "migrate", "prune", "test")},
}


def component(resource):
    """The component of a resource, which checkov names by kind, namespace and name."""
    kind = resource.split(".")[0]
    return {"Deployment": "server", "CronJob": "prune", "Job": "migrate"}.get(kind) or next(
        name for name in ("server", "migrate", "prune", "test") if name in resource.split(".", 2)[2]
    )


def test_checkov(tmp_path):
    for name, values in SETS.items():
        (tmp_path / f"{name}.yaml").write_text(template(values=values).stdout)
    command = ["checkov", "--directory", tmp_path, "--framework", "kubernetes", "--output", "json", "--quiet"]
    command.append("--skip-download")  # it needs no network
    done = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 1000 and not report["summary"]["parsing_errors"]
    found = {}
    for failed in report["results"]["failed_checks"]:
        where = (failed["file_path"].strip("/").removesuffix(".yaml"), component(failed["resource"]))
        found.setdefault(failed["check_id"], set()).add(where)
    unexpected = {check: where - ACCEPTED.get(check, set()) for check, where in found.items()}
    assert not {check: where for check, where in unexpected.items() if where}
    # What is accepted for nothing hides the next mistake.
    assert {check: where - found.get(check, set()) for check, where in ACCEPTED.items()} == dict.fromkeys(ACCEPTED, set())
