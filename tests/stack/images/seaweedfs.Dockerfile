# Stands for the image of SeaweedFS: the binary of the same release from its Python package.
FROM debian-base:bookworm
COPY weed /usr/bin/weed
RUN mkdir -p /data
VOLUME /data
ENTRYPOINT ["/usr/bin/weed", "-logtostderr=true"]
