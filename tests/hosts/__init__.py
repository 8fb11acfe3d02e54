"""A bed of real hosts: Debian 12 with systemd as init, on a private bridge, for tests that need a service manager.

A host is a container of systemd-nspawn: an overlay on a base image that all hosts share, with its own network
namespace, whose one interface is on a bridge in one more namespace, the wire. Nothing of it can be reached from the
machine's own network, and no host has a way out. Nothing is installed on the machine either: the programs come by
``apt-get download`` and are unpacked beside the base image, and the base image is made from where apt already gets its
packages.

::

    machine   whether this machine, as it is, allows all that
    base      the programs, and the base image
    bed       hosts: up, run, down; the wire
    keeper    the process that holds one host
    access    files for ssh and Ansible
    connect   how ssh gets onto the wire
    installation  hostproxy on a host, by hand

By hand, as root: ``python -m tests.hosts up one 10.98.0.11``.
"""
