"""Faults that last: short in the tests, and as long as they may last in real life with ``python -m``.

``python -m tests.integration.faults controller-away`` takes the controller away for more than half of a certificate's
life, ``policy-storm`` applies a policy every second, for five minutes each. What was seen is printed; a promise that
was not kept is an AssertionError.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
from pathlib import Path

from tests.integration.controller_site import OPEN, Site, status, within
from tests.integration.host import Host, fetch, resident
from tests.integration.load import Load

BARRED = "/barred"
REASON = re.compile(rb"denied by mesh\.toml:(\d+)")
RULES = 40  # versions of :func:`barring` that differ in every line


def pair(directory: Path, life: float) -> Site:
    """Two hosts; each call from the first to the second is a handshake."""
    made = Site(directory, authority={"leaf_life": f"{life:g}s"})
    made.controller.start()
    made.host("s1", interval="2s", upstream_idle="100ms").add_upstream("s2")
    made.host("s2", interval="2s")
    made.controller.apply(OPEN)
    made.join()
    return made


def address_of(host: Host) -> str:
    """The port of a host that leads to its first upstream."""
    return str(host.conf["outbound"]["upstream"][0]["listen"])


def controller_away(made: Site, seconds: float, life: float) -> dict[str, object]:
    """Without a controller for ``seconds``: what flows goes on, it is told after half of ``life``, and passes."""
    hosts = tuple(made.hosts.values())
    handshakes = hosts[1].metric("tls_handshakes_total", 'side="server"')
    began = time.time()
    assert made.controller.stop() == 0
    alarmed = 0.0
    with Load(address_of(hosts[0]), clients=2, pause=0.15) as load:
        while time.time() < began + seconds:
            time.sleep(0.2)
            if not alarmed and "it ends at" in str(hosts[0].ask_json("/status")["degraded"]):
                alarmed = time.time() - began
        done = load.done
    assert load.failures == []
    made.controller.start()
    back = time.monotonic()
    within(40, lambda: {state for state, _ in made.controller.states().values()} == {"SYNCED"})
    within(40, lambda: not any(each.ask_json("/status")["degraded"] for each in hosts))
    assert status(hosts[0], "s2") == 200
    if seconds > life * 0.55:
        assert 0 < alarmed < life * 0.55
    made_now = hosts[1].metric("tls_handshakes_total", 'side="server"') - handshakes
    failed = sum(each.metric("tls_handshakes_total", 'result="failed"') for each in hosts)
    assert failed == 0
    return {
        "requests": done,
        "handshakes": made_now,
        "told after (s)": round(alarmed, 1),
        "well again after (s)": round(time.monotonic() - back, 1),
    }


def barring(number: int) -> dict[str, str]:
    """A policy that allows all but one path, with the rule, and another one that only tells, in lines of its own."""
    shift = number % RULES
    text = [f"# {number}", *["#"] * shift, "[[service.s2.deny]]", f'from = ["s1"]\npaths = ["{BARRED}"]']
    text += ["#"] * shift + ["[[service.s2.deny]]", f'from = ["s1"]\npaths = ["{BARRED}"]\naudit = true']
    return {"mesh.toml": '[defaults]\naccess = "allow"\n' + "\n".join(text) + "\n"}


def lines_of(number: int) -> tuple[int, int]:
    """Where these two rules begin."""
    lines = barring(number)["mesh.toml"].splitlines()
    first, second = (at for at, line in enumerate(lines, 1) if line == "[[service.s2.deny]]")
    return first, second


def policy_storm(made: Site, seconds: float, every: float) -> dict[str, object]:
    """A policy ``every`` so many seconds under load: nothing fails, and no request meets two of them."""
    h1, h2 = made.hosts.values()
    made.controller.await_generation(made.controller.apply(barring(0)))
    seen: set[int] = set()
    wrong: list[str] = []
    refused = 0
    over = threading.Event()

    def be_refused() -> None:
        nonlocal refused
        while not over.wait(0.005):
            outcome = fetch(address_of(h1), BARRED)
            reason = outcome.responses[0].values(b"x-hostproxy-reason") if outcome.responses else []
            found = REASON.search(b"".join(reason))
            refused += 1
            if outcome.statuses != [403] or found is None:
                wrong.append(str(outcome))
            else:
                seen.add(int(found[1]))

    def memory() -> int:
        return sum(resident(pid) for host in (h1, h2) for pid in host.processes())

    thread = threading.Thread(target=be_refused)
    early = number = 0
    with Load(address_of(h1), clients=2, pause=0.01) as load:
        thread.start()
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            number += 1
            generation = made.controller.apply(barring(number))
            if number == 2 * RULES:
                early = memory()
            time.sleep(max(0.0, began + number * every - time.monotonic()))
        made.controller.await_generation(generation)
        load.more(20)
        over.set()
        thread.join(10)
    assert load.failures == []
    assert wrong == []
    pairs = {lines_of(each) for each in range(RULES)}
    logged = [line for line in h2.access_log() if line["dir"] == "inbound" and line["status"] == 403]
    met = {(int(line["denied_by"].rpartition(":")[2]), int(line["audit"].rpartition(":")[2])) for line in logged}
    assert met <= pairs, f"decided by parts of two policies: {met - pairs}"
    assert len(met) > min(number, RULES) / 2
    late = memory()
    if early:
        assert late < early * 1.15, (early, late)
    return {
        "policies": number,
        "answered": load.done,
        "refused": refused,
        "versions met": len(met),
        "memory (bytes)": (early, late),
    }


def main() -> None:
    """Run one for as long as it may last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["controller-away", "policy-storm"])
    parser.add_argument("--seconds", type=float, default=0.0, help="how long (controller-away: 330, policy-storm: 300)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        life = 600.0 if options.name == "controller-away" else 43200.0
        made = pair(Path(directory), life)
        try:
            if options.name == "controller-away":
                print(controller_away(made, options.seconds or 330.0, life))
            else:
                print(policy_storm(made, options.seconds or 300.0, 1.0))
        finally:
            made.close()


if __name__ == "__main__":
    main()
