"""Fisher-information leakage of a head."""
