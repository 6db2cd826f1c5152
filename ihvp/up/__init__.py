"""Running the whole service on one machine: its embedded store, and the supervisor of its parts."""
