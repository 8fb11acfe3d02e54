"""What is logged of handshakes that failed: who, why and what to do, and never a line for each of thousands."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from hostproxy.identity.peer import REMEDIES, PeerRefused

QUIET = 60.0  # seconds between two lines of one kind


def _is_alert(reason: str) -> bool:
    return reason.startswith("alert-")


class Refusals:
    """One log for each process. Reasons are words of a fixed set, so what is remembered is bounded."""

    log = Logger()

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds."""
        self._clock = clock
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # when the next line is due, and how many since

    def note(self, side: str, peer: str, reason: str, error: Exception | None = None) -> None:
        """A handshake failed: ``side`` "server" or "client", ``peer`` an address, ``reason`` a word of the counter.

        Only what somebody can do something about is logged: peers that just go away are counted.
        """
        remedy = REMEDIES.get(reason, "the other side refused us, and its log says why" if _is_alert(reason) else "")
        detail = error.detail if isinstance(error, PeerRefused) else ""
        if not (remedy or detail):
            return
        now = self._clock()
        due, unsaid = self._kinds.get((side, reason), (now, 0))
        if now < due:
            self._kinds[side, reason] = (due, unsaid + 1)
            return
        self._kinds[side, reason] = (now + QUIET, 0)
        self.log.warn(
            "TLS handshake {way} {peer} failed: {text}{more}",
            way="from" if side == "server" else "with",
            peer=peer or "a peer",
            text="; ".join(each for each in (reason, detail, remedy) if each),
            more=f" ({unsaid} more like it since the last such line)" if unsaid else "",
        )
