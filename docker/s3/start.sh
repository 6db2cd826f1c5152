#!/bin/sh
# Starts the server of buckets with the credentials that ihvp reads, too.
set -eu
file=${SECRETS:-/run/secrets}/aws_credentials
value() { sed -n "s/^ *$1 *= *//p" "$file" 2>/dev/null | head -n 1; }
id=$(value aws_access_key_id)
secret=$(value aws_secret_access_key)
if [ -z "$id" ] || [ -z "$secret" ]; then
    echo "s3: $file has no aws_access_key_id and aws_secret_access_key: 'docker compose run --rm prepare-s3' makes it" >&2
    exit 2
fi
umask 077
identities=${TMPDIR:-/tmp}/s3.json
cat > "$identities" <<END
{"identities": [{"name": "ihvp", "credentials": [{"accessKey": "$id", "secretKey": "$secret"}],
                 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
exec weed server -dir=/data -ip=s3 -ip.bind=0.0.0.0 -volume.max=0 -master.volumeSizeLimitMB=1024 -s3 "-s3.config=$identities"
