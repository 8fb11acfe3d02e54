"""What this host gets from the controller: who it is, what holds, and whom to believe.

::

    enrolment    a token that works once -> the first certificate
    renewal      certificates of the host and of its services, at half of their life
    bundles      signed policy: taken whole or not at all, gone back from unless confirmed
    controller   asks it over HTTPS            listening, server   is told by it over HTTPS
    keeper       the record of all that, in memory and on the disk

:class:`~hostproxy.steering.steering.Steering` puts them together.
"""
