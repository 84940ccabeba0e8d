package diagnose_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/flyte-backend/flyte-backend/go/client/internal/diagnose"
)

func TestMessagesAreBounded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reason, in, want string
	}{
		{"a short one stays", "no", "no"},
		{"white space round it goes", "\n no\n", "no"},
		{"bytes that are no text are marked", "a\xffb", "a\uFFFDb"},
		{"a traceback is cut", strings.Repeat("x", 5000), strings.Repeat("x", diagnose.MaxMessage) + "…"},
		{"between characters", strings.Repeat("x", diagnose.MaxMessage-1) + "éé", strings.Repeat("x", diagnose.MaxMessage-1) + "…"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) { assert.Equal(t, tt.want, diagnose.Bounded(tt.in)) })
	}
}

func TestAdvise(t *testing.T) {
	t.Parallel()
	cases := []diagnose.Case{
		{Says: []string{"one", "two"}, Speaks: diagnose.TLS, Advice: "of TLS"},
		{Says: []string{"two"}, Speaks: diagnose.PlainText, Advice: "of plain text"},
		{Says: []string{"two", "three"}, Advice: "of both"},
	}
	tests := []struct {
		reason   string
		insecure bool
		message  string
		want     string
	}{
		{"the first that fits", false, "a two b", "of TLS"},
		{"is one for what the deployment speaks", true, "a two b", "of plain text"},
		{"which others do not limit", true, "three", "of both"},
		{"none of what it speaks", true, "one", ""},
		{"none at all", false, "four", ""},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			advice, found := diagnose.Advise(cases, tt.insecure, tt.message)
			assert.Equal(t, tt.want, advice)
			assert.Equal(t, tt.want != "", found)
		})
	}
}
