"""From references to tensors: weights, losses, data and right-hand sides of a job."""
