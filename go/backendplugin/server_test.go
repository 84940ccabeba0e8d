package backendplugin_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// TestRefusals: what cannot be served is refused with the reason, plain text that nobody asked for among it.
func TestRefusals(t *testing.T) {
	pki := newAuthority(t)
	leaf := pki.issue("service", inAnHour(), "127.0.0.1")
	good := backendplugin.Plugins{backendplugin.New("a", &simple{})}
	plain := backendplugin.WithPlainText()
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for _, tt := range []struct {
		reason  string
		plugins backendplugin.Plugins
		opts    []backendplugin.Option
		want    string
	}{
		{"nothing said about encryption", good, nil, "refusing to listen without TLS: give a certificate by WithTLS, or say WithPlainText"},
		{"a CA for clients, and no certificate", good, []backendplugin.Option{backendplugin.WithClientCA(pki.file)}, "refusing to listen without TLS"},
		{"both", good, []backendplugin.Option{plain, backendplugin.WithTLS(leaf.certFile, leaf.keyFile)}, "exclude each other"},
		{"no files", good, []backendplugin.Option{backendplugin.WithTLS("", "")}, "takes the files of a certificate and of its key"},
		{"files that are not there", good, []backendplugin.Option{backendplugin.WithTLS(missing, missing)}, "no such file"},
		{"a key that is none", good, []backendplugin.Option{backendplugin.WithTLS(leaf.certFile, pki.file)}, "the service's certificate: "},
		{"a CA that is none", good, []backendplugin.Option{backendplugin.WithTLS(leaf.certFile, leaf.keyFile), backendplugin.WithClientCA(leaf.keyFile)}, "holds no certificate in PEM"},
		{"a CA that is not there", good, []backendplugin.Option{backendplugin.WithTLS(leaf.certFile, leaf.keyFile), backendplugin.WithClientCA(missing)}, "no such file"},
		{"no plugins", nil, []backendplugin.Option{plain}, "there is no plugin to serve"},
		{"a plugin that is nil", backendplugin.Plugins{nil}, []backendplugin.Option{plain}, "a plugin is nil"},
		{"an implementation that is nil", backendplugin.Plugins{backendplugin.New[values, string, values]("a", nil)}, []backendplugin.Option{plain}, `task type "a": it is nil`},
		{"no task type", backendplugin.Plugins{backendplugin.New("", &simple{}, backendplugin.WithName("n"))}, []backendplugin.Option{plain}, "it has no task type"},
		{"no name", backendplugin.Plugins{versioned("", backendplugin.WithName(""))}, []backendplugin.Option{plain}, "its name is empty"},
		{
			"a log that is read in another way", backendplugin.Plugins{backendplugin.New("a", &misread{})}, []backendplugin.Option{plain},
			"its method Logs would not be served: it is a func(context.Context, string) ([]string, error), and " +
				"Logs(context.Context, *backendplugin.Job[string], backendplugin.LogQuery) (*backendplugin.LogPage, error) is due",
		},
		{
			"a probe that only the pointer has", backendplugin.Plugins{backendplugin.NewSync("s", pointed{})}, []backendplugin.Option{plain},
			"its method Probe would not be served: it is one of *backendplugin_test.pointed, and what is registered is a backendplugin_test.pointed",
		},
		{"a version that cannot be routed", backendplugin.Plugins{versioned("", backendplugin.WithVersion("v 1"))}, []backendplugin.Option{plain}, `its version "v 1" is not made of`},
		{"a task type version that means any", backendplugin.Plugins{versioned("", backendplugin.WithTaskTypeVersions(0))}, []backendplugin.Option{plain}, "a version is a positive number"},
		{"two of the same", backendplugin.Plugins{versioned(""), versioned("")}, []backendplugin.Option{plain}, "two plugins serve task type \"a\" in version v1"},
		{
			"two that take the same template", backendplugin.Plugins{
				versioned("", backendplugin.WithTaskTypeVersions(1, 2)), versioned("", backendplugin.WithTaskTypeVersions(2)),
			},
			[]backendplugin.Option{plain}, "two plugins serve",
		},
		{"no message fits", good, []backendplugin.Option{plain, backendplugin.WithMaxMessageSize(0)}, "WithMaxMessageSize(0)"},
		{"no call fits", good, []backendplugin.Option{plain, backendplugin.WithMaxConcurrent(0)}, "WithMaxConcurrent(0)"},
		{"a time before now", good, []backendplugin.Option{plain, backendplugin.WithTimeout(-1)}, "negative"},
		{"no log", good, []backendplugin.Option{plain, backendplugin.WithLogger(nil)}, "WithLogger got nil"},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			_, err := backendplugin.NewServer(tt.plugins, tt.opts...)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, backendplugin.Serve(t.Context(), tt.plugins, tt.opts...), tt.want)
		})
	}
}

