"""Wraps the steps as Prefect tasks. Log records never contain secrets of urls."""

from datacomp_core.redaction import install

install()
