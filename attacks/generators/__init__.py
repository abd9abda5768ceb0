"""Generators of pictures that an attacker trains, or brings along, as a prior."""
