# The worker. `--build-arg EXTRAS=monitor` makes the image of the monitor instead, which has no torch.
FROM python:3.11-slim

# The engine compiles its loops with g++; without one it runs them uncompiled.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 fitq
WORKDIR /opt/fitq
COPY pyproject.toml constraints.txt README.md ./
COPY client client
COPY shared shared
COPY worker worker
ARG EXTRAS=worker
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

USER fitq
WORKDIR /home/fitq
CMD ["fitq-worker", "start"]
