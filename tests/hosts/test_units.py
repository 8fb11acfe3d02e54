"""The units of systemd/ on real hosts: a controller, Consul with ACLs, and two hosts of a mesh, all as services.

``one`` has the controller, a server of Consul, and cart and web, who call; ``two`` has payments. Everything runs as
the units have it, users, hardening and all, and the callers are units and users themselves.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import consul
from tests.hosts import installation
from tests.hosts.bed import Bed, Done, Host
from tests.hosts.installation import CONTROLLER, PROGRAM
from tests.hosts.machine import Impossible
from tests.integration.host import eventually

ONE, TWO = "10.98.0.11", "10.98.0.12"
TRUST_DOMAIN = "corp.example"
CONF = "/etc/hostproxy/conf.toml"
ADMIN = "/run/hostproxy/admin.sock"
WAIT = 30.0  # seconds for what takes one or two

CONTROLLER_TOML = f"""
[mesh]
trust_domain = "{TRUST_DOMAIN}"
[controller]
dns = "one"
state_directory = "/var/lib/hostproxy-controller/state"
[authority]
directory = "/var/lib/hostproxy-controller/authority"
signing_key = "/var/lib/hostproxy-controller/authority/signing.key"
passphrase_file = "/run/credentials/hostproxy-controller.service/passphrase"
"""

POLICY = """
[defaults]
access = "deny"
[service.payments]
protocol = "http"
[[service.payments.allow]]
from = ["cart"]
"""

# {0} is the host's name, {1} its address, {2} and {3} how it joins.
COMMON = """
[host]
name = "{0}"
address = "{1}"
[mesh]
trust_domain = "corp.example"
[discovery]
backend = "consul"
[discovery.consul]
token_credential = "consul-token"
leave = "0s"
[identity]
mode = "controller"
[controller]
url = "{2}"
ca_fingerprint = "{3}"
join_token_file = "/run/credentials/hostproxy.service/join-token"
interval = "1s"
[admin]
listen = "unix:/run/hostproxy/admin.sock"
[log.access]
path = "/var/log/hostproxy/access.log"
[workers]
count = 2
"""

CALLERS = """
[[outbound.upstream]]
service = "payments"
listen = "127.0.0.1:80"
[[outbound.upstream]]
service = "payments"
listen = "unix:/run/hostproxy/payments.sock"
[[service]]
name = "cart"
unit = "cart@.service"
[[service]]
name = "web"
user = "web"
"""

PAYMENTS = """
[[service]]
name = "payments"
instances = ["127.0.0.1:8080"]
[service.check]
http = "/"
interval = "200ms"
"""

INSTANCE = """
[Service]
DynamicUser=yes
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /usr/share/doc 8080
[Install]
WantedBy=multi-user.target
"""

CONSUL = """
[Service]
ExecStart=/usr/local/bin/consul agent -config-file=/etc/consul.json
[Install]
WantedBy=multi-user.target
"""

# Calls payments until nobody holds the other end of its input, with a new connection for each; then says what failed.
LOAD = """
import json, select, sys, urllib.request
failures = []
print("begun", flush=True)
while not select.select([0], [], [], 0)[0]:
    try:
        urllib.request.urlopen("http://127.0.0.1:80/", timeout=40).read()
    except Exception as error:
        failures.append(str(error))
print(json.dumps(failures), flush=True)
"""

# Connects to an address, again and again, in the same way.
CONNECTIONS = """
import json, select, socket, sys
failures = []
print("begun", flush=True)
while not select.select([0], [], [], 0.01)[0]:
    try:
        socket.create_connection(("{0}", {1}), 20).close()
    except OSError as error:
        failures.append(str(error))
