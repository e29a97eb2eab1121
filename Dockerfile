# The operator's image: one binary, the libraries it is linked with, certificates of public CAs, a user without rights.
# Where there is no container daemon, dev/image.sh makes the same.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin oauthconsumer-operator && dev/image/root.sh target/release/oauthconsumer-operator /image

FROM scratch
COPY --from=build /image/ /
USER 65532:65532
ENTRYPOINT ["/usr/bin/oauthconsumer-operator"]
# docker build --build-arg REVISION=$(git rev-parse HEAD) --build-arg VERSION=... .
ARG VERSION=dev REVISION=unknown
LABEL org.opencontainers.image.title="oauthconsumer-operator" \
      org.opencontainers.image.description="A Kubernetes operator for OAuth consumers: approval that means something, a key that never changes, a status that never lies" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
