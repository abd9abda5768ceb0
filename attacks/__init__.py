"""Data reconstruction attacks, image quality, and leakage metrics."""
