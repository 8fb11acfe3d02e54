"""The subcommands of ``hostproxy-controller``. Each module has ``configure(parser)`` and ``run(arguments)``."""
