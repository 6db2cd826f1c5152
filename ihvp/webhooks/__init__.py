"""Webhooks: which events a job tells of and to whom, the outbox of deliveries, and the secrets that sign them."""
