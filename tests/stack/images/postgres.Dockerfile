# Stands for the image of PostgreSQL: Debian's packages, with the variables that the compose file sets.
FROM debian-base:bookworm
RUN apt-get update -q && apt-get install -q -y --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
COPY postgres-entrypoint.sh /entrypoint.sh
ENV PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/entrypoint.sh"]