print(json.dumps(failures), flush=True)
"""

# Asks for what does not fit into any buffer on the way, and reads all but the beginning of it when it is told to.
DOWNLOAD = """
import json, sys, urllib.request
response = urllib.request.urlopen("http://127.0.0.1:80/large", timeout=40)
size = len(response.read(1000))
print("begun", flush=True)
sys.stdin.read()
size += len(response.read())
print(json.dumps([size]), flush=True)
"""
LARGE = 64 * 1024 * 1024

# A second installation, without pip: the same packages, and scripts that name its own interpreter.
SECOND = """
cp -a "$1/$2" "$1/$3"
sed -i "s,$1/$2,$1/$3,g" "$1/$3"/bin/hostproxy* "$1/$3/pyvenv.cfg"
"""


class Site:
    """The two hosts, with everything on them."""

    def __init__(self, one: Host, two: Host) -> None:
        self.one, self.two = one, two
        self._callers = 0

    def call(self, *curl: str, host: Host | None = None) -> Done:
        """One call of payments, by curl in an instance of cart@.service on ``one``."""
        return (host or self.one).run(*self.as_cart("curl", "-sS", "-i", "--max-time", "20", *curl), check=False)

    def as_cart(self, *command: str) -> list[str]:
        """A command line that runs ``command`` in an instance of cart@.service, as a user that is made for it."""
        self._callers += 1
        unit = f"--unit=cart@{self._callers}.service"
        settings = ["--property=DynamicUser=yes", "--property=SupplementaryGroups=hostproxy"]
        return ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", unit, *settings, *command]

    def reaches(self) -> bool:
        """Whether cart gets an answer of payments."""
        return self.call("http://127.0.0.1:80/").stdout.startswith("HTTP/1.1 200")

    def journal(self, host: Host, unit: str = "hostproxy") -> str:
        """What a unit has said since the host is up."""
        return host.run("journalctl", "--no-pager", "-o", "cat", "-u", unit).stdout


def show(host: Host, name: str, unit: str = "hostproxy") -> str:
    """A property of a unit."""
    return host.run("systemctl", "show", "-P", name, unit).stdout.strip()


def wait(condition: Callable[[], Any], host: Host | None = None) -> Any:
    """Until it holds; what hostproxy said on ``host`` comes with a failure."""
    try:
        return eventually(condition, WAIT)
    except AssertionError:
        if host is None:
            raise
        said = host.run("journalctl", "--no-pager", "-n", "60", "-u", "hostproxy*", "-u", "consul").stdout
        raise AssertionError(f"it did not happen in time; {host.name} says\n{said}") from None


def start_consul(host: Host, address: str, **settings: Any) -> None:
    tokens = {"master": consul.MASTER, "agent": consul.MASTER}
    document = {
        "node_name": host.name,
        "data_dir": "/var/lib/consul",
        "bind_addr": address,
        "log_level": "warn",
        "disable_update_check": True,
        "performance": {"raft_multiplier": 1},
        "retry_interval": "1s",
        "acl": {"enabled": True, "default_policy": "deny", "tokens": tokens},
        **settings,
    }
    host.copy(Path(consul.path()), "/usr/local/bin")
    host.write("/etc/consul.json", json.dumps(document))
    host.write("/etc/systemd/system/consul.service", CONSUL)
    host.write("/etc/credstore/hostproxy.consul-token", consul.MASTER, "0600")
    host.run("systemctl", "enable", "--now", "consul")


def start_controller(host: Host) -> None:
    """As docs/systemd.md says."""
    directory = "/var/lib/hostproxy-controller"
    options = ["--trust-domain", TRUST_DOMAIN, "--dns", host.name]
    host.run("runuser", "-u", "hostproxy-controller", "--", CONTROLLER, "init", directory, *options)
    passphrase = host.run("cat", f"{directory}/passphrase").stdout
    host.write("/etc/credstore/hostproxy-controller.passphrase", passphrase, "0600")
    host.run("rm", f"{directory}/passphrase", f"{directory}/controller.toml")
    host.write("/etc/hostproxy-controller/controller.toml", CONTROLLER_TOML)
    host.run("systemctl", "enable", "--now", "hostproxy-controller")
    wait(lambda: host.run(CONTROLLER, "status", check=False).returncode in (0, 1), host)


def start_hostproxy(controller: Host, host: Host, services: str) -> None:
    made = json.loads(controller.run(CONTROLLER, "token", "create", "--host", host.name, "-o", "json").stdout)
    host.write("/etc/credstore/hostproxy.join-token", made["token"], "0600")
    host.write(CONF, COMMON.format(host.name, host.address, made["url"], made["fingerprint"]) + services)
    host.run("systemctl", "enable", "hostproxy")
    host.run("systemctl", "start", "hostproxy", check=False)
    wait(lambda: show(host, "ActiveState") == "active", host)


def begin(bed: Bed, directory: Path) -> Site:
    with ThreadPoolExecutor() as pool:
        wheels = pool.submit(installation.wheels, directory)
        one = bed.up("one", ONE)
        two = bed.up("two", TWO)
        for done in [pool.submit(installation.install, host, wheels.result()) for host in (one, two)]:
            done.result()
    start_consul(one, ONE, server=True, bootstrap_expect=1)
    start_consul(two, TWO, retry_join=[ONE])
    start_controller(one)
    one.write("/root/policy/mesh.toml", POLICY)
    for service, host in (("cart", "one"), ("web", "one"), ("payments", "two")):
        one.run(CONTROLLER, "service", "assign", service, host)
    one.run(CONTROLLER, "policy", "apply", "/root/policy")
    two.write("/etc/systemd/system/payments.service", INSTANCE)
    two.run("systemctl", "enable", "--now", "payments")
    one.run("useradd", "--system", "web")
    drop_in = "[Socket]\nListenStream=127.0.0.1:80\n"
    one.write("/etc/systemd/system/hostproxy.socket.d/upstreams.conf", drop_in)
    one.run("systemctl", "daemon-reload")
    one.run("systemctl", "enable", "--now", "hostproxy.socket")
    start_hostproxy(one, two, PAYMENTS)
    start_hostproxy(one, one, CALLERS)
    site = Site(one, two)
    wait(site.reaches, one)
    return site


@pytest.fixture(scope="module")
def site(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Up and calling."""
    consul.path()
    try:
        return begin(bed, tmp_path_factory.mktemp("wheels"))
    except Impossible as impossible:
        pytest.skip(f"not tried on real hosts: {impossible}")


