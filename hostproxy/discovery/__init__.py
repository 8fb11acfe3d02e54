"""Who runs where: files and backends outside become one value that the supervisor watches.

    files     notices that a file changed, however it was replaced
    reload    reads it again off the reactor, keeps the last good value when that fails
    catalog   what a catalog is, and how one is read from TOML
    file      the file backend: the three above put together
    watch     a value with subscribers, how every backend hands over what it knows

A backend offers ``catalog`` (a :class:`~.watch.Watch`), ``error`` (what is wrong now, or None), ``start`` and
``stop``; whoever uses it doesn't see which one it is. Policy and certificate files are watched the same way.
"""