type misread struct{ simple }

func (*misread) Logs(context.Context, string) ([]string, error) { return nil, nil }

type pointed struct{}

func (pointed) Execute(context.Context, *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
	return backendplugin.Succeeded(values{}), nil
}

func (*pointed) Probe(context.Context) error { return nil }

// TestServeCannotListen: an address that is taken is an error at once.
func TestServeCannotListen(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	err = backendplugin.Serve(t.Context(), testplugins.All(), backendplugin.WithPlainText(), backendplugin.WithAddress(lis.Addr().String()))
	require.ErrorContains(t, err, "address already in use")
}

// TestServeEndsWithItsListener: a listener that fails is an error, not silence.
func TestServeEndsWithItsListener(t *testing.T) {
	s, err := backendplugin.NewServer(testplugins.All(), backendplugin.WithPlainText())
	require.NoError(t, err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_ = lis.Close()
	require.Error(t, s.Serve(within(t), lis))
}

func square(w *world) error {
	_, err := w.create(w.within(), "square", literals(values{"x": 2}))
	return err
}

func TestTLS(t *testing.T) {
	pki, other := newAuthority(t), newAuthority(t)
	service := pki.issue("service", inAnHour(), "127.0.0.1")
	client := pki.issue("client", inAnHour(), "propeller")
	stranger := other.issue("stranger", inAnHour(), "propeller")
	w := startWith(t, testplugins.All(), backendplugin.WithTLS(service.certFile, service.keyFile))
	mutual := startWith(t, testplugins.All(), backendplugin.WithTLS(service.certFile, service.keyFile), backendplugin.WithClientCA(pki.file))
	for _, tt := range []struct {
		reason string
		w      *world
		creds  credentials.TransportCredentials
		ok     bool
	}{
		{"a client that trusts the CA", w, credentials.NewTLS(&tls.Config{RootCAs: pki.pool}), true},
		{"one that does not", w, credentials.NewTLS(&tls.Config{RootCAs: other.pool}), false},
		{"one that srunnings plain text", w, insecure.NewCredentials(), false},
		{"an old TLS", w, credentials.NewTLS(&tls.Config{RootCAs: pki.pool, MaxVersion: tls.VersionTLS11}), false}, //nolint:gosec // it must be refused
		{"a client with a certificate", mutual, credentials.NewTLS(&tls.Config{RootCAs: pki.pool, Certificates: []tls.Certificate{client.Certificate}}), true},
		{"one without", mutual, credentials.NewTLS(&tls.Config{RootCAs: pki.pool}), false},
		{"one of another CA", mutual, credentials.NewTLS(&tls.Config{RootCAs: pki.pool, Certificates: []tls.Certificate{stranger.Certificate}}), false},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			tt.w.dial(grpc.WithTransportCredentials(tt.creds))
			err := square(tt.w)
			if tt.ok {
				require.NoError(t, err)
			} else {
				require.Equal(t, codes.Unavailable, status.Code(err), err)
			}
		})
	}
}

// TestCertificatesAreReloaded: a rotated certificate is used without a restart, and a broken one is not.
func TestCertificatesAreReloaded(t *testing.T) {
	pki, next := newAuthority(t), newAuthority(t)
	old, rotated := pki.issue("service", inAnHour(), "127.0.0.1"), next.issue("service", inAnHour(), "127.0.0.1")
	w := startWith(t, testplugins.All(), backendplugin.WithTLS(old.certFile, old.keyFile))
	works := func(pki *authority) error {
		w.dial(grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pki.pool})))
		return square(w)
	}
	replace := func(file string, content []byte, at time.Time) {
		require.NoError(t, os.WriteFile(file, content, 0o600))
		require.NoError(t, os.Chtimes(file, at, at))
	}
	read := func(file string) []byte {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		return b
	}
	require.NoError(t, works(pki))
	replace(old.certFile, []byte("half a fi"), inAnHour())
	require.NoError(t, works(pki), "a file that is being written leaves the one before in use")
	require.Contains(t, w.log.String(), "the ones before stay in use")
	require.NoError(t, os.Remove(old.certFile))
	require.NoError(t, works(pki), "as does one that is gone for a moment")
	replace(old.certFile, read(rotated.certFile), inAnHour())
	replace(old.keyFile, read(rotated.keyFile), inAnHour())
	require.NoError(t, works(next))
	require.Error(t, works(pki))
}

