# Two images from one file: `--target sidecar` (the data plane, the default) and `--target injector`.
# Builds with BuildKit and with the classic builder: no cache mounts, no heredocs, no links.
# BASE must bring a Python >= 3.11 at the same place in both stages; pin it by digest where a registry can be reached.
ARG BASE=python:3.13-slim-trixie

# -- what both need: an empty environment, and a pip beside it that stays behind
FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONNODEBUGRANGES=1
RUN python -m venv /opt/tools && python -m venv --without-pip /opt/outrider
WORKDIR /src
COPY requirements-build.lock ./
RUN /opt/tools/bin/pip install --quiet --require-hashes --only-binary :all: --requirement requirements-build.lock

# -- the environment of the sidecar, its hot path compiled (docs/decisions/0019); COMPILE=0: pure Python, no compiler needed
FROM tools AS build-sidecar
ARG COMPILE=1
RUN set -e; test "${COMPILE}" != 0 || exit 0; needed=""; \
    command -v gcc >/dev/null || needed="gcc libc6-dev"; \
    test -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || needed="${needed} python3-dev"; \
    test -z "${needed}" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends ${needed} >/dev/null; }
COPY requirements.lock ./
RUN /opt/tools/bin/pip --python /opt/outrider/bin/python install --quiet --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY sidecar sidecar
RUN OUTRIDER_COMPILE=${COMPILE} /opt/tools/bin/python -m build --wheel --no-isolation --outdir /tmp/dist . \
    && /opt/tools/bin/pip --python /opt/outrider/bin/python install --quiet --no-deps /tmp/dist/*.whl
COPY images/trim.py ./
RUN python trim.py /opt/outrider --sidecar

# -- the environment of the injector
FROM tools AS build-injector
COPY requirements-injector.lock ./
RUN /opt/tools/bin/pip --python /opt/outrider/bin/python install --quiet --require-hashes --only-binary :all: --requirement requirements-injector.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY sidecar sidecar
RUN /opt/tools/bin/python -m build --wheel --no-isolation --outdir /tmp/dist . \
    && /opt/tools/bin/pip --python /opt/outrider/bin/python install --quiet --no-deps /tmp/dist/*.whl
COPY images/trim.py ./
RUN python trim.py /opt/outrider

# -- what runs: the interpreter without its installer
FROM ${BASE} AS runtime
COPY images/trim.py /tmp/trim.py
RUN PYTHONNODEBUGRANGES=1 python /tmp/trim.py --interpreter && rm /tmp/trim.py
ENV PATH=/opt/outrider/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONNODEBUGRANGES=1 MALLOC_ARENA_MAX=2
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.vendor=Outrider
WORKDIR /
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["outrider"]

FROM runtime AS injector
LABEL org.opencontainers.image.title=outrider-injector \
      org.opencontainers.image.description="Puts the Outrider sidecar into pods."
COPY --from=build-injector /opt/outrider /opt/outrider
EXPOSE 8443 15021
CMD ["injector"]

FROM runtime AS sidecar
LABEL org.opencontainers.image.title=outrider \
      org.opencontainers.image.description="A Kubernetes-native HTTP sidecar proxy in Python."
COPY --from=build-sidecar /opt/outrider /opt/outrider
EXPOSE 15001 15021
CMD ["run"]
