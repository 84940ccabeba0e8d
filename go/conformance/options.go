package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// Protocol is how a service is spoken to.
type Protocol string

// The protocols.
const (
	GRPC Protocol = "grpc"
	REST Protocol = "rest"
)

// Defaults of Options.
const (
	DefaultCallTimeout    = 10 * time.Second
	DefaultJobTimeout     = 2 * time.Minute
	DefaultRecoverTimeout = 15 * time.Second
	DefaultPollInterval   = 100 * time.Millisecond
	DefaultQuickPoll      = time.Second
	DefaultOversize       = 20 << 20 // bytes; more than propeller's own limit of 16 MiB
	DefaultConcurrency    = 64
)

// Options says which service is checked, and with what. Only Endpoint is required.
type Options struct {
	// Endpoint is what propeller's configuration calls endpoint: host:port or another target of gRPC, or an http(s) URL for REST.
	Endpoint string
	// Protocol is GRPC unless said otherwise.
	Protocol Protocol
	// Replica is the endpoint of another replica of the same service, for the cases of area replicas; empty skips them.
	Replica string

	// Insecure speaks plain text over gRPC. Over REST the URL says it.
	Insecure bool
	// CAFile, CertFile, KeyFile and ServerName are the TLS of the connection: a PEM file of authorities in place of the
	// system's, a client certificate with its key, and the name that the server's certificate must hold.
	CAFile, CertFile, KeyFile, ServerName string
	// Headers go with every call, such as "authorization". No answer may hold their values.
	Headers map[string]string

	// TaskType and PluginVersion choose what is tried; empty means the template's type, and without a template every one that
	// the service lists.
	TaskType, PluginVersion string
	// Template and Inputs make a job that succeeds. Without Template a minimal one is sent, which has a type and an empty
	// interface; plugins that refuse it have the cases skipped that need a job.
	Template *core.TaskTemplate
	Inputs   *core.LiteralMap
	// LongInputs make a job that is still running when it is deleted a few seconds later; nil skips the cases that delete in
	// mid-job. LongTemplate, if set, goes with them instead of Template.
	LongInputs   *core.LiteralMap
	LongTemplate *core.TaskTemplate
	// FailingInputs make a job that fails by the task author's fault; nil skips the cases about failed jobs. FailingTemplate,
	// if set, goes with them instead of Template.
	FailingInputs   *core.LiteralMap
	FailingTemplate *core.TaskTemplate
	// OutputPrefix is where jobs may write; empty means a folder name that the suite makes up.
	OutputPrefix string

	// Restart ends the service and starts it again at the same endpoint, and blocks until it has; nil skips the cases of area
	// restarts. The end should be a hard one: a killed process.
	Restart func(ctx context.Context) error

	// Run chooses cases by id; nil runs all.
	Run *regexp.Regexp
	// Strict has a service fail for what it only should do, too.
	Strict bool

	// CallTimeout bounds a call, JobTimeout a job that is waited for, and RecoverTimeout how long a service that has gone is
	// waited for. 0 means the default, here and below.
	CallTimeout, JobTimeout, RecoverTimeout time.Duration
	// PollInterval is the pause between polls of a job that is waited for.
	PollInterval time.Duration
	// QuickPoll is what a poll should not take longer than.
	QuickPoll time.Duration
	// Oversize is the size of a request that is meant to be too large, in bytes.
	Oversize int
	// Concurrency is how many calls are made at once.
	Concurrency int
}

// runs says that a case is of this run.
func (o *Options) runs(c *Case) bool {
	return slices.Contains(c.Protocols, o.Protocol) && (o.Run == nil || o.Run.MatchString(c.ID))
}

// withDefaults checks the options and fills in what is not said.
func (o Options) withDefaults() (Options, error) {
	if o.Protocol == "" {
		o.Protocol = GRPC
	}
	if o.Endpoint == "" {
		return o, errors.New("conformance: Options.Endpoint is empty; name the service, such as 127.0.0.1:8000")
	}
	for _, endpoint := range []string{o.Endpoint, o.Replica} {
		if endpoint == "" {
			continue
		}
		u, err := url.Parse(endpoint)
		isURL := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
		switch {
		case o.Protocol == GRPC && isURL:
			return o, fmt.Errorf("conformance: endpoint %q is a URL; gRPC takes host:port, and Protocol REST takes a URL", endpoint)
		case o.Protocol == REST && !isURL:
			return o, fmt.Errorf("conformance: endpoint %q is no URL; REST takes http://host:port or https://host:port", endpoint)
		case o.Protocol != GRPC && o.Protocol != REST:
			return o, fmt.Errorf("conformance: protocol %q is neither grpc nor rest", o.Protocol)
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return o, errors.New("conformance: CertFile and KeyFile belong together; give both or neither")
	}
	if o.Insecure && o.Protocol == GRPC && o.CAFile+o.CertFile+o.ServerName != "" {
		return o, errors.New("conformance: Insecure and TLS exclude each other")
	}
	if o.TaskType == "" {
		o.TaskType = o.Template.GetType()
	}
	for name, t := range map[string]*core.TaskTemplate{"LongTemplate": o.LongTemplate, "FailingTemplate": o.FailingTemplate} {
		if t.GetType() != "" && o.TaskType != "" && t.GetType() != o.TaskType {
			return o, fmt.Errorf("conformance: Options.%s is of task type %q, and what is tried is %q; a run is about one of them", name, t.GetType(), o.TaskType)
		}
	}
	if o.Run != nil && !slices.ContainsFunc(suite, func(c Case) bool { return o.runs(&c) }) {
		return o, fmt.Errorf("conformance: no case for %s has an id that matches %q; docs/conformance.md lists them", o.Protocol, o.Run)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		usual time.Duration
	}{
		{"CallTimeout", &o.CallTimeout, DefaultCallTimeout},
		{"JobTimeout", &o.JobTimeout, DefaultJobTimeout},
		{"RecoverTimeout", &o.RecoverTimeout, DefaultRecoverTimeout},
		{"PollInterval", &o.PollInterval, DefaultPollInterval},
		{"QuickPoll", &o.QuickPoll, DefaultQuickPoll},
	} {
		if *d.value < 0 {
			return o, fmt.Errorf("conformance: Options.%s is %v; it cannot be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.usual
		}
	}
	if o.Oversize < 0 || o.Concurrency < 0 {
		return o, fmt.Errorf("conformance: Options.Oversize (%d) and Options.Concurrency (%d) cannot be negative", o.Oversize, o.Concurrency)
	}
	if o.Oversize == 0 {
		o.Oversize = DefaultOversize
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	o.Endpoint, o.Replica = strings.TrimSuffix(o.Endpoint, "/"), strings.TrimSuffix(o.Replica, "/")
	return o, nil
}
