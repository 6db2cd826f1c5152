"""Programs that show what the service does, on real data."""
