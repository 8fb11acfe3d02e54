"""The reactor and the proxies of the tests of this folder."""

from tests.exchange.proxy import make, proxy
from tests.support import loop

__all__ = ["loop", "make", "proxy"]
