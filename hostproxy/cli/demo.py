"""``hostproxy demo``: see it work."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence

from hostproxy.demo.consul import NoConsul, find
from hostproxy.demo.load import Load, Tally
from hostproxy.demo.processes import SiteError
from hostproxy.demo.screen import Consul, Control, document, identities, table
from hostproxy.demo.site import LOOK, Site, Unavailable
from hostproxy.demo.story import ConsulStory, Event, PolicyStory, Story

ONCE = 1000  # calls of --once
REFRESH = 1.0  # seconds between two tables


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--once",
        action="store_true",
        help=f"make {ONCE} calls, go on calling while things happen, print the table and leave",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object; implies --once")
    parser.add_argument(
        "--consul",
        nargs="?",
        const="",
        metavar="PROGRAM",
        help="find services by a real Consul: the one on PATH, or PROGRAM",
    )


def run(arguments: argparse.Namespace) -> int:
    """Start the site, call, show. 0: all went as it should, every call over mutual TLS; 1: not so; 2: no Consul."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # so that the site is taken down on either
    try:
        consul = find(arguments.consul) if arguments.consul is not None else None
        with Site(consul) as site:
            demo = Demo(site)
            if arguments.once or arguments.json:
                return demo.once(arguments.json)
            return demo.live()
    except NoConsul as error:
        sys.stderr.write(f"hostproxy demo: {error}\n")
        return 2
    except SiteError as error:
        sys.stderr.write(f"hostproxy demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Demo:
    """The calls to a site, and the table about them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._tally = Tally()
        self._during = self._tally  # of the calls while things happen
        self._stories: tuple[Story, ...] = ()
        self._screen = sys.stdout.isatty()
        self._drawn = time.monotonic()
        self._seen = 0

    def once(self, as_json: bool) -> int:
        """Until it is done."""
        load = Load(self._site.upstream, self._tally, ONCE)
        began = time.monotonic()
        load.start()
        load.wait()
        rate = self._tally.requests / (time.monotonic() - began)
        self._during = Tally()
        load = Load(self._site.upstream, self._during)
        load.start()
        self._play(lambda: time.sleep(LOOK))
        load.stop()
        control, consul = self._control(), self._consul()
        shown = document(self._tally, control, consul)
        print(json.dumps(shown) if as_json else table(self._tally, rate, control, consul))
        return self._status()

    def live(self) -> int:
        """Until Ctrl-C."""
        load = Load(self._site.upstream, self._tally)
        load.start()
        try:
            self._play(self._idle)
            while True:
                self._idle()
        except KeyboardInterrupt:
            load.stop()
            if self._screen:
                print()
            return self._status()

    def _play(self, idle: Callable[[], None]) -> None:
        """Let happen what there is to show. Raises SiteError when it goes wrong."""
        kinds = (PolicyStory, ConsulStory) if self._site.consul is not None else (PolicyStory,)
        self._stories = tuple(kind(self._site, self._during, idle) for kind in kinds)
        for story in self._stories:
            story.play()

    def _status(self) -> int:
        tallies = (self._tally, self._during)
        return 0 if all(not each.failed_count and identities(each).mutual for each in tallies) else 1

    def _idle(self) -> None:
        """Pass some time, and draw when it is time for that."""
        time.sleep(LOOK)
        passed = time.monotonic() - self._drawn
        if passed < REFRESH:
            return
        count = self._tally.requests
        text = table(self._tally, (count - self._seen) / passed, self._control(), self._consul())
        self._seen = count
        self._drawn += passed
        # Home, each line cleared to its end, then the rest of the screen: no flicker.
        if self._screen:
            print("\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\n\nCtrl-C ends it.\x1b[J", flush=True)
        else:
            print(text + "\n", flush=True)

    def _control(self) -> Control:
        return Control(self._site.controller.url, self._events(PolicyStory))

    def _consul(self) -> Consul | None:
        if self._site.consul is None:
            return None
        agents = {host: agent.url for host, agent in self._site.agents.items()}
        return Consul(self._site.consul.title, agents, self._instances(), self._events(ConsulStory))

    def _events(self, kind: type[Story]) -> Sequence[Event]:
        return [event for story in self._stories if isinstance(story, kind) for event in story.events]

    def _instances(self) -> dict[str, str]:
        """What shop's hostproxy has learned of each instance from Consul, as ``hostproxy endpoints`` says it."""
        known = {}
        names = {f"{ip}:{port}": name for name, (ip, port) in self._site.instances.items()}
        with contextlib.suppress(OSError, http.client.HTTPException, Unavailable):
            for each in self._site.endpoints():
                used = f"share {each['share']:.0%}" if each["used"] else each["why"]
                health = "" if used.startswith(each["health"]) else f"{each['health']}, "
                known[names.get(each["address"], each["address"])] = f"{each['address']} {health}{used}"
        return known
