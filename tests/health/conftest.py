"""The reactor of the tests of this folder."""

from tests.support import loop

__all__ = ["loop"]
