// Package endpoint is how commands are told which service they call: by flags, or by a deployment's name in propeller's
// configuration.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/dial"
	"github.com/flyte-backend/flyte-backend/go/registry"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

// Flags name one service.
type Flags struct {
	Endpoint, Protocol                    string
	Insecure                              bool
	CAFile, CertFile, KeyFile, ServerName string
	Timeout                               time.Duration
	Config                                []string
	Deployment                            string
}

// Register adds the flags to a command.
func (f *Flags) Register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.Endpoint, "endpoint", "", "`ADDRESS` of the service: host:port for gRPC, a URL for REST")
	s.StringVar(&f.Protocol, "protocol", "", "`PROTOCOL` grpc or rest (rest for a URL, else grpc)")
	s.BoolVar(&f.Insecure, "insecure", false, "speak plain text")
	s.StringVar(&f.CAFile, "ca-file", "", "PEM `FILE` with the CAs to trust instead of the system's")
	s.StringVar(&f.CertFile, "cert-file", "", "PEM `FILE` with a client certificate")
	s.StringVar(&f.KeyFile, "key-file", "", "PEM `FILE` with its key")
	s.StringVar(&f.ServerName, "server-name", "", "`NAME` to verify the service's certificate against")
	s.DurationVar(&f.Timeout, "timeout", 0, "time limit of a call (10s, or as the configuration says)")
	s.StringArrayVar(&f.Config, "config", nil, "propeller's configuration, a YAML `FILE` or a pattern, which --deployment is in (repeatable)")
	s.StringVar(&f.Deployment, "deployment", "", "`NAME` of a deployment in --config, instead of --endpoint")
	Completes(cmd, "protocol", cobra.FixedCompletions([]cobra.Completion{config.ProtocolGRPC, config.ProtocolREST}, cobra.ShellCompDirectiveNoFileComp))
	Completes(cmd, "deployment", func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		cfg, err := Load(cmd.Context(), f.Config)
		if len(f.Config) == 0 || err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.Sorted(maps.Keys(cfg.Deployments)), cobra.ShellCompDirectiveNoFileComp
	})
}

// Completes has a shell complete the values of a flag.
func Completes(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // there is no such flag, or it has one already
	}
}

// CompleteTaskType completes a task type, of those that the service has which the flags name. It gives up after a second.
func (f *Flags) CompleteTaskType(serves func(client.Registration) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		f.Timeout = time.Second // somebody waits at a prompt
		s, err := f.Dial(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer func() { _ = s.Close() }()
		regs, err := s.Registrations(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		types := map[cobra.Completion]bool{}
		for _, r := range regs {
			if serves(r) {
				types[r.TaskType] = true
			}
		}
		return slices.Sorted(maps.Keys(types)), cobra.ShellCompDirectiveNoFileComp
	}
}

// nameOfFlags is what a service is called that flags describe.
const nameOfFlags = "endpoint"

// Resolve gives the deployment that the flags name. What is wrong with them is bad input.
func (f *Flags) Resolve(ctx context.Context) (name string, d *config.Deployment, err error) {
	log.SetOutput(io.Discard) // net/http tells there of servers that speak no HTTP; the command's error does so as well
	switch {
	case f.Deployment == "" && len(f.Config) == 0 && f.Endpoint == "":
		return "", nil, exit.Hint(exit.BadInputf("no service is named"), "give its address with --endpoint, or --config FILE and --deployment NAME")
	case f.Endpoint != "" && (f.Deployment != "" || len(f.Config) > 0):
		return "", nil, exit.BadInputf("--endpoint and --config exclude each other")
	case f.Endpoint == "":
		return f.fromConfig(ctx)
	case f.Deployment != "":
		return "", nil, exit.BadInputf("--deployment needs --config")
	}
	d = &config.Deployment{
		Endpoint: f.Endpoint, Protocol: f.Protocol, Insecure: f.Insecure,
		TLS: config.TLS{CAFile: f.CAFile, CertFile: f.CertFile, KeyFile: f.KeyFile, ServerName: f.ServerName},
	}
	isURL := strings.HasPrefix(f.Endpoint, "http://") || strings.HasPrefix(f.Endpoint, "https://")
	if d.Protocol == "" && isURL {
		d.Protocol = config.ProtocolREST
	}
	d.DefaultTimeout.Duration = f.Timeout
	cfg := config.Default()
	cfg.Deployments = map[string]*config.Deployment{nameOfFlags: d}
	if err := cfg.Validate(); err != nil {
		return "", nil, exit.BadInputf("%s", inFlags(err.Error()))
	}
	return nameOfFlags, d, nil
}

func (f *Flags) fromConfig(ctx context.Context) (string, *config.Deployment, error) {
	if f.Protocol != "" || f.Insecure || f.CAFile != "" || f.CertFile != "" || f.KeyFile != "" || f.ServerName != "" {
		return "", nil, exit.BadInputf("how a deployment of --config is called stands in the configuration, so there is no flag for it")
	}
	cfg, err := Load(ctx, f.Config)
	if err != nil {
		return "", nil, err
	}
	if err := cfg.Validate(); err != nil {
		return "", nil, exit.BadInputf("%w", err)
	}
	names := slices.Sorted(maps.Keys(cfg.Deployments))
	if f.Deployment == "" && len(names) == 1 {
		f.Deployment = names[0]
	}
	d, ok := cfg.Deployment(f.Deployment)
	if !ok {
		return "", nil, exit.BadInputf("--deployment %q: the configuration has %s", f.Deployment, strings.Join(names, ", "))
	}
	if f.Timeout > 0 {
		changed := *d
		changed.DefaultTimeout.Duration, changed.Timeouts = f.Timeout, nil
		d = &changed
	}
	return config.Canonical(f.Deployment), d, nil
}

// Files gives the files that --config names, which may be patterns, as for propeller itself, whose chart has it read
// /etc/flyte/config/*.yaml. Unlike propeller it takes no other file where nothing is found.
func Files(patterns []string) ([]string, error) {
	var out []string
	for _, p := range patterns {
		paths, err := filepath.Glob(p)
		if err != nil {
			return nil, exit.BadInputf("cannot read the configuration: %s: %w", p, err)
		}
		var found bool
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				return nil, exit.BadInputf("cannot read the configuration: %w", err)
			}
			if info.IsDir() {
				continue
			}
			found = true
			if !slices.Contains(out, path) {
				out = append(out, path)
			}
		}
		switch {
		case found:
		case len(paths) == 1:
			return nil, exit.Hint(exit.BadInputf("cannot read the configuration: %s is a folder", p), "name the files in it: --config '%s'", filepath.Join(p, "*.yaml"))
		default:
			return nil, exit.BadInputf("cannot read the configuration: there is no file %s", p)
		}
	}
	return out, nil
}

