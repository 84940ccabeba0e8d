package backendplugin_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/flytebackendv1"
)

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "db"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "db", "password"), []byte("from file\n"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "db", "folder"), 0o700))
	t.Setenv("_FSEC_DB_USER", " from env ")
	t.Setenv("MY_db_DB_USER", "x")
	t.Setenv("my_DB_USER", "overridden")
	for _, tt := range []struct {
		reason     string
		secrets    backendplugin.Secrets
		group, key string
		want, err  string
		code       codes.Code
	}{
		{"the environment, in capitals, as flytekit has it", backendplugin.Secrets{}, "db", "user", "from env", "", 0},
		{"another prefix, as it is written", backendplugin.Secrets{EnvPrefix: "my_"}, "db", "user", "overridden", "", 0},
		{"a file, in small letters", backendplugin.Secrets{Dir: dir}, "DB", "Password", "from file", "", 0},
		{
			"neither", backendplugin.Secrets{Dir: dir}, "db", "token", "",
			"secret token of group db is neither in the environment as _FSEC_DB_TOKEN nor in the file " + dir + "/db/token", codes.FailedPrecondition,
		},
		{"the default folder", backendplugin.Secrets{}, "no-such-group", "token", "", "/etc/secrets/no-such-group/token", codes.FailedPrecondition},
		{"a way out of the folder", backendplugin.Secrets{Dir: dir}, "..", "passwd", "", "cannot be one", codes.InvalidArgument},
		{"a path as a key", backendplugin.Secrets{Dir: dir}, "db", "../db/password", "", "cannot be one", codes.InvalidArgument},
		{"no group", backendplugin.Secrets{Dir: dir}, "", "password", "", "cannot be one", codes.InvalidArgument},
		{"a file that cannot be read", backendplugin.Secrets{Dir: dir}, "db", "folder", "", "is a directory", codes.Unknown},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			got, err := tt.secrets.Get(tt.group, tt.key)
			if tt.err == "" {
				require.NoError(t, err)
				require.Equal(t, tt.want, got)
				return
			}
			require.ErrorContains(t, err, tt.err)
			var e *backendplugin.Error
			if tt.code == codes.Unknown {
				require.NotErrorAs(t, err, &e)
				return
			}
			require.ErrorAs(t, err, &e)
			require.Equal(t, tt.code, e.Code)
		})
	}
}

// TestMissingSecretEndsNoJob: a secret that is away fails a new task for good, and says nothing of jobs that run.
func TestMissingSecretEndsNoJob(t *testing.T) {
	missing := func() error {
		_, err := backendplugin.Secrets{Dir: t.TempDir()}.Get("no", "secret")
		return fmt.Errorf("no connection: %w", err)
	}
	plugin := &able{
		simple: simple{
			create: func(context.Context, *backendplugin.Request[values]) (string, error) { return "", missing() },
			get: func(context.Context, *backendplugin.Job[string]) (*backendplugin.Status[values], error) {
				return nil, missing()
			},
			delete: func(context.Context, *backendplugin.Job[string]) error { return missing() },
		},
		getMany: func(context.Context, []*backendplugin.Job[string]) ([]backendplugin.Result[values], error) {
			return []backendplugin.Result[values]{{Err: missing()}, {Err: missing()}}, nil
		},
	}
	w := start(t, backendplugin.Plugins{
		backendplugin.New("a", plugin),
		backendplugin.NewSync("s", &fakeSync[values, values]{
			execute: func(context.Context, *backendplugin.Request[values]) (*backendplugin.Status[values], error) {
				return nil, missing()
			},
		}),
	})
	_, create := w.create(w.within(), "a", nil)
	_, execute := w.execute(w.within(), header("s"))
	_, get := w.get(w.within(), "a", "j")
	for want, errs := range map[codes.Code][]error{
		codes.FailedPrecondition: {create, execute},
		codes.Internal:           {get, w.delete(w.within(), "a", "j")},
	} {
		for _, err := range errs {
			require.Equal(t, want, status.Code(err), err)
			require.Contains(t, err.Error(), "no connection: secret secret of group no is neither in the environment")
		}
	}
	many, err := flytebackendv1.NewBackendServiceClient(w.conn).GetTasks(w.within(), &flytebackendv1.GetTasksRequest{
		Tasks: []*flytebackendv1.TaskRef{taskRef("a", "v1", "j"), taskRef("a", "v1", "k")},
	})
	require.NoError(t, err)
	for _, r := range many.GetResults() {
		require.Contains(t, told(r), "Internal: no connection: secret secret of group no")
	}
}
