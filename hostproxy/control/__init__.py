"""What holds the two kinds of process together.

The supervisor decides, the workers carry traffic, and a Unix socket pair joins them::

    daemon     all parts of a supervisor
    sources    catalog, policy and certificates, watched
    kept       last good catalog and policy, on disk
    listeners  listening sockets, bound once for everybody
    runtime    one supervisor per runtime directory
    door       where a worker without a supervisor waits for the next one
    takeover   how that one gets its sockets
    passed     sockets that a process is born with
    upgrade    a successor of newer code is let in, and upgrades is how it went; its side of it is succession
    handover   what the two say to each other
    reloading  a new conf.toml
    leaving    the end of all that
    crew       a worker in every place, replaced when it dies
    handle     one worker: its process, its channel, what it was told
    process    a process by its descriptor: its end, its vital signs
    channel    length-prefixed msgpack with descriptors beside
    messages   what is said
    state      what admin shows
    logs       lines to stderr that never wait
    notify     systemd, and its watchdog

A worker needs the supervisor for nothing but news: it keeps its last snapshot and its listening sockets when the
channel breaks, and gives the sockets to the next supervisor through its door.
"""
