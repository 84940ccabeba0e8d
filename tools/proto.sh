#!/usr/bin/env bash
# Works on the protocol buffers of proto/: `generate` writes the Go and Python code, `lint` checks their style, `breaking` compares them
# with proto/released.binpb, what was released last, and `release` makes that file anew. Tools are those that tools/go.mod,
# tools/package.json and tools/requirements-proto.txt pin, in .cache (or the folder that CACHE names); the first time they are
# built, which takes a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
cache=${CACHE:-$PWD/.cache}

version=$(sed -n 's/.*"@bufbuild\/buf": "\(.*\)".*/\1/p' tools/package.json)
folder=$cache/proto-tools-$version
if ! cmp --silent tools/go.sum "$folder/go.sum" || ! cmp --silent tools/package.json "$folder/package.json"; then
	echo 'Installing buf and building the Go plugins of protoc.' >&2
	rm -rf "$folder"
	mkdir -p "$folder"
	cp tools/package.json "$folder"
	npm install --silent --no-package-lock --no-audit --no-fund --prefix "$folder" >&2
	(cd tools && GOWORK=off "$go" build -o "$folder/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc)
	cp tools/go.sum "$folder" # last: it says that the rest is there
fi
PATH=$folder:$folder/node_modules/.bin:$PATH

# buf reads folders below its own only.
flyteidl=$(cd go/backendplugin && GOWORK=off "$go" list -m -f '{{.Dir}}' github.com/flyteorg/flyte/flyteidl)
if [[ -z $flyteidl ]]; then
	(cd go/backendplugin && GOWORK=off "$go" mod download github.com/flyteorg/flyte/flyteidl)
	flyteidl=$(cd go/backendplugin && GOWORK=off "$go" list -m -f '{{.Dir}}' github.com/flyteorg/flyte/flyteidl)
fi
rm -rf .cache/proto
mkdir -p .cache/proto/flyteidl/flyteidl/admin
cp -R "$flyteidl/protos/flyteidl/core" .cache/proto/flyteidl/flyteidl/
cp "$flyteidl/protos/flyteidl/admin/agent.proto" .cache/proto/flyteidl/flyteidl/admin/
chmod -R u+w .cache/proto

# protoc_python makes the folder with protoc for Python and prints its interpreter. It needs a Python from 3.10 to 3.12.
protoc_python() {
	local candidate folder=$cache/proto-python-$(sed -n 's/^grpcio-tools==//p' tools/requirements-proto.txt)
	if ! cmp --silent tools/requirements-proto.txt "$folder/requirements.txt"; then
		echo 'Installing protoc for Python.' >&2
		for candidate in ${FLYTEKIT_PYTHON:-python3 python3.12 python3.11 python3.10}; do
			if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then break; fi
		done
		rm -rf "$folder"
		"$candidate" -m venv "$folder" >&2
		"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tools/requirements-proto.txt >&2
		cp tools/requirements-proto.txt "$folder/requirements.txt" # last: it says that the rest is there
	fi
	echo "$folder/bin/python"
}

case ${1:-} in
generate)
	buf generate --path proto/flytebackend
	python=$(protoc_python)
	out=python/src/flyte_backend/_proto
	"$python" -W ignore -m grpc_tools.protoc -I proto -I .cache/proto/flyteidl --python_out=$out --pyi_out=$out flytebackend/v1/backend.proto
	;;
lint) buf lint --path proto/flytebackend && buf format --diff --exit-code --path proto/flytebackend ;;
breaking) buf breaking proto --against proto/released.binpb ;;
release) buf build proto --as-file-descriptor-set --exclude-source-info --output proto/released.binpb ;;
*)
	echo "usage: tools/proto.sh generate|lint|breaking|release" >&2
	exit 2
	;;
esac
