# For CPUs, or for what EXTRA names: tpu, cuda12 or cuda13, extras of jax.
#   docker build --tag=moe:tpu --build-arg=EXTRA=tpu .
#   docker run --rm moe:tpu python train.py --help
FROM python:3.12-slim-bookworm

# The user that runs it, and that a mounted folder must let write.
RUN useradd --create-home --uid=1000 moe
WORKDIR /moe

# The extras of the jax that is pinned there.
ARG EXTRA=
COPY requirements.txt .
RUN pip install --no-cache-dir --constraint=requirements.txt \
    --requirement=requirements.txt ${EXTRA:+"jax[${EXTRA}]"}

COPY . .
USER 1000
CMD ["python", "train.py", "--help"]