// TestPanics: a panic is an error of its call, which tells nothing of what was thrown; the service goes on.
func TestPanics(t *testing.T) {
	thrown := any("secret-panic")
	w := start(t, backendplugin.Plugins{
		backendplugin.New("a", &simple{
			create: func(context.Context, *backendplugin.Request[values]) (string, error) { panic(thrown) },
			get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
				panic(thrown)
			},
			delete: func(context.Context, *backendplugin.Job[string]) error { panic(thrown) },
		}),
		backendplugin.NewSync("s", &fakeSync[values, values]{
			execute: func(context.Context, *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
				panic(thrown)
			},
		}),
	}, backendplugin.WithMaxConcurrent(1)) // a panic that kept its place would stop the second call
	for _, thrown = range []any{"secret-panic", errors.New("secret-panic"), nil} {
		_, created := w.create(w.within(), "a", nil)
		_, got := w.get(w.within(), "a", "j")
		_, executed := w.execute(w.within(), header("s"))
		for call, err := range map[string]error{"Create": created, "Get": got, "Delete": w.delete(w.within(), "a", "j"), "Execute": executed} {
			require.ErrorContains(t, err, "Internal desc = the plugin panicked in "+call)
			require.NotContains(t, err.Error(), "secret")
		}
	}
	require.Contains(t, w.log.String(), "server_test.go", "the log has the stack")
}

// TestDeadlines: an answer comes in time, whether the plugin looks at its context or not.
func TestDeadlines(t *testing.T) {
	release := make(chan struct{})
	for _, tt := range []struct {
		reason string
		wait   func(context.Context) error
		opts   []backendplugin.Option
		caller time.Duration
	}{
		{"the service's limit, heeded", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, []backendplugin.Option{backendplugin.WithTimeout(50 * time.Millisecond)}, limit},
		{"the service's limit, ignored", func(context.Context) error { <-release; return nil }, []backendplugin.Option{backendplugin.WithTimeout(50 * time.Millisecond)}, limit},
		{"the caller's deadline", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, []backendplugin.Option{backendplugin.WithTimeout(0)}, 50 * time.Millisecond},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
				get: func(ctx context.Context, _ *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
					return nil, tt.wait(ctx)
				},
			})}, tt.opts...)
			ctx, cancel := context.WithTimeout(t.Context(), tt.caller)
			defer cancel()
			_, err := w.get(ctx, "a", "j")
			require.Equal(t, codes.DeadlineExceeded, status.Code(err), err)
		})
	}
	close(release)
	w := start(t, backendplugin.Plugins{backendplugin.NewSync("s", &fakeSync[values, values]{
		execute: func(ctx context.Context, _ *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})}, backendplugin.WithExecuteTimeout(50*time.Millisecond))
	_, err := w.execute(w.within(), header("s"))
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), err)
}

// TestCancellationReachesThePlugin: a caller that goes away ends the plugin's context.
func TestCancellationReachesThePlugin(t *testing.T) {
	entered, left := make(chan struct{}), make(chan error, 1)
	w := start(t, backendplugin.Plugins{backendplugin.NewSync("s", &fakeSync[values, values]{
		execute: func(ctx context.Context, _ *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
			close(entered)
			<-ctx.Done()
			left <- ctx.Err()
			return nil, ctx.Err()
		},
	})})
	ctx, cancel := context.WithCancel(w.within())
	go func() {
		<-entered
		cancel()
	}()
	_, err := w.execute(ctx, header("s"))
	require.Equal(t, codes.Canceled, status.Code(err), err)
	require.ErrorIs(t, <-left, context.Canceled)
}

// TestMessageSize: a message over the limit is RESOURCE_EXHAUSTED in both directions, and names the sizes.
func TestMessageSize(t *testing.T) {
	const size = 64 << 10
	large := strings.Repeat("x", size)
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) { return "j", nil },
		get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
			return backendplugin.Succeeded(values{"o0": large}), nil
		},
	})}, backendplugin.WithMaxMessageSize(size))
	_, err := w.create(w.within(), "a", literals(values{"x": large[:size/2]}))
	require.NoError(t, err)
	_, err = w.create(w.within(), "a", literals(values{"x": large}))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "larger than max")
	_, err = w.get(w.within(), "a", "j")
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "larger than max")
}

