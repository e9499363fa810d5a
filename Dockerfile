# One image, every service: `docker run ravand api`, `… worker`, as the command line has them.
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
COPY ops/bootstrap.lock ops/image-build.lock requirements.lock /locks/
RUN python -m venv /opt/ravand \
 && /opt/ravand/bin/pip install --no-cache-dir --require-hashes -r /locks/bootstrap.lock \
 && /opt/ravand/bin/uv pip sync --no-cache --compile-bytecode --python /opt/ravand/bin/python --require-hashes /locks/requirements.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r /locks/image-build.lock
COPY . /app
RUN /opt/build/bin/python -m hatchling build -t wheel -d /tmp/wheel \
 && /opt/ravand/bin/uv pip install --no-cache --compile-bytecode --python /opt/ravand/bin/python --no-deps /tmp/wheel/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home ravand \
 && install -d -o ravand /var/lib/ravand/objects
COPY --from=build /opt/ravand /opt/ravand
USER ravand
WORKDIR /home/ravand
ENV PYTHONUNBUFFERED=1 RAVAND_LOG_FORMAT=json RAVAND_API__HOST=0.0.0.0 RAVAND_STORE__URL=file:///var/lib/ravand/objects
VOLUME /var/lib/ravand/objects
ENTRYPOINT ["/opt/ravand/bin/ravand"]
CMD ["--help"]
