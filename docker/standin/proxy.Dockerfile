# For `make docker-test` where the image of Caddy cannot be pulled: Debian's Caddy, with the right in its file that the
# program of that image has.
ARG BASE
FROM ${BASE}
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends caddy libcap2-bin && \
    setcap cap_net_bind_service=+ep /usr/bin/caddy && \
    rm -rf /var/lib/apt/lists/*
