"""The connections that are open, and what they may have together: places, and bytes of bodies."""

# twisted.internet.protocol has hardly any annotations.
# mypy: disallow-untyped-calls=False

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory

from controller.api.http import Channel, Limit, Respond

# Bytes of all bodies that are held at a time. Above it, who comes with another one is told to come again.
BODIES = 64 * 1024 * 1024
# Of these, what all may have together who have shown no certificate: a length is soon said, and the rest is for hosts.
STRANGERS = 16 * 1024 * 1024
STRANGER = 8 * 1024 * 1024  # and what one address may have of that


class ApiFactory(ServerFactory):
    """Makes connections, and knows how many are open, and from where."""

    noisy = False

    def __init__(self, respond: Respond, limit: Limit, clock: Any, most: int, per_address: int) -> None:
        """``most`` connections at a time, ``per_address`` of them from one address. ``clock`` has ``callLater``."""
        self.respond = respond
        self.limit = limit
        self.clock = clock
        self.turned_away = 0  # connections, because there were too many
        self.open: dict[Channel, None] = {}  # the oldest first
        self._theirs: Counter[str] = Counter()  # bytes of bodies by address, of those without a certificate
        self._most = most
        self._per_address = per_address
        self._addresses: Counter[str] = Counter()
        self._bodies = 0

    def has_room(self, address: str) -> bool:
        """Whether one more connection from there may be open; counts those that may not, or had to give way.

        When all places are taken, the oldest who has shown no certificate gives way: silence is no reason to stay.
        """
        if self._addresses[address] >= self._per_address:
            self.turned_away += 1
            return False
        if len(self.open) < self._most:
            return True
        self.turned_away += 1
        oldest = next((each for each in self.open if not each.trusted and each.transport is not None), None)
        if oldest is None:
            return False
        self.closed(oldest)
        oldest.transport.abortConnection()
        return True

    def buildProtocol(self, addr: IAddress | None) -> Channel | None:
        address = "" if isinstance(addr, UNIXAddress) else str(getattr(addr, "host", ""))
        if not self.has_room(address):
            return None
        channel = Channel(self, address)
        self.open[channel] = None
        self._addresses[address] += 1
        return channel

    def closed(self, channel: Channel) -> None:
        """A connection is over."""
        if channel not in self.open:
            return  # it had to give way before
        del self.open[channel]
        self._addresses[channel.address] -= 1
        if not self._addresses[channel.address]:
            del self._addresses[channel.address]

    def reserve(self, channel: Channel, size: int) -> bool:
        """Count bytes of a body that is to come; False: there is no room for them now."""
        if self._bodies + size > BODIES:
            return False
        if not channel.trusted:
            theirs = self._theirs[channel.address] + size
            if self._theirs.total() + size > STRANGERS or theirs > STRANGER:
                return False
            self._theirs[channel.address] = theirs
        self._bodies += size
        return True

    def release(self, channel: Channel, size: int) -> None:
        """They are not held any more."""
        self._bodies -= size
        if not channel.trusted:
            self._theirs[channel.address] -= size
            if not self._theirs[channel.address]:
                del self._theirs[channel.address]

    def drain(self) -> None:
        """Close what is idle, and the rest once it is answered."""
        for channel in list(self.open):
            channel.drain()

    def abort(self) -> None:
        """Cut every connection."""
        for channel in list(self.open):
            channel.transport.abortConnection()
