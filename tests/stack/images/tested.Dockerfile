# Our image, our tests, and what only they need; nothing of the image itself is changed.
FROM datacomp:latest
USER root
WORKDIR /opt/datacomp
COPY . .
RUN python -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['dev']))" \
    > /tmp/dev.txt && pip install --no-cache-dir -c constraints.txt -r /tmp/dev.txt && chown datacomp: .
USER datacomp
