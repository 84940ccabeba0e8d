package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/examples/sqlite"
)

// settings is what the configuration files say that matters before propeller reads them.
type settings struct {
	files []string
	// enabled is what they say of the backend plugin system; nil if nothing.
	enabled *bool
	// endpoints of the deployments by name.
	endpoints map[string]string
}

// readSettings looks into configuration files as far as this command has to. Whether they are valid is propeller's to say.
func readSettings(files []string) (settings, error) {
	s := settings{files: files, endpoints: map[string]string{}}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return s, exit.BadInputf("cannot read the configuration: %w", err)
		}
		var root any
		if err := yaml.Unmarshal(text, &root); err != nil {
			return s, exit.BadInputf("configuration %s is no YAML: %s", file, exit.OneLine(err.Error()))
		}
		section := endpoint.Under(endpoint.Under(root, "plugins"), "backend")
		if on, ok := endpoint.Under(section, "enable_backend_flytekit_plugin_system").(bool); ok {
			s.enabled = &on
		}
		deployments, _ := endpoint.Under(section, "deployments").(map[string]any)
		for name, d := range deployments {
			address, _ := endpoint.Under(d, "endpoint").(string)
			s.endpoints[strings.ToLower(name)] = address
		}
	}
	return s, nil
}

// off says that the configuration turns the backend plugin system off.
func (s settings) off() bool { return s.enabled != nil && !*s.enabled }

// wantsExample says that there is no service that tasks could run at, so that the example does.
func (s settings) wantsExample() bool { return len(s.endpoints) == 0 && !s.off() }

// defaults come before the configuration files, which may say otherwise: a run on one machine needs the backend plugin
// system, has few tasks, so that each can be polled as often as is allowed, and keeps the logs of local tasks in a folder
// (see cluster.Processes for the files' names).
func defaults(logs string, withLog bool) string {
	uri := (&url.URL{Scheme: "file", Path: logs}).String() + "/{{ .namespace }}_{{ .podName }}.log"
	text := fmt.Sprintf(`plugins:
  backend:
    enable_backend_flytekit_plugin_system: true
    webApi: {caching: {resyncInterval: 5s}}
  logs:
    kubernetes-enabled: false
    templates: [{displayName: log, templateUris: [%q]}]
`, uri)
	if withLog {
		text += "logger: {level: 4}\n"
	}
	return text
}

// exampleName is the deployment of the example service.
const exampleName = "sqlite"

// example is the embedded service.
type example struct {
	addr string
	stop context.CancelFunc
	done chan error
}

// startExample serves the SQLite example on loopback, in this process. Jobs are kept in dir.
func startExample(dir string) (*example, error) {
	service, err := sqlite.New(sqlite.Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Lease: time.Second, DrainTimeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("cannot start the example service: %w", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to cancel on loopback
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the example service: %w", err), service.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &example{addr: lis.Addr().String(), stop: stop, done: make(chan error, 1)}
	go func() { e.done <- sqlite.Serve(ctx, lis, service) }()
	return e, nil
}

// config makes the example the one deployment.
func (e *example) config() string {
	return fmt.Sprintf("plugins: {backend: {deployments: {%s: {endpoint: %q, insecure: true}}}}\n", exampleName, e.addr)
}

func (e *example) close() error {
	e.stop()
	return <-e.done
}
