"""Serves tails."""
