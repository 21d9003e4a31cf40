#!/bin/sh
# A certificate authority and a server's certificate by it for localhost, made for one test run:
# `certificates.sh DIRECTORY` writes ca.crt, server.crt and server.key there. Called by every client
# test's way to start the server; nothing outside the directory is touched.
set -eu
cd "$1"
curve="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $curve -days 2 -subj "/CN=Springhead client tests" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" \
    -keyout ca.key -out ca.crt 2>/dev/null
openssl req $curve -subj "/CN=localhost" -keyout server.key -out server.csr 2>/dev/null
cat >server.ext <<EOF
basicConstraints=critical,CA:FALSE
subjectAltName=DNS:localhost
extendedKeyUsage=serverAuth
EOF
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
    -extfile server.ext -out server.crt 2>/dev/null
