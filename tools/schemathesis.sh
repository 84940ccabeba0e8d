#!/usr/bin/env bash
# Runs Schemathesis against the Go SDK's REST server: it makes requests from api/openapi.yaml, right and wrong ones, alone and in
# chains, and checks the answers by it. tools/schemathesis.toml says what is set. SEED (1 unless given) makes the same requests
# again, and arguments go on to `schemathesis run`. tools/venv.sh makes its environment, of what
# tools/requirements-schemathesis.txt pins.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
folder=$(tools/venv.sh schemathesis tools/requirements-schemathesis.txt schemathesis --version)

work=$(mktemp -d)
service=
finish() {
	if [[ -n $service ]]; then kill "$service" 2>/dev/null || true; fi
	rm -rf "$work"
}
trap finish EXIT

(cd go/backendplugin && GOWORK=off "$go" build -o "$work/testservice" ./internal/testservice)
: >"$work/log"
"$work/testservice" -anything -rest 127.0.0.1:0 2>>"$work/log" &
service=$!
address=
for ((tries = 0; tries < 300; tries++)); do
	address=$(sed -n 's/.* serving .* rest=\([^ ]*\).*/\1/p' "$work/log")
	if [[ -n $address ]]; then break; fi
	if ! kill -0 "$service" 2>/dev/null; then break; fi
	sleep 0.1
done
if [[ -z $address ]]; then
	echo 'the test service did not start:' >&2
	cat "$work/log" >&2
	exit 1
fi

# It keeps what it learns in the folder that it runs in.
contract=$PWD/api/openapi.yaml config=$PWD/tools/schemathesis.toml
export SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=$PWD/tools PYTHONDONTWRITEBYTECODE=1
status=0
# One worker, because in several threads Python 3.11 cannot parse Schemathesis's own source at times.
# Chains of calls have a run of their own: after the other phases it makes a tenth of them.
for phases in examples,coverage,fuzzing stateful; do
	(cd "$work" && "$folder/bin/schemathesis" --config-file "$config" run "$contract" --url "http://$address" \
		--checks all --phases "$phases" --seed "${SEED:-1}" --max-examples 150 --workers 1 --no-color "$@") || status=$?
done
if ((status != 0)); then
	echo 'The end of what the service logged:' >&2
	tail -n 20 "$work/log" >&2
fi
exit "$status"
