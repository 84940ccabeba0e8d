package backendplugin_test

import (
	"context"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/examples/query"
)

var warehouse query.Warehouse

func ExampleServe() {
	plugins := backendplugin.Plugins{
		backendplugin.New("query", &query.Plugin{Warehouse: warehouse}),
		backendplugin.New("query", &query.Plugin{Warehouse: warehouse}, backendplugin.WithVersion("v2")),
	}
	err := backendplugin.Serve(context.Background(), plugins,
		backendplugin.WithAddress(":8000"),
		backendplugin.WithREST(":8080"),
		backendplugin.WithTLS("/etc/tls/tls.crt", "/etc/tls/tls.key"),
		backendplugin.WithClientCA("/etc/tls/ca.crt"),
		backendplugin.WithMaxConcurrent(200),
		backendplugin.WithTimeout(20*time.Second),
		backendplugin.WithSecrets(backendplugin.Secrets{Dir: "/var/run/secrets/query"}),
		backendplugin.WithLogger(slog.New(slog.NewJSONHandler(os.Stderr, nil))))
	if err != nil {
		log.Fatal(err)
	}
}

type total struct{}

func (total) Execute(_ context.Context, r *backendplugin.Request[map[string]int64]) (*backendplugin.Status[map[string]int64], error) {
	sum := int64(0)
	for _, n := range r.Inputs {
		sum += n
	}
	return backendplugin.Succeeded(map[string]int64{"o0": sum}), nil
}

func ExampleNewSync() {
	plugin := backendplugin.NewSync("total", total{})
	if err := backendplugin.Serve(context.Background(), backendplugin.Plugins{plugin}, backendplugin.WithPlainText()); err != nil {
		log.Fatal(err)
	}
}
