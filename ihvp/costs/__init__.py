"""What solves cost: measured by the workers, kept in a store, and predicted for the next ones."""
