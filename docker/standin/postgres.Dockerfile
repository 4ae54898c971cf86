# For `make docker-test` where the image of PostgreSQL cannot be pulled: Debian's PostgreSQL with the parts of that
# image's interface that compose.yaml uses: its user, folders, port, password file and initialisation scripts.
ARG BASE
FROM ${BASE}
RUN groupadd --gid 999 postgres && \
    useradd --uid 999 --gid postgres --home-dir /var/lib/postgresql --no-create-home postgres && \
    install --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql && \
    mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf && \
    apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postgresql && \
    install --directory --owner postgres --group postgres --mode 3777 /var/run/postgresql && \
    ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && \
    rm -rf /var/lib/apt/lists/*
COPY --chmod=0555 postgres-entry /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/18/docker
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entry"]
