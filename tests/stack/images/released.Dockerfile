# Stands for the image of an earlier commit: its code, and the packages that its pyproject.toml and pins name, over those of ours.
FROM datacomp:latest
USER root
WORKDIR /opt/datacomp
RUN rm -rf /opt/datacomp/*
COPY . .
RUN pip uninstall -y datacomp && pip install --no-cache-dir -c constraints.txt -e ".[cpu,postgres]" && (pip uninstall -y dataclasses || true)
USER datacomp
WORKDIR /var/lib/datacomp
