# Two images from one build, each a static binary and the certificate authorities, nothing else:
#   docker buildx build --target operator .        docker buildx build --target media-node .
# Several platforms: --platform linux/amd64,linux/arm64 (the compiler runs on the builder's own). The same bytes again: set
# SOURCE_DATE_EPOCH and --output type=oci,rewrite-timestamp=true. tests/images.sh builds the same final stages from a folder.
FROM --platform=$BUILDPLATFORM rust:1.95.0-bookworm AS build
ARG TARGETARCH
WORKDIR /src
# rust-toolchain.toml names components that only development needs.
ENV RUSTUP_TOOLCHAIN=1.95.0
# cmake builds libopus
RUN apt-get update && apt-get install -y --no-install-recommends cmake && \
    if [ "$TARGETARCH" != "$(dpkg --print-architecture)" ]; then \
      apt-get install -y --no-install-recommends crossbuild-essential-$TARGETARCH; \
    fi
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    make static STATIC_ARCH=$TARGETARCH STATIC_DIR=/out TALLYLIGHT_CACHE=/src/target/cache

FROM scratch AS operator
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tallylight-operator /usr/local/bin/tallylight-operator
USER 65532:65532
# REST, metrics and health
EXPOSE 5080 8080
ENTRYPOINT ["/usr/local/bin/tallylight-operator"]
CMD ["run"]

FROM scratch AS media-node
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tallylight-media-node /usr/local/bin/tallylight-media-node
USER 65532:65532
# RTMP, relay, metrics and health
EXPOSE 1935 5081 8080
ENTRYPOINT ["/usr/local/bin/tallylight-media-node"]
CMD ["run"]
