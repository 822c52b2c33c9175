"""Simulated necks, planted lesions and degraded images."""
