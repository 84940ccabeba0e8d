package exit

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReport: what is printed of an error, and the exit code that docs/cli.md promises for it.
func TestReport(t *testing.T) {
	t.Parallel()
	failed := &Error{Code: Failed, Err: errors.New("the job failed")}
	for _, tt := range []struct {
		reason string
		err    error
		says   string
		code   int
	}{
		{"an error that nobody gave a code", errors.New("write /dev/stdout: no space left on device"), "write /dev/stdout: no space left on device\n", Internal},
		{"the same with a hint", Hint(errors.New("disk full"), "make room"), "disk full\nhint: make room\n", Internal},
		{"a hint keeps the code", Hint(BadInputf("no service is named"), "name one"), "no service is named\nhint: name one\n", BadInput},
		{"an error inside another one", fmt.Errorf("run: %w", failed), "run: the job failed\n", Failed},
		{"a command that is none", errors.New(`unknown command "dmeo" for "flyte-backend"`), "unknown command \"dmeo\" for \"flyte-backend\"\n", BadInput},
		{"several lines", errors.New("two\nmistakes"), "two; mistakes\n", Internal},
		{"lines under a heading", errors.New("wrong:\n\none\ntwo"), "wrong: one; two\n", Internal},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			require.Equal(t, tt.code, Report(&out, tt.err))
			require.Equal(t, "flyte-backend: "+tt.says, out.String())
		})
	}
}
