package backendplugin_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
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
