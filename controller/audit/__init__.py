"""What was done, by whom, to what, and how it ended: one line of JSON for each act, chained by SHA-256.

Each line has the hash of the line before and ends with its own, so that a line that was edited, removed, added or moved
is found by :func:`verify`. Beside the log stands ``PATH.head`` with number and hash of the last line, so that lines
missing at the end are found too.

What this can't do: whoever may write both files can write a whole new history that is right in itself. Against that,
keep a head where they cannot write (another machine: Consul, a log collector, a notebook), and give it to ``verify``:
the line of that number has to have that hash for ever. Lines after the last head that was kept elsewhere are as safe as
the disk is.

A line is on the disk before the act is answered. When it can't be written, :class:`AuditFailed` is what the act ends
with. A line has about 450 bytes: 1,000 hosts with five services each, certificates renewed every 6 hours, write 11 MB a
day. The log is never rotated, because the chain would end: to begin another, stop the controller, and move log and head
away together.

    chain   what a line is, and what is found when somebody changed one
    file    the log on the disk: appended to, and put right after a crash
    log     acts, as they come
"""

from __future__ import annotations

from controller.audit.chain import Broken, Head, verify
from controller.audit.file import AuditFailed
from controller.audit.log import Audit

__all__ = ("Audit", "AuditFailed", "Broken", "Head", "verify")
