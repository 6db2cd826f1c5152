"""Which blobs each tenant holds: blobs are stored once, and seen by those who have brought them or made them."""
