"""How often somebody may guess, and ask for certificates. No clock: the time, in seconds, comes with each question."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

FREE = 5  # attempts that fail before there is a wait
FIRST = 1.0  # seconds of the first wait; each one after it is twice as long
LONGEST = 300.0
FORGIVEN = 900.0  # seconds without an attempt after which all is forgotten
MODEST = 20.0  # certificates that a host takes in a minute before it counts as one that asks for much
RESERVED = 0.5  # of what all may have, for those that do not
MOST_KNOWN = 10_000  # addresses or hosts; the one that has been quiet for longest goes


class _Guesser:
    __slots__ = ("failures", "last", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.last = 0.0
        self.until = 0.0


class Guesses:
    """Waits for addresses that come with wrong tokens. Nobody waits for what another address did."""

    def __init__(self, most: int = MOST_KNOWN) -> None:
        self._most = most
        self._known: OrderedDict[str, _Guesser] = OrderedDict()

    def attempt(self, address: str, now: float) -> float:
        """Count an attempt. 0.0: it may be made; else the seconds to wait, and it may not.

        It counts as failed until :meth:`succeeded` says otherwise, so that many at the same time gain nothing.
        """
        name = _network(address)
        guesser = self._known.get(name)
        if guesser is None or now - guesser.last > FORGIVEN:
            guesser = self._known[name] = _Guesser()
        if now < guesser.until:
            return guesser.until - now
        guesser.failures += 1
        guesser.last = now
        if guesser.failures > FREE:
            guesser.until = now + min(LONGEST, FIRST * 2.0 ** min(guesser.failures - FREE - 1, 30))
        self._known.move_to_end(name)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return 0.0

    def succeeded(self, address: str) -> None:
        """The token was right: the address is no guesser."""
        self._known.pop(_network(address), None)

    def __len__(self) -> int:
        return len(self._known)


class _Bucket:
    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at

    def wait(self, rate: float, most: float, now: float, left: float = 0.0) -> float:
        """Seconds until one can be taken so that ``left`` are there still."""
        self.tokens = min(most, self.tokens + max(0.0, now - self.at) * rate)
        self.at = now
        return (left + 1.0 - self.tokens) / rate if self.tokens < left + 1.0 else 0.0


class Rates:
    """How many certificates are issued, to one host and to all. What a host may not have costs the others nothing.

    A part of what all may have is kept for hosts that ask for little: a few that ask for all they may get leave it.
    """

    def __init__(self, host_per_minute: float, per_minute: float, now: float, most: int = MOST_KNOWN) -> None:
        """A minute's worth may come at once."""
        self._host = host_per_minute
        self._all = per_minute
        self._most = most
        self._total = _Bucket(per_minute, now)
        self._hosts: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, host: str, now: float) -> float:
        """Ask for one. 0.0: granted; else the seconds to wait, and it is not."""
        bucket = self._hosts.get(host)
        if bucket is None:
            bucket = self._hosts[host] = _Bucket(self._host, now)
            if len(self._hosts) > self._most:
                self._hosts.popitem(last=False)
        self._hosts.move_to_end(host)
        wait = bucket.wait(self._host / 60, self._host, now)
        if not wait:
            greedy = self._host - bucket.tokens >= MODEST
            wait = self._total.wait(self._all / 60, self._all, now, self._all * RESERVED if greedy else 0.0)
        if not wait:
            bucket.tokens -= 1.0
            self._total.tokens -= 1.0
        return wait

    def __len__(self) -> int:
        return len(self._hosts)


def _network(address: str) -> str:
    """The address, or of an IPv6 address the network that one subscriber has: 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return str(found)
