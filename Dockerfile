# The image of the service. docs/OPERATIONS.md says how to build and run it; `just image` builds and tests it.
#
# Both bases are of the same release of Debian: the program uses the C library that it was linked with.
ARG BUILD_BASE=docker.io/library/rust:1.95-slim-bookworm
ARG FINAL_BASE=gcr.io/distroless/cc-debian12:nonroot

# Compiles the dependencies, with empty files in place of the project's own. A change of the sources leaves this stage as it
# is; a change of a manifest or of Cargo.lock does not.
FROM ${BUILD_BASE} AS dependencies
WORKDIR /build
ENV CARGO_PROFILE_RELEASE_STRIP=symbols
COPY Cargo.toml Cargo.lock ./
COPY client/Cargo.toml client/
COPY bench/Cargo.toml bench/
COPY fuzz/Cargo.toml fuzz/
RUN mkdir -p src client/src bench/src fuzz/src benches \
    && touch src/lib.rs client/src/lib.rs fuzz/src/lib.rs \
    && echo 'fn main() {}' >src/main.rs \
    && for other in build.rs client/build.rs bench/src/main.rs benches/identity.rs; do cp src/main.rs "$other"; done \
    && cargo build --locked --release --no-default-features --package customer-accounts \
    # Cargo compares times, and the real files may be older than what was compiled from the empty ones.
    && cargo clean --locked --release --package customer-accounts --package customer-accounts-client

FROM dependencies AS program
COPY build.rs ./
COPY migrations migrations
COPY proto proto
COPY client client
COPY src src
RUN cargo build --locked --release --no-default-features --package customer-accounts

FROM ${FINAL_BASE}
# Of Cargo.toml; .ci/image compares them.
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Customer Accounts" \
      org.opencontainers.image.description="A multi-tenant gRPC service for the accounts of B2B customers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=program /build/target/release/customer-accounts /customer-accounts
COPY LICENSE /LICENSE
USER 65532:65532
# Nothing outside of a container reaches its loopback address. On any other one the service starts only with an issuer of
# tokens.
ENV CUSTOMER_ACCOUNTS_LISTEN=0.0.0.0:50051
EXPOSE 50051
STOPSIGNAL SIGTERM
# As in the chart: healthcheck takes up to 6 seconds, and three failures in a row count.
HEALTHCHECK --interval=10s --timeout=7s --start-period=60s --retries=3 CMD ["/customer-accounts", "healthcheck"]
ENTRYPOINT ["/customer-accounts"]
CMD ["serve"]
