"""Where requests go: the endpoints of a destination, the choice among them, and their connections.

A *destination* is a service as one caller reaches it. It has *endpoints*: a peer host's mesh port (the balancer picks
a host, the host picks among its own instances), or an instance itself where there is no hostproxy or it is local. Each
endpoint keeps the connections that are not in use, so a pool is keyed by caller, service, datacenter, host and ALPN.
A service may have *routes*, which lead some of its requests to the destinations that its subsets are.
"""
