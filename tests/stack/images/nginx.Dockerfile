# Stands for the image of nginx: Debian's package.
FROM debian-base:bookworm
RUN apt-get update -q && apt-get install -q -y --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/*
CMD ["nginx", "-g", "daemon off;"]
