# Starts a node and stops it: read by abuse.sh, herd.sh and stalls.sh with `.`, not run by itself.
#
# They set `binaries` (where exo-ingest and exo-load are) and `out` (a directory for keys and logs).

node='' address='' admin=''

# Makes a key pair for tokens in $out/keys, once.
make_keys() {
    [ -f "$out/keys/private.pem" ] || "$binaries/exo-ingest" keygen --out "$out/keys" >/dev/null
}

# Makes a certificate for 127.0.0.1, and the CA that signs it: $out/tls.pem, tls.key and ca.pem.
make_certificate() {
    [ ! -f "$out/tls.pem" ] || return 0
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    openssl req -x509 "${key[@]}" -days 30 -subj "/CN=load test CA" \
        -keyout "$out/ca.key" -out "$out/ca.pem" 2>/dev/null
    openssl req "${key[@]}" -subj /CN=127.0.0.1 \
        -keyout "$out/tls.key" -out "$out/tls.csr" 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n' >"$out/tls.ext"
    openssl x509 -req -in "$out/tls.csr" -CA "$out/ca.pem" -CAkey "$out/ca.key" -CAcreateserial \
        -days 30 -extfile "$out/tls.ext" -out "$out/tls.pem" 2>/dev/null
    chmod 600 "$out/tls.key"
}

# start_node CPU OPTION...: starts `serve` on free ports, and waits until it listens.
start_node() {
    local cpu=$1
    shift
    make_keys
    : >"$out/listening"
    "$binaries/exo-ingest" serve --jwt-key "$out/keys/public.pem" --cpus "$cpu" \
        --listen 127.0.0.1:0 --admin 127.0.0.1:0 --drain 2s "$@" \
        >"$out/listening" 2>"$out/server.log" &
    node=$!
    until grep -q '^listening on ' "$out/listening" && grep -q 'admin=' "$out/server.log"; do
        kill -0 "$node" || { cat "$out/server.log" >&2; exit 1; }
        sleep 0.1
    done
    address=$(sed -n 's/^listening on //p' "$out/listening")
    # shellcheck disable=SC2034
    admin=$(grep -o 'admin=[0-9.:]*' "$out/server.log" | head -n 1 | cut -d= -f2)
}

# Ends the node, if there is one, and waits for it.
stop_node() {
    [ -z "$node" ] || { kill -TERM "$node" 2>/dev/null && wait "$node"; } || true
    node=''
}
