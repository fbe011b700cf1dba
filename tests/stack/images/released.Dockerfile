# Stands for the image of an earlier commit: its code, and the packages that its pyproject.toml and pins name, over those of ours.
FROM datacomp:latest
USER root
WORKDIR /opt/datacomp
RUN rm -rf /opt/datacomp/*
COPY . .
RUN pip install --no-cache-dir uv && pip uninstall -y datacomp \
    && uv pip install --system-certs --no-cache --compile-bytecode --python /opt/venv -c constraints.txt -e ".[cpu,postgres]" \
    && uv pip uninstall --python /opt/venv dataclasses
USER datacomp
WORKDIR /var/lib/datacomp
