# The API, the reconciler and the sender of webhooks, and the one-shots `ihvp prepare` and `ihvp doctor`. No torch.
#
#   docker build -f docker/api.Dockerfile -t ihvp-api:0.1.0 .
#
# BASE_IMAGE pins what it stands on (…python:3.11-slim-bookworm@sha256:…); IHVP_EXTRAS adds extras of pyproject.toml,
# such as `data,gcs`: data reads Parquet and Arrow files that jobs and models name (117 MB), gcs gs:// references.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# The environment: the packages of constraints.txt that these parts need, and the list of them.
FROM ${BASE_IMAGE} AS environment
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
ARG IHVP_EXTRAS=
RUN --mount=type=cache,target=/root/.cache/pip bash /tmp/build/install.sh "api,s3,${IHVP_EXTRAS}"

# With the rooms; what they import is compiled here, and once.
FROM environment AS service
ENV PATH=/opt/ihvp/bin:/usr/local/bin:/usr/bin:/bin
COPY app app/
COPY ihvp ihvp/
COPY workers workers/
COPY docker/warm_up.py /tmp/build/
RUN python /tmp/build/warm_up.py app.main ihvp.cli ihvp.client ihvp.starting.start ihvp.starting.preparing \
        ihvp.starting.healthy ihvp.doctor workers.reconciler workers.webhooks.celery_app numpy s3fs uvloop uvicorn.main \
        uvicorn.protocols.http.httptools_impl uvicorn.loops.uvloop uvicorn.lifespan.on celery.bin.celery \
        celery.apps.worker celery.concurrency.solo celery.worker.consumer kombu.transport.redis && \
    python -m compileall -q app ihvp workers

# What is left of Debian: no apt, no tools for accounts and disks, no Perl. dpkg knows what has gone, so scanners do.
# The names are those of bookworm; of another release more would stay.
FROM ${BASE_IMAGE} AS debian
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# /usr/local is Python, which comes back below without what is not needed.
# hadolint ignore=DL3008,SC2114
RUN apt-get update && apt-get install -y --no-install-recommends tini && \
    echo 'ihvp:x:10001:' >> /etc/group && echo 'ihvp:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && \
    install -d -o 10001 -g 10001 -m 0750 /data /run/secrets && \
    dpkg --purge --force-depends --force-remove-essential adduser apt bsdutils debian-archive-keyring \
        e2fsprogs gpgv libapt-pkg6.0 libdb5.3 libext2fs2 libgcrypt20 libgnutls30 libgpg-error0 \
        libgssapi-krb5-2 libhogweed6 libidn2-0 libk5crypto3 libkrb5-3 libkrb5support0 liblz4-1 libnettle8 libnsl2 \
        libp11-kit0 libpam-modules libpam-modules-bin libpam-runtime libpam0g libsemanage-common libsemanage2 \
        libsepol2 libsmartcols1 libss2 libsystemd0 libtasn1-6 libtirpc-common libtirpc3 libunistring2 libxxhash0 \
        login logsave mount ncurses-bin passwd sysvinit-utils util-linux util-linux-extra && \
    dpkg --purge --force-depends --force-remove-essential perl-base debconf diffutils && \
    rm -rf /usr/bin/tini-static /usr/lib/*/gconv /usr/local /var/lib/apt /var/cache/* /var/log/* /tmp/* /root/.cache && \
    install -d /usr/local /srv/ihvp /opt/ihvp

# Made of what is left, so that what was removed takes no room in a layer below; one layer for each of what changes
# seldom, now and then, and often.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="ihvp-api" \
      org.opencontainers.image.description="API, reconciler and webhook sender of ihvp" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      ihvp.sbom="/usr/share/ihvp/sbom.cdx.json"
# All that the stage has is wanted: it has been pared down to that.
# hadolint ignore=DL3067
COPY --from=debian / /
COPY --from=service /usr/local /usr/local
COPY --from=service /opt/ihvp /opt/ihvp
COPY --from=environment /tmp/build/sbom.cdx.json /usr/share/ihvp/sbom.cdx.json
COPY --from=service /srv/ihvp /srv/ihvp
# Home is a tmpfs: libraries that keep caches there find nothing else that can be written.
ENV PATH=/opt/ihvp/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    IHVP_DATA_DIR=/data \
    IHVP_HOST=0.0.0.0
WORKDIR /srv/ihvp
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "ihvp"]
CMD ["start", "api"]
