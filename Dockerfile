# The controller: one static binary and nothing else.
#   docker build -t registry.example/aiquota:0.1.0 .
# Alpine's toolchain builds for musl, so that nothing is linked at run time; TLS is rustls with ring, and the certificates
# that it trusts come from the cluster and from Secrets.
FROM docker.io/library/rust:1.95.0-alpine AS build
RUN apk add --no-cache binutils musl-dev
WORKDIR /source
COPY . .
# The toolchain of the image, not another one of the same version.
ENV RUSTUP_TOOLCHAIN=1.95.0
# Nothing is on `scratch` that could load a library or the program itself.
RUN cargo build --locked --release --package aiquota --bin aiquota \
 && headers=$(readelf --dynamic --program-headers target/release/aiquota) \
 && ! echo "$headers" | grep -E 'NEEDED|INTERP'

FROM scratch
COPY --from=build /source/target/release/aiquota /aiquota
COPY LICENSE /LICENSE
# A number, so that `runAsNonRoot` can be checked before anything runs.
USER 65532:65532
ENTRYPOINT ["/aiquota"]
