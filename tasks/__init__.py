"""The steps as Prefect tasks. Whoever runs them makes log records without the secrets of urls."""

from datacomp_core.redaction import install

install()
