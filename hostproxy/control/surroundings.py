"""What a supervisor process does about itself before anything else."""

from __future__ import annotations

import gc
import os
import resource

# A look of the collector at all objects, of which 2,000 blocking queries have a quarter of a million, stops everything
# for 50 to 80 ms. As it comes it would be due every few minutes, and there is little for it to find; with these, it is
# due a few times a day.
GC_THRESHOLDS = (10_000, 20, 50)


def prepare() -> None:
    """Make the process fit for a long life."""
    _open_standard_streams()
    _raise_descriptor_limit()
    gc.set_threshold(*GC_THRESHOLDS)


def _raise_descriptor_limit() -> None:
    """Let the workers, who inherit it, have as many descriptors as the system allows: one per connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_standard_streams() -> None:
    """Have descriptors 0 to 2 open: one that is closed would become a socket, and log lines would go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