def test_systemd_knows_how_it_stands(site: Site) -> None:
    for host in (site.one, site.two):
        assert show(host, "ActiveState") == "active"
        assert show(host, "StatusText").startswith("serving 1 services, policy generation 1, consul ok")
        assert show(host, "NRestarts") == "0"
        said = site.journal(host)
        assert "ready: " in said
        assert not [line for line in said.splitlines() if " warn " in line or " error " in line or " critical " in line]
    assert show(site.one, "ActiveState", "hostproxy-controller") == "active"
    assert show(site.one, "StatusText", "hostproxy-controller").startswith("leads, ")
    assert show(site.one, "WatchdogTimestampMonotonic", "hostproxy-controller") != "0"


def test_it_may_do_nothing_more_than_it_needs(site: Site) -> None:
    for unit in ("hostproxy", "hostproxy-controller"):
        status = site.one.run("cat", f"/proc/{show(site.one, 'MainPID', unit)}/status").stdout
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert int(fields["CapEff"], 16) == (1 << 10 if unit == "hostproxy" else 0)  # CAP_NET_BIND_SERVICE
        uid = site.one.run("id", "-u", unit).stdout.strip()
        assert fields["Uid"].split() == [uid] * 4


def test_callers_are_known_by_unit_and_user(site: Site) -> None:
    by_unit = site.call("http://127.0.0.1:80/")
    assert by_unit.stdout.startswith("HTTP/1.1 200"), by_unit
    on_unix_socket = site.call("--unix-socket", "/run/hostproxy/payments.sock", "http://payments/")
    assert on_unix_socket.stdout.startswith("HTTP/1.1 200"), on_unix_socket
    by_user = site.one.run("runuser", "-u", "web", "--", "curl", "-sS", "-i", "http://127.0.0.1:80/").stdout
    assert by_user.startswith("HTTP/1.1 403")
    assert f"spiffe://{TRUST_DOMAIN}/service/web may not GET" in by_user
    nobody = site.one.run("curl", "-sS", "-i", "http://127.0.0.1:80/").stdout
    assert nobody.startswith("HTTP/1.1 403")
    assert "no [[service]] of conf.toml has the unit or user of a process of user 0" in nobody


def test_operators_see_it_and_the_access_log_is_written(site: Site) -> None:
    status = site.one.run(PROGRAM, "status", check=False)
    assert status.returncode == 0, status

    def metrics() -> str:
        return site.one.run("curl", "-sS", "--unix-socket", ADMIN, "http://localhost/metrics").stdout

    def lines() -> list[dict[str, Any]]:
        written = site.one.run("cat", "/var/log/hostproxy/access.log", check=False).stdout
        return [json.loads(line) for line in written.splitlines()]

    wait(lambda: "\nhostproxy_requests_total{" in metrics())
    wait(lambda: any(line["source"] == "cart" and line["status"] == 200 for line in lines()))