// Load reads the section plugins.backend of propeller's configuration, over its defaults, without checking it.
func Load(ctx context.Context, patterns []string) (*config.Config, error) {
	files, err := Files(patterns)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if err := config.CheckFile(file); err != nil {
			return nil, exit.BadInputf("%w", err)
		}
	}
	root := stdconfig.NewRootSection()
	section := root.MustRegisterSection("plugins", &struct{}{}).MustRegisterSection(config.SectionKey, config.Default())
	accessor := viper.NewAccessor(stdconfig.Options{SearchPaths: files, RootSection: root})
	if err := accessor.UpdateConfig(ctx); err != nil {
		return nil, exit.BadInputf("the configuration cannot be read: %w", err)
	}
	cfg, ok := section.GetConfig().(*config.Config)
	if !ok {
		return nil, fmt.Errorf("the configuration is of type %T", section.GetConfig())
	}
	return cfg, nil
}

// keys are how the configuration's words are said on the command line.
var keys = strings.NewReplacer(
	"plugins.backend.deployments."+nameOfFlags+".endpoint", "--endpoint",
	"plugins.backend.deployments."+nameOfFlags+".protocol", "--protocol",
	"plugins.backend.deployments."+nameOfFlags+".tls.caFile", "--ca-file",
	"plugins.backend.deployments."+nameOfFlags+".tls.certFile", "--cert-file",
	"plugins.backend.deployments."+nameOfFlags+".tls.keyFile", "--key-file",
	"plugins.backend.deployments."+nameOfFlags+".tls.serverName", "--server-name",
	"plugins.backend.deployments."+nameOfFlags+".defaultTimeout", "--timeout",
	"plugins.backend.deployments."+nameOfFlags+".maxMessageSizeBytes", "maxMessageSizeBytes in propeller's configuration",
	"because certFile is", "because --cert-file is",
	"goes with keyFile", "goes with --key-file",
	"set protocol: grpc", "give its host:port",
	"set protocol: rest", "give its URL",
	"set tls.certFile and tls.keyFile", "give --cert-file and --key-file",
	"the client certificate in tls.certFile", "the client certificate in --cert-file",
	"set tls.caFile to", "give --ca-file, with",
	"set tls.serverName to", "give --server-name,",
	"write http:// and insecure: true", "write http:// and give --insecure",
	"write https:// and insecure: false", "write https:// and leave out --insecure",
	"set insecure: true", "give --insecure",
	"set insecure: false", "leave out --insecure",
	"or insecure: true", "or give --insecure",
	"or insecure: false", "or leave out --insecure",
	"write insecure: false for TLS", "leave out --insecure for TLS",
	"while insecure is true", "with --insecure",
	"insecure is true", "--insecure is given",
	"is said by insecure", "is said by --insecure",
)

func inFlags(s string) string { return keys.Replace(strings.ReplaceAll(s, "\n", "; ")) }

