#!/bin/sh
# Makes the secrets of compose.yaml that can be made, in deploy/compose/secrets. What is there stays.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

[ -e secrets/api_key ] || random >secrets/api_key
[ -e secrets/database_password ] || random >secrets/database_password
printf 'postgresql://impervious:%s@database:5432/impervious' "$(cat secrets/database_password)" >secrets/database_url
# The node's user in the image reads them; the directory keeps everybody else out.
chmod 700 secrets
chmod 644 secrets/*
for file in lnd_tls_cert lnd_macaroon; do
    [ -e "secrets/$file" ] || echo "put lnd's file here: $PWD/secrets/$file (not needed for trying)" >&2
done
