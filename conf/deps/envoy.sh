# What speaks HTTP/2, gRPC and WebSocket through a real Envoy in tests/envoy. Sourced by deps.sh.

if [ -d "$PEERS_ROOT" ]; then
    found peers "$PEERS"
else
    started=$SECONDS
    rm -rf "$PEERS_ROOT.new"
    # Each at its version, what they ask for included.
    pip_install peers "$PEERS_ROOT.new" --no-deps $PEERS
    mv "$PEERS_ROOT.new" "$PEERS_ROOT"
    say peers "$PEERS installed ($((SECONDS - started)) s)"
fi
mkdir -p target/tools
ln -sfn "$PEERS_ROOT" target/tools/peers
