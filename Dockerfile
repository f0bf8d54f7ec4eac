# syntax=docker/dockerfile:1

# The Python of both stages. A patch release moves the tag; a production build names the digest too:
#   docker build --build-arg PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie@sha256:… .
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_REQUIRE_HASHES=1
# Requirements first: they change less often than the program, and so stay in the layer cache.
# image.lock is run.lock without the embedded PostgreSQL and broker, which only `relay demo` and
# `relay dev` use. The environment gets no pip: nothing is ever installed into it again.
COPY requirements/image.lock requirements/build.lock ./
RUN python -m venv --without-pip /opt/relay \
 && python -m pip --python /opt/relay/bin/python install --no-deps -r image.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-deps -r build.lock
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY migrations ./migrations
COPY relay ./relay
RUN /opt/build/bin/python -m hatchling build -t wheel -d /build/dist \
 && PIP_REQUIRE_HASHES=0 python -m pip --python /opt/relay/bin/python install --no-deps dist/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="A durable Stripe to PostgreSQL to Kafka relay" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 relay \
 && useradd --system --uid 10001 --gid relay --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin relay
# The base image has its library without bytecode, and a read-only container cannot keep any: every
# start and every health check would compile it anew. What does not compile is imported by nobody.
RUN python -m compileall -q -j 0 "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 || true
# Owned by root: the program cannot change itself. pip has left bytecode here.
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RELAY_BIND=0.0.0.0:8080 \
    RELAY_LOG_FORMAT=json
# By number: Kubernetes cannot tell from a name that it is not root.
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
# Alive, not ready: what acts on this restarts the container, which does not bring a database back.
# The admin port, here on the container's own loopback, is there in every role.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-I", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8081/livez', timeout=4)"]
ENTRYPOINT ["relay"]
CMD ["serve"]
