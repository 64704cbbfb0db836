# cspdet on a CPU, with the engines, COCO metrics and H.264 video.
#
#   docker build --tag cspdet .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" cspdet detect best.pt street.jpg
#
# compose.yaml has an example that trains. --build-arg TORCH_INDEX=https://pypi.org/simple installs the CUDA build.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir "$(ls /wheels/cspdet-*.whl)[analysis,export,openvino,video]" \
    && rm -r /wheels
# A user without privileges; --user of `docker run` takes another, whose caches go to a folder that all may write to.
ENV HOME=/tmp/home MPLCONFIGDIR=/tmp/home/matplotlib
RUN mkdir -m 1777 /tmp/home && useradd --uid 1000 --no-create-home --home-dir /tmp/home cspdet
USER cspdet
WORKDIR /work
ENTRYPOINT ["cspdet"]
CMD ["--help"]
