"""What .ci/failover-run, .ci/pooler-run and .ci/rollout-run share: a folder and processes that end
with the script, a service on a port of its own, its generated clients, psql, and the comparison of
the accounts that were answered with those that are stored.
"""

import contextlib
import csv
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POSTGRES = Path(os.environ["POSTGRES_BIN"])  # the folder of its programs
SERVICE = os.path.abspath(os.environ["SERVICE_BIN"])  # the program of the service
# PostgreSQL, PgBouncer and Patroni refuse to run as root.
AS_USER = []
if os.geteuid() == 0:
    AS_USER = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


class Fault(Exception):
    """Something that these scripts are to find."""


def say(text):
    print(text, flush=True)


@contextlib.contextmanager
def scratch(name):
    """A folder, and an ExitStack that ends before the folder is removed.

    In /tmp: paths of sockets must be short, and another user must have access.
    """

    def end(number, _frame):
        sys.exit(128 + number)

    signals = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    for number in signals:
        signal.signal(number, end)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir="/tmp"))
    try:
        folder.chmod(0o755)
        if AS_USER:
            shutil.chown(folder, "nobody")
        with contextlib.ExitStack() as stack:
            try:
                yield folder, stack
            finally:
                for number in signals:
                    signal.signal(number, signal.SIG_IGN)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def logs(folder, names):
    """Prints the ends of logs when something goes wrong. A Fault ends the script."""
    try:
        yield
    except Exception as error:
        for name in names:
            log = folder / f"{name}.log"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            say(f"--- the end of the log of {name}")
            say("\n".join(lines[-10:]))
        if isinstance(error, Fault):
            sys.exit(f"fault: {error}")
        raise


def shared(path, folder):
    """The path, or a copy of it in the folder, if the other user has no access to it."""
    if run(*AS_USER, "test", "-r", path, check=False).returncode == 0:
        return path
    copy = folder / path.name
    shutil.copytree(path, copy, symlinks=True)
    return copy


def free_ports(count):
    """Ports of the loopback address that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(what, seconds, condition):
    """Asks again and again, until the answer is true. It is the result."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Fault(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Process:
    """A process whose output is in a file. It ends with the script."""

    def __init__(self, stack, command, log, environment=None):
        self.log = Path(log)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**os.environ, **(environment or {})},
            )
        self.pid = self.process.pid
        stack.callback(self.kill)

    def has_ended(self):
        return self.process.poll() is not None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, seconds=30):
        """Returns the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def text(self):
        return self.log.read_text(errors="replace")


def run(*command, environment=None, check=True):
    """Runs a command to its end."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if check and done.returncode != 0:
        raise Fault(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def sql(url, statement, check=True):
    """The rows of a statement, as lists of texts; None if it fails and `check` is false."""
    options = ("-X", "-q", "--csv", "-t", "-v", "ON_ERROR_STOP=1")
    done = run(POSTGRES / "psql", *options, "-c", statement, url, check=check)
    if done.returncode == 0:
        return list(csv.reader(io.StringIO(done.stdout)))
    return None


def prepare(url):
    """Makes the roles of docs/OPERATIONS.md; the logins are `migrator` and `service`."""
    sql(
        url,
        """
        CREATE ROLE customer_accounts_owner NOLOGIN;
        CREATE ROLE customer_accounts_app NOLOGIN;
        GRANT USAGE, CREATE ON SCHEMA public TO customer_accounts_owner;
        GRANT USAGE ON SCHEMA public TO customer_accounts_app;
        CREATE ROLE migrator LOGIN IN ROLE customer_accounts_owner;
        CREATE ROLE service LOGIN IN ROLE customer_accounts_app;
        """,
    )


class Service:
    """A running service. It believes what callers say about themselves."""

    def __init__(self, stack, log, url, *options, program=SERVICE, address=None):
        self.stack, self.log, self.url, self.options = stack, log, url, options
        self.address = address or f"127.0.0.1:{free_ports(1)[0]}"
        self.start(program)

    def start(self, program=SERVICE):
        """Starts a program at the address of the service, and waits until it serves."""
        command = [program, "serve", "--listen", self.address, "--migrate", "false", *self.options]
        self.process = Process(self.stack, command, self.log, {"DATABASE_URL": self.url})

        def serves():
            if self.process.has_ended():
                raise Fault(f"the service does not start: {self.process.text()}")
            done = run(program, "healthcheck", "--listen", self.address, check=False)
            return done.returncode == 0

        wait_until("the service serves", 30, serves)


def compile_contract(folder):
    """Generates the clients in Python; from then on they can be imported."""
    generated = folder / "generated"
    generated.mkdir()
    contract = ROOT / "proto"
    files = sorted((contract / "accounts").rglob("*.proto"))
    options = (f"-I{contract}", f"--python_out={generated}", f"--grpc_python_out={generated}")
    run(sys.executable, "-m", "grpc_tools.protoc", *options, *files)
    sys.path.insert(0, str(generated))


def reason(error):
    """The reason of an error, and the delay of its RetryInfo in seconds; None where it has none."""
    from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
    from grpc_status import rpc_status

    found = delay = None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(info) and info.domain == "accounts.v1":
            found = info.reason
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return found, delay


def persistently(call, request, metadata, seconds, refused, timeout=5):
    """Sends a request again while the service says that this may help, as docs/CLIENTS.md tells.

    A change must have a request_id. `refused` gets the code and the reason of each refusal.
    """
    import grpc

    again = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "RESOURCE_EXHAUSTED")
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            why, delay = reason(error)
            code = error.code().name
            refused(f"{code} {why or 'without a reason'}")
            if not (code in again or why == "CONFLICT") or time.monotonic() > deadline:
                raise
            time.sleep(delay or 0.1)


def compare(ask, tenant, answered):
    """Which answered accounts (a name and an id each) are lost, which accounts there are twice, and
    which have not exactly one activity of their creation. `ask` returns the rows of a statement.
    """
    accounts, created = {}, Counter()
    rows = ask(f"SELECT display_name, account_id FROM accounts WHERE tenant_id = '{tenant}'")
    for name, account_id in rows:
        accounts.setdefault(name, []).append(account_id)
    rows = ask(
        "SELECT resource_id FROM activities"
        f" WHERE tenant_id = '{tenant}' AND action = 'account.created'"
    )
    for (account_id,) in rows:
        created[account_id] += 1
    lost = [name for name, id_ in answered.items() if id_ not in accounts.get(name, [])]
    doubled = [name for name, ids in accounts.items() if len(ids) > 1]
    trail = [ids[0] for ids in accounts.values() if created[ids[0]] != 1]
    trail += created.keys() - {id_ for ids in accounts.values() for id_ in ids}
    return lost, doubled, trail


def create_organization(channel, tenant, display_name="Acme", refused=say):
    """Creates the organization `acme`, to which accounts can belong."""
    from accounts.v1 import organizations_pb2, organizations_pb2_grpc

    stub = organizations_pb2_grpc.OrganizationServiceStub(channel)
    organization = organizations_pb2.Organization(organization_id="acme", display_name=display_name)
    request = organizations_pb2.CreateOrganizationRequest(organization=organization)
    request.request_id = "organization"
    persistently(stub.CreateOrganization, request, (("x-tenant-id", tenant),), 30, refused)
