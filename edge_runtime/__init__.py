"""Runs exported graphs on the edge: sessions and their timing. Never imports torch."""
