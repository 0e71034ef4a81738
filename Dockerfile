ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
# A venv without pip of its own: what leaves this stage is the relay and its libraries, no tools.
RUN python -m venv --without-pip /opt/relay
WORKDIR /src
# The libraries first: this layer is built anew only when requirements.txt changes.
COPY requirements.txt ./
RUN pip --python /opt/relay/bin/python install --no-cache-dir --no-compile -r requirements.txt
COPY pyproject.toml setup.py README.md ./
COPY python_source_files python_source_files
ARG COMMIT=unknown
RUN SOURCE_COMMIT=$COMMIT \
    pip --python /opt/relay/bin/python install --no-cache-dir --no-compile '.[redis,mongodb,brotli,zstd]'
# rich needs these to colour source code and Markdown, of which no command of ours shows any.
RUN rm -r /opt/relay/lib/python3*/site-packages/pygments /opt/relay/lib/python3*/site-packages/markdown_it
# Compiled here, for a read-only root; but not what no command of ours imports.
RUN python -m compileall -q --invalidation-mode unchecked-hash \
        -x '/(gridfs|dns/rdtypes)/' /opt/relay/lib

FROM ${PYTHON_IMAGE}
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="api_relaying_server" \
      org.opencontainers.image.description="A caching HTTP relay in front of one slow, rate-limited HTTP API" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$COMMIT"
RUN useradd --uid 10001 --user-group --no-create-home \
        --home-dir /var/cache/api_relaying_server --shell /usr/sbin/nologin relay \
    && install --directory --owner relay --group relay /var/cache/api_relaying_server
COPY --from=build /opt/relay /opt/relay
# Flags given to `docker run` and variables set with `-e RELAY_...` override these.
ENV PATH=/opt/relay/bin:$PATH \
    RELAY_HOST=0.0.0.0 \
    RELAY_PORT=8000 \
    RELAY_CACHE=sqlite:////var/cache/api_relaying_server/cache.sqlite3
# By number, for platforms that must see that it is not root.
USER 10001:10001
VOLUME /var/cache/api_relaying_server
EXPOSE 8000
# /readyz of the admin address, wherever flags and variables have put that.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python", "-m", "api_relaying_server.operations.health"]
ENTRYPOINT ["api-relaying-server"]