def test_consul_is_asked_with_the_credential(site: Site) -> None:
    token = f"X-Consul-Token: {consul.MASTER}"
    found = site.one.run("curl", "-sS", "-H", token, "http://127.0.0.1:8500/v1/health/service/payments?passing").stdout
    assert [entry["Node"]["Node"] for entry in json.loads(found)] == ["two"]
    credentials = site.one.run("stat", "-c", "%U %a", "/run/credentials/hostproxy.service/consul-token").stdout
    assert credentials == "hostproxy 400\n"


def test_a_wrong_configuration_is_refused_by_reload(site: Site) -> None:
    before = site.one.run("cat", CONF).stdout
    pid = show(site.one, "MainPID")
    try:
        site.one.write(CONF, before + "[limits]\ndrain = 30\n")
        refused = site.one.run("systemctl", "reload", "hostproxy", check=False)
        assert refused.returncode != 0
        wait(lambda: f"{CONF}:{before.count(chr(10)) + 2}: limits.drain" in site.journal(site.one), site.one)
        assert site.reaches()
        site.one.write(CONF, before + '[limits]\ndrain = "20s"\n')
        accepted = site.one.run("systemctl", "reload", "hostproxy", check=False)
        assert accepted.returncode == 0, site.journal(site.one)[-3000:]
        wait(lambda: "reloaded /etc/hostproxy/conf.toml" in site.journal(site.one), site.one)
    finally:
        site.one.write(CONF, before)
        site.one.run("systemctl", "reload", "hostproxy", check=False)
    assert (show(site.one, "MainPID"), show(site.one, "ActiveState")) == (pid, "active")


