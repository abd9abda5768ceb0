"""What the machine draws: one file a sensor, one face for all, and energy out of samples."""
