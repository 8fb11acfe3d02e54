"""A change of policy, host by host: a few first, and on only while they are well.

    plan      waves of hosts, and how well they have to be
    judgement from what hosts report: wait, go on, or stop and why
    view      what it wants of each host, at one moment
    rollouts  the one that is under way, in the store, so that the next leader goes on with it
"""