// Explain makes of a failed call what a command ends with: one line of what was done and what came, and the advice as a hint. A
// service that cannot be reached, or that refuses what it is asked as its caller's mistake, is bad input: nothing ran.
func Explain(name string, err error) error {
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	say := func(s string) string { return s }
	if name == nameOfFlags {
		say = inFlags
	}
	said := fmt.Sprintf("%s: %s", e.Code, e.Message)
	if e.FromService {
		said = fmt.Sprintf("the service answered %s: %s", e.Code, e.Message)
	}
	code := exit.Internal
	if e.Class == client.UserError || !e.FromService || e.Code == codes.Unimplemented || e.Code == codes.NotFound {
		code = exit.BadInput
	}
	return &exit.Error{Code: code, Err: fmt.Errorf("%s at %s failed: %s", e.Op, e.Endpoint, say(said)), Hint: say(Advice(e))}
}

// Advice is what would help against a failed call, in the configuration's words; empty when nothing is known.
func Advice(e *client.Error) string {
	closed := func(how string) bool { return strings.Contains(e.Message, how) }
	switch {
	case e.Advice != "":
		return e.Advice
	case e.Code == codes.Unauthenticated:
		return "the service wants to know its caller: by a client certificate, set tls.certFile and tls.keyFile; this version sends no tokens"
	case e.FromService:
		return ""
	case e.Code == codes.DeadlineExceeded:
		return "something listens at this address, and does not answer in time: the service hangs or is overloaded, or it is no such service"
	case slices.ContainsFunc([]string{"server preface: EOF", "broken pipe", "connection reset by peer"}, closed):
		// A client without a certificate hears only by chance that one is wanted: TLS 1.3 says so after the handshake.
		return "the service closes connections at once, which its log may explain; if it wants a client certificate, set tls.certFile and tls.keyFile"
	}
	return ""
}

// Service is a connection to the service that flags name.
type Service struct {
	dial.Conn
	// Name is what messages call it.
	Name string
	d    *config.Deployment
}

// Dial connects to the service that the flags name. It does not wait for it. The connection is to be closed.
func (f *Flags) Dial(ctx context.Context) (*Service, error) {
	name, d, err := f.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := dial.Dial(name, d)
	if err != nil {
		return nil, exit.BadInputf("%s", inFlags(err.Error()))
	}
	return &Service{Conn: conn, Name: name, d: d}, nil
}

// Within gives the context for one call, with the service's time limit for it.
func (s *Service) Within(ctx context.Context, call string) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.d.Timeout(call))
}

// Registrations asks what the service serves.
func (s *Service) Registrations(ctx context.Context) ([]client.Registration, error) {
	ctx, cancel := s.Within(ctx, config.CallList)
	defer cancel()
	regs, err := s.List(ctx)
	if err != nil {
		return nil, Explain(s.Name, err)
	}
	return regs, nil
}

// Choice says which plugin of the service is wanted; what is left empty is chosen as propeller chooses.
type Choice struct {
	TaskType        string
	TaskTypeVersion int32
	PluginVersion   string
	Mode            config.Mode
}

// Choose finds the plugin, by propeller's own rules.
func (s *Service) Choose(ctx context.Context, c Choice) (client.Target, client.Mode, error) {
	regs, err := s.Registrations(ctx)
	if err != nil {
		return client.Target{}, 0, err
	}
	cfg := config.Default()
	cfg.Deployments = map[string]*config.Deployment{s.Name: s.d}
	if c.PluginVersion != "" || c.Mode != "" {
		cfg.Routes = []config.Route{{TaskType: c.TaskType, Deployment: s.Name, PluginVersion: c.PluginVersion, Mode: c.Mode}}
	}
	r := registry.New(cfg, func(context.Context, string) ([]client.Registration, error) { return regs, nil })
	r.Refresh(ctx)
	has := slices.ContainsFunc(regs, func(r client.Registration) bool {
		return r.TaskType == c.TaskType && (c.PluginVersion == "" || r.PluginVersion == c.PluginVersion) && (c.Mode == "" || r.Mode.String() == c.Mode)
	})
	decision, found := r.Snapshot().Resolve(registry.Query{TaskType: c.TaskType, TaskTypeVersion: c.TaskTypeVersion})
	if !has || !found {
		return client.Target{}, 0, exit.BadInputf("the service has no plugin for task type %q%s; it has %s", c.TaskType, c.also(), described(regs))
	}
	return client.Target{TaskType: c.TaskType, TaskTypeVersion: c.TaskTypeVersion, PluginVersion: decision.PluginVersion}, decision.Mode, nil
}

// also are the demands beside the task type.
func (c Choice) also() string {
	var out string
	if c.PluginVersion != "" {
		out += " in version " + c.PluginVersion
	}
	if c.TaskTypeVersion != 0 {
		out += fmt.Sprintf(" that takes task type version %d", c.TaskTypeVersion)
	}
	if c.Mode != "" {
		out += " in mode " + c.Mode
	}
	return out
}

func described(regs []client.Registration) string {
	if len(regs) == 0 {
		return "none"
	}
	all := make([]string, 0, len(regs))
	for _, r := range regs {
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}

// Under finds a key of a mapping in YAML without case, as propeller does. It gives nil where there is none, and for what is no mapping.
func Under(v any, key string) any {
	m, _ := v.(map[string]any)
	for k, value := range m {
		if strings.EqualFold(k, key) {
			return value
		}
	}
	return nil
}
