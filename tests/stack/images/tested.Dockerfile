# Our image, our tests, and what only they need; nothing of the image itself is changed.
FROM datacomp:latest
USER root
WORKDIR /opt/datacomp
COPY . .
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['dev']))" \
    > /tmp/dev.txt && pip install --no-cache-dir uv && chown datacomp: . \
    && uv pip install --system-certs --no-cache --python /opt/venv -c constraints.txt -r /tmp/dev.txt
USER datacomp
