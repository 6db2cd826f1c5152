# The worker, for processors (target `cpu`) and for NVIDIA's cards (target `cuda`).
#
#   docker build -f docker/worker.Dockerfile --target cpu -t ihvp-worker:0.1.0-cpu .
#
# BASE_IMAGE pins what it stands on (…python:3.11-slim-bookworm@sha256:…); IHVP_EXTRAS adds extras of pyproject.toml,
# such as `gcs` for gs:// references. TORCH_INDEX_URL and CUDA_TORCH_INDEX_URL say where the two builds of torch come
# from; an empty one means the index of everything else.
#
# An image with architectures, losses or methods of one's own needs no pip in it; the packages are put beside ours:
#
#   FROM docker.io/library/python:3.11-slim-bookworm AS plugin
#   COPY my-plugin /my-plugin
#   RUN pip install --no-deps --target /packages /my-plugin
#   FROM ihvp-worker:0.1.0-cpu
#   COPY --from=plugin /packages /opt/ihvp/lib/python3.11/site-packages
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# `strip` alone is wanted of it. No version: Debian's archive drops one as soon as there is a next.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/ihvp
COPY docker/tools.txt /tmp/build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /tmp/build/tools && /tmp/build/tools/bin/pip install -q --requirement /tmp/build/tools.txt
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docker/install.sh docker/leave_out.py /tmp/build/

FROM builder AS environment-cpu
ARG IHVP_EXTRAS=
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    bash /tmp/build/install.sh "worker,transformers,data,s3,${IHVP_EXTRAS}" "${TORCH_INDEX_URL}"
RUN python -m compileall -q -x /py312_intrinsics /opt/ihvp /usr/local/lib/python3.11

FROM builder AS environment-cuda
ARG IHVP_EXTRAS=
ARG CUDA_TORCH_INDEX_URL=https://download.pytorch.org/whl/cu128
RUN --mount=type=cache,target=/root/.cache/pip \
    bash /tmp/build/install.sh "worker,transformers,data,s3,${IHVP_EXTRAS}" "${CUDA_TORCH_INDEX_URL}"
RUN python -m compileall -q -x /py312_intrinsics /opt/ihvp /usr/local/lib/python3.11

# The rooms, compiled: the root file system is read-only, so nothing could be later.
FROM ${BASE_IMAGE} AS rooms
WORKDIR /srv/ihvp
COPY pyproject.toml LICENSE ./
COPY ihvp ihvp/
COPY solvers solvers/
COPY workers workers/
RUN python -m compileall -q .

FROM ${BASE_IMAGE} AS debian
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# /usr/local is Python, which comes back below without what is not needed.
# hadolint ignore=DL3008,SC2114
RUN apt-get update && apt-get install -y --no-install-recommends tini && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/local && \
    echo 'ihvp:x:10001:' >> /etc/group && echo 'ihvp:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && \
    install -d -o 10001 -g 10001 -m 0750 /data /run/secrets && \
    install -d /usr/local /srv/ihvp /opt/ihvp

# Made of what is left, so that what was removed takes no room in a layer below.
FROM scratch AS worker
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="ihvp-worker" \
      org.opencontainers.image.description="Worker of ihvp: solves with inverse Hessians" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      ihvp.sbom="/usr/share/ihvp/sbom.cdx.json"
# All that the stage has is wanted: it has been pared down to that.
# hadolint ignore=DL3067
COPY --from=debian / /
# Home is a tmpfs: libraries that keep caches there find nothing else that can be written.
ENV PATH=/opt/ihvp/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    IHVP_DATA_DIR=/data
WORKDIR /srv/ihvp
USER 10001:10001
VOLUME ["/data"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "ihvp"]
CMD ["start", "worker"]

FROM worker AS cuda
# What NVIDIA's container toolkit goes by, where it is asked by name alone.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    IHVP_DEVICE=cuda
COPY --from=environment-cuda /usr/local /usr/local
COPY --from=environment-cuda /opt/ihvp /opt/ihvp
COPY --from=environment-cuda /tmp/build/sbom.cdx.json /usr/share/ihvp/sbom.cdx.json
COPY --from=rooms /srv/ihvp /srv/ihvp

FROM worker AS cpu
COPY --from=environment-cpu /usr/local /usr/local
COPY --from=environment-cpu /opt/ihvp /opt/ihvp
COPY --from=environment-cpu /tmp/build/sbom.cdx.json /usr/share/ihvp/sbom.cdx.json
COPY --from=rooms /srv/ihvp /srv/ihvp
