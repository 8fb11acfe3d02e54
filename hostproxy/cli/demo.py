"""``hostproxy demo``: see it work."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time

from hostproxy.demo.load import Load, Tally
from hostproxy.demo.screen import document, identities, table
from hostproxy.demo.site import Site, SiteError

ONCE = 1000  # calls of --once
REFRESH = 1.0  # seconds between two tables


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--once", action="store_true", help=f"make {ONCE} calls, print the table and leave")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object; implies --once")


def run(arguments: argparse.Namespace) -> int:
    """Start the site, call, show. Status 0: every call succeeded over mutual TLS; 1: not so."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that the site is taken down on either
    try:
        with Site() as site:
            if arguments.once or arguments.json:
                return _once(site, arguments.json)
            return _live(site)
    except SiteError as error:
        sys.stderr.write(f"hostproxy demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _once(site: Site, as_json: bool) -> int:
    tally = Tally()
    load = Load(site.upstream, tally, ONCE)
    began = time.monotonic()
    load.start()
    load.wait()
    rate = tally.requests / (time.monotonic() - began)
    if as_json:
        print(json.dumps(document(tally)))
    else:
        print(table(tally, rate))
    return 0 if not tally.failed_count and identities(tally).mutual else 1


def _live(site: Site) -> int:
    tally = Tally()
    load = Load(site.upstream, tally)
    load.start()
    seen = 0
    screen = sys.stdout.isatty()
    try:
        while True:
            time.sleep(REFRESH)
            count = tally.requests
            text = table(tally, (count - seen) / REFRESH)
            seen = count
            # Home, each line cleared to its end, then the rest of the screen: no flicker.
            if screen:
                print("\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\n\nCtrl-C ends it.\x1b[J", flush=True)
            else:
                print(text + "\n", flush=True)
    except KeyboardInterrupt:
        load.stop()
        if screen:
            print()
        return 0 if not tally.failed_count and identities(tally).mutual else 1
