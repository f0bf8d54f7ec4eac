# syntax=docker/dockerfile:1

FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements/run.lock ./
RUN python -m venv /opt/relay \
 && /opt/relay/bin/pip install --no-cache-dir --require-hashes -r run.lock \
 && python -m venv /opt/hatch && /opt/hatch/bin/pip install --no-cache-dir hatchling
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY migrations ./migrations
COPY relay ./relay
RUN /opt/hatch/bin/python -m hatchling build -t wheel -d /build/dist \
 && /opt/relay/bin/pip install --no-cache-dir --no-deps /build/dist/*.whl

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin relay
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RELAY_BIND=0.0.0.0:8080 \
    RELAY_LOG_FORMAT=json
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# The admin port is loopback inside the container; every process serves its health there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8081/readyz', timeout=4)"]
ENTRYPOINT ["relay"]
CMD ["serve"]
