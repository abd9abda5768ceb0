"""Defences of the smashed data: each changes what the head sends, and has a price in accuracy."""
