"""The physics and the vocabulary: cuts, devices, networks, power, measurements, reports."""
