"""The parts of the service, each started by itself: in a container, or under another supervisor than ``ihvp up``."""
