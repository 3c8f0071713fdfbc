# Two images from one build: `docker build --target operator .` and `docker build --target media-node .`
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# rust-toolchain.toml names components that only development needs.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package tallylight-operator --package tallylight-media-node \
    && install -D -t /out target/release/tallylight-operator target/release/tallylight-media-node

FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /out/tallylight-operator /usr/local/bin/tallylight-operator
# REST, metrics and health
EXPOSE 5080 8080
ENTRYPOINT ["/usr/local/bin/tallylight-operator"]
CMD ["run"]

FROM gcr.io/distroless/cc-debian12:nonroot AS media-node
COPY --from=build /out/tallylight-media-node /usr/local/bin/tallylight-media-node
# RTMP, metrics and health
EXPOSE 1935 8080
ENTRYPOINT ["/usr/local/bin/tallylight-media-node"]
CMD ["run"]
