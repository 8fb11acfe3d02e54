"""Count, log, show: what the workers do, told to the operator.

    worker:      outbound / inbound -> metrics (plain slots) -> export, once a second ----.
                                    -> access_log (queue -> thread -> file)               |  msgpack
    supervisor:  totals (sums over the workers, also those that died) <-------------------'
                 -> exposition (Prometheus text or OpenMetrics) -> the admin room's /metrics

Workers know nothing of Prometheus: counting is an integer slot, and names, help and labels are looked up only
where they are shown. ``families`` holds every name, ``flags`` every response flag, ``export`` what travels.
"""
