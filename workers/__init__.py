"""The Celery workers: they claim jobs, resolve what they refer to, and run the solvers."""
