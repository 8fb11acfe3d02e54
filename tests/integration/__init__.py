"""Whole hostproxies as real processes, between real and hostile peers on loopback."""
