"""The sender of webhooks: a process of its own, without torch."""
