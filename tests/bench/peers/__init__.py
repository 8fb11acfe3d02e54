"""The proxies that are compared. Each one renders the same :class:`Site` into its own configuration."""
