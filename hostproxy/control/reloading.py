"""A new conf.toml: taken whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from hostproxy.control import kept as kept_copy
from hostproxy.control.listeners import CannotListen
from hostproxy.control.state import ReloadState
from hostproxy.mesh.document import Invalid

if TYPE_CHECKING:
    from hostproxy.config import Config
    from hostproxy.control.daemon import Daemon
    from hostproxy.control.sources import Sources

_log = Logger()


def reload(daemon: Daemon, load: Callable[[str], Config]) -> None:
    """Read conf.toml again and be like it, or say why not: then nothing has changed."""
    reloads = daemon.state.reloads
    problems = _reload(daemon, load)
    if problems:
        for problem in problems:
            _log.error("not reloaded, everything stays as it was: {problem}", problem=problem)
        daemon.state.reloads = ReloadState(
            succeeded=reloads.succeeded,
            refused=reloads.refused + 1,
            last_success=reloads.last_success,
            problems=tuple(problems),
        )
        return
    _log.info("reloaded {path}", path=daemon.config.path)
    daemon.state.reloads = ReloadState(
        succeeded=reloads.succeeded + 1, refused=reloads.refused, last_success=daemon.now()
    )
    daemon.log_level.configure(daemon.config.log.level)


def _reload(daemon: Daemon, load: Callable[[str], Config]) -> list[str]:
    try:
        config = load(daemon.config.path)
    except Invalid as invalid:
        return [str(problem) for problem in invalid.problems]
    for key in ("runtime_directory", "state_directory"):
        if getattr(config.host, key) != getattr(daemon.config.host, key):
            return [f"{config.path}: host.{key}: changes only with a restart"]
    return take(daemon, config)


def take(daemon: Daemon, config: Config) -> list[str]:
    """Be like ``config``. Everything that can fail comes first, and is undone when it does."""
    sources = daemon.make_sources(config)
    problems = sources.start()
    if problems:
        return problems
    problems = daemon.sockets.bind_new(daemon.addresses(config, sources))
    admin = None
    if not problems and config.admin.listen != daemon.config.admin.listen:
        try:
            admin = daemon.open_admin(config)
        except CannotListen as error:
            problems = [str(error)]
            daemon.sockets.keep_only(daemon.wanted())
    if problems:
        sources.stop(daemon.sources)
        return problems
    # Nothing fails from here on.
    if admin is not None:
        daemon.close_admin()
        daemon.admin = admin
    for warning in config.warnings:
        _log.warn("{warning}", warning=warning)
    change_sources(daemon, sources)
    daemon.health.change(config.services)
    daemon.config = daemon.state.config = config
    if daemon.compile():
        daemon.crew.tell(daemon.target())
    daemon.sockets.keep_only(daemon.wanted())
    daemon.crew.resize(config.workers.count)
    return []


def change_sources(daemon: Daemon, sources: Sources) -> None:
    """Go on with ``sources``, which have been started."""
    before = daemon.sources
    before.stop(sources)
    daemon.sources = sources
    if sources.consul is not before.consul:
        daemon.register()


def resume(daemon: Daemon, given: bool) -> list[str]:
    """Go on with sources that another process was to have. ``given``: it had all of them. Returns what is wrong."""
    if not given and not daemon.sources.paused:
        return []
    sources = daemon.make_sources(daemon.config, anew=given)
    problems = sources.start(kept_copy.load(daemon.config.host.state_directory))
    if problems:
        for problem in problems:
            _log.error("{problem}", problem=problem)
    elif not given:
        change_sources(daemon, sources)
    else:
        daemon.sources = sources
        daemon.register()
    return problems
