"""Pure decisions: who may call, what may be repeated. No I/O, no clock, no Twisted."""
