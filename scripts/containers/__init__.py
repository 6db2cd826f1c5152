"""Builds ihvp's images and starts them without Docker's engine: buildah and podman under ``.bench/containers``."""