// TestMessageSizeInParts: what comes in parts is not without limit.
func TestMessageSizeInParts(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	w := start(t, backendplugin.Plugins{backendplugin.NewSync("s", &fakeSync[values, values]{
		execute: func(_ context.Context, r *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
			return backendplugin.Succeeded(values{"o0": len(r.Inputs)}), nil
		},
	})}, backendplugin.WithMaxMessageSize(size))
	half := strings.Repeat("x", size/2-100)
	r, err := w.execute(w.within(), header("s"), part(values{"a": half}), part(values{"b": half}))
	require.NoError(t, err)
	require.Equal(t, int64(2), r.GetOutputs().GetLiterals()["o0"].GetScalar().GetPrimitive().GetInteger())
	_, err = w.execute(w.within(), header("s"), part(values{"a": half}), part(values{"b": half}), part(values{"c": half}))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.ErrorContains(t, err, "the inputs are larger than max (")
}

// TestConcurrencyLimit: one call too many is turned away with a pause, and a call that ignores its end keeps its place.
func TestConcurrencyLimit(t *testing.T) {
	const most = 3
	entered, release := make(chan struct{}, most), make(chan struct{})
	var running atomic.Int32
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &simple{
		create: func(context.Context, *backendplugin.Request[values]) (string, error) {
			running.Add(1)
			defer running.Add(-1)
			entered <- struct{}{}
			<-release
			return "j", nil
		},
		delete: func(context.Context, *backendplugin.Job[string]) error { return nil },
	})}, backendplugin.WithMaxConcurrent(most))
	ctx, abandon := context.WithCancel(w.within())
	results := make(chan error, most)
	for i := range most {
		ctx := ctx
		if i > 0 {
			ctx = w.within()
		}
		go func() {
			_, err := w.create(ctx, "a", nil)
			results <- err
		}()
		<-entered
	}
	refused := func() {
		_, err := w.create(w.within(), "a", nil)
		st := status.Convert(err)
		require.Equal(t, codes.ResourceExhausted, st.Code(), err)
		require.Len(t, st.Details(), 1)
		info, ok := st.Details()[0].(*errdetails.RetryInfo)
		require.True(t, ok)
		require.Equal(t, time.Second, info.GetRetryDelay().AsDuration())
	}
	refused()
	abandon()
	require.Equal(t, codes.Canceled, status.Code(<-results))
	refused() // its caller is gone, the plugin still works
	require.Equal(t, int32(most), running.Load())
	_, err := w.meta.ListAgents(w.within(), &admin.ListAgentsRequest{})
	require.NoError(t, err, "saying what it serves costs no place")
	close(release)
	for range most - 1 {
		require.NoError(t, <-results)
	}
	require.Eventually(t, func() bool { return w.delete(w.within(), "a", "j") == nil }, limit, time.Millisecond)
}

// TestManyCallsAtOnce is for the race detector.
func TestManyCallsAtOnce(t *testing.T) {
	w := start(t, testplugins.All())
	results := make(chan error)
	const callers, calls = 16, 25
	for i := range int64(callers) {
		go func() {
			var first error
			for range calls {
				id, err := w.create(w.within(), "square", literals(values{"x": i}))
				if err == nil {
					_, err = w.get(w.within(), "square", string(id))
				}
				first = errors.Join(first, err)
			}
			results <- first
		}()
	}
	for range callers {
		require.NoError(t, <-results)
	}
}

// TestReflection: tools such as grpcurl find the services.
func TestReflection(t *testing.T) {
	w := start(t, testplugins.All())
	stream, err := reflectionpb.NewServerReflectionClient(w.conn).ServerReflectionInfo(w.within())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}))
	r, err := stream.Recv()
	require.NoError(t, err)
	var got []string
	for _, s := range r.GetListServicesResponse().GetService() {
		got = append(got, s.GetName())
	}
	require.Subset(t, got, []string{
		"flyteidl.service.AsyncAgentService", "flyteidl.service.SyncAgentService", "flyteidl.service.AgentMetadataService", "grpc.health.v1.Health",
	})
}

// TestInterceptorsSeeTheCode: where metrics and traces go in, calls have the code that they end with.
func TestInterceptorsSeeTheCode(t *testing.T) {
	seen := make(chan codes.Code, 1)
	w := start(t, testplugins.All(), backendplugin.WithServerOptions(grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			r, err := handler(ctx, req)
			seen <- status.Code(err)
			return r, err
		},
	)))
	require.NoError(t, square(w))
	assert.Equal(t, codes.OK, <-seen)
	_, err := w.create(w.within(), "square", literals(values{"x": "two"}))
	require.Error(t, err)
	assert.Equal(t, codes.InvalidArgument, <-seen)
}
