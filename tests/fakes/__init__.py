"""Peers for tests: scripted origins, hostile clients, and the messages that they exchange."""
