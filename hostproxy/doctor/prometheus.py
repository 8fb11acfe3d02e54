"""Sums of the daemon's metrics."""

from __future__ import annotations

from hostproxy.doctor import http
from hostproxy.doctor.findings import Around
from hostproxy.mesh.addresses import is_unix


def text(around: Around) -> bytes | None:
    """The page; None when it could not be had."""
    address = around.config.admin.listen
    try:
        answer = http.ask(address if is_unix(address) else f"http://{address}", "/metrics", around.left())
    except http.NoAnswer:
        return None
    return answer.body if answer.status == 200 else None


def samples(around: Around) -> dict[str, float] | None:
    """By name, labels summed up; None when they could not be had."""
    page = text(around)
    if page is None:
        return None
    sums: dict[str, float] = {}
    for line in page.decode("utf-8", "replace").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            try:
                sums[name] = sums.get(name, 0.0) + float(value)
            except ValueError:
                continue
    return sums
