# Stands for python:3.11-slim-bookworm: the same Debian, and its Python 3.11 with pip.
FROM debian-base:bookworm
RUN apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-venv python3-pip \
    && ln -s /usr/bin/python3 /usr/local/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && rm -rf /var/lib/apt/lists/*