@pytest.fixture
def quick_watchdog(site: Site) -> Iterator[None]:
    """What takes a minute in the unit, in seconds."""
    path = "/run/systemd/system/hostproxy.service.d/watchdog.conf"
    site.one.write(path, "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    site.one.run("systemctl", "daemon-reload")
    site.one.run("systemctl", "restart", "hostproxy")
    wait(site.reaches, site.one)
    yield
    site.one.run("rm", path)
    site.one.run("systemctl", "daemon-reload")
    site.one.run("systemctl", "restart", "hostproxy")
    wait(site.reaches, site.one)


def test_a_supervisor_that_hangs_is_replaced_while_workers_serve(site: Site, quick_watchdog: None) -> None:
    pid = show(site.one, "MainPID")
    restarts = int(show(site.one, "NRestarts"))
    site.one.run("kill", "-STOP", pid)
    while int(show(site.one, "NRestarts")) == restarts:
        assert site.reaches()
    wait(lambda: show(site.one, "ActiveState") == "active", site.one)
    assert show(site.one, "MainPID") != pid
    assert "Watchdog timeout" in site.journal(site.one)
    assert "taking over from worker" in site.journal(site.one)
    assert site.reaches()


@contextlib.contextmanager
def running(host: Host, *command: str) -> Iterator[Callable[[], list[Any]]]:
    """A program that goes on as long as this is open; afterwards, what it says in the end."""
    pipe = subprocess.PIPE
    with subprocess.Popen(host.command(*command), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        found: list[Any] = []
        try:
            yield lambda: found
        finally:
            process.stdin.close()
        found.extend(json.loads(process.stdout.read()))


def load(site: Site) -> contextlib.AbstractContextManager[Callable[[], list[Any]]]:
    """Calls, one after the other, as long as it is open; afterwards, what failed."""
    return running(site.one, *site.as_cart("python3", "-c", LOAD))


def install(site: Site, name: str) -> None:
    """Have a second installation."""
    site.one.run("sh", "-ec", SECOND, "sh", installation.PREFIX, installation.VERSION, name)


def switch(site: Site, name: str) -> Done:
    """Have it used from now on, and reload."""
    site.one.run("ln", "-sfn", name, f"{installation.PREFIX}/current")
    return site.one.run("systemctl", "reload", "hostproxy", check=False)


def test_a_reload_upgrades(site: Site) -> None:
    """Calls and a download go on, systemd follows the main process, and a version that is no good changes nothing."""
    install(site, "next")
    install(site, "broken")
    (supervisor,) = site.one.run(
        "sh", "-c", f"ls {installation.PREFIX}/broken/lib/python3*/site-packages/hostproxy/supervisor.py"
    ).stdout.split()
    site.one.run("sh", "-c", f"echo 'raise RuntimeError(\"out of order\")' >>{supervisor}")
    site.two.run("truncate", "-s", str(LARGE), "/usr/share/doc/large")
    pid, restarts = show(site.one, "MainPID"), show(site.one, "NRestarts")
    with load(site) as failures, running(site.one, *site.as_cart("python3", "-c", DOWNLOAD)) as sizes:
        failed = switch(site, "broken")
        assert failed.returncode != 0
        errors = ["journalctl", "--no-pager", "-o", "cat", "-p", "err", "-u", "hostproxy"]
        wait(lambda: "the upgrade failed" in site.one.run(*errors).stdout, site.one)
        wait(lambda: "out of order" in site.journal(site.one), site.one)
        assert (show(site.one, "MainPID"), show(site.one, "ActiveState")) == (pid, "active")
        done = switch(site, "next")
        assert done.returncode == 0, site.journal(site.one)[-5000:]
    assert failures() == []
    assert sizes() == [LARGE]
    new = show(site.one, "MainPID")
    assert new != pid
    assert f"process {new} has taken over" in site.journal(site.one)
    assert f"{installation.PREFIX}/next/bin/python" in site.one.run("cat", f"/proc/{new}/cmdline").stdout
    wait(lambda: not site.one.run("ls", f"/proc/{pid}", check=False).stdout)
    fed = int(show(site.one, "WatchdogTimestampMonotonic"))
    wait(lambda: int(show(site.one, "WatchdogTimestampMonotonic")) > fed, site.one)
    back = switch(site, installation.VERSION)
    assert back.returncode == 0, site.journal(site.one)[-5000:]
    assert (show(site.one, "ActiveState"), show(site.one, "NRestarts")) == ("active", restarts)
    # What is on disk serves until the controller has been heard.
    wait(lambda: show(site.one, "StatusText").endswith("policy generation 1, consul ok"), site.one)
    # Who has taken over is waited for as any other when it is stopped.
    left = site.journal(site.one).count("deregistered hostproxy in Consul")
    site.one.run("systemctl", "restart", "hostproxy")
    assert site.journal(site.one).count("deregistered hostproxy in Consul") == left + 1
    assert site.reaches()


def test_a_killed_supervisor_is_replaced_and_nobody_notices(site: Site) -> None:
    with load(site) as failures:
        restarts = int(show(site.one, "NRestarts"))
        site.one.run("kill", "-KILL", show(site.one, "MainPID"))
        wait(lambda: int(show(site.one, "NRestarts")) > restarts, site.one)
        wait(lambda: show(site.one, "ActiveState") == "active", site.one)
    assert failures() == []


def test_a_restart_loses_nothing(site: Site) -> None:
    pid = show(site.one, "MainPID")
    with load(site) as failures:
        for _ in range(2):
            site.one.run("systemctl", "restart", "hostproxy")
    assert failures() == []
    assert show(site.one, "MainPID") != pid


def test_nobody_is_refused_during_a_restart_without_a_socket_unit(site: Site) -> None:
    assert show(site.two, "NFileDescriptorStore") != "0"
    with running(site.two, "python3", "-c", CONNECTIONS.format(TWO, 15443)) as failures:
        site.two.run("systemctl", "restart", "hostproxy")
    assert failures() == []
    wait(site.reaches, site.one)


def test_a_stop_leaves_nothing(site: Site) -> None:
    site.two.run("systemctl", "stop", "hostproxy")
    assert show(site.two, "ActiveState") == "inactive"
    assert show(site.two, "Result") == "success"
    assert site.two.run("pgrep", "-u", "hostproxy", check=False).stdout == ""
    assert site.two.run("ls", "-d", "/run/hostproxy", check=False).returncode != 0
    site.two.run("systemctl", "start", "hostproxy")
    wait(site.reaches, site.one)


def test_all_of_it_comes_back_after_a_reboot(site: Site) -> None:
    site.two.reboot()
    site.one.reboot()
    wait(site.reaches, site.one)
