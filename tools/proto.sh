#!/usr/bin/env bash
# Works on the protocol buffers of proto/: `generate` writes the Go code, `lint` checks their style, `breaking` compares them
# with proto/released.binpb, what was released last, and `release` makes that file anew. Tools are those that tools/go.mod and
# tools/package.json pin, in .cache (or the folder that CACHE names); the first time they are built, which takes a minute.
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

case ${1:-} in
generate) buf generate --path proto/flytebackend ;;
lint) buf lint --path proto/flytebackend && buf format --diff --exit-code --path proto/flytebackend ;;
breaking) buf breaking proto --against proto/released.binpb ;;
release) buf build proto --as-file-descriptor-set --exclude-source-info --output proto/released.binpb ;;
*)
	echo "usage: tools/proto.sh generate|lint|breaking|release" >&2
	exit 2
	;;
esac
