package dial_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/client/dial"
	"github.com/flyte-backend/flyte-backend/go/client/grpcclient"
	"github.com/flyte-backend/flyte-backend/go/client/restclient"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

func TestDial(t *testing.T) {
	t.Parallel()
	missing := config.TLS{CAFile: "missing.pem"}
	tests := []struct {
		reason string
		d      config.Deployment
		want   any
		fails  string
	}{
		{reason: "gRPC unless told otherwise", d: config.Deployment{Endpoint: "host:1"}, want: &grpcclient.Conn{}},
		{reason: "gRPC", d: config.Deployment{Endpoint: "host:1", Protocol: config.ProtocolGRPC}, want: &grpcclient.Conn{}},
		{reason: "REST", d: config.Deployment{Endpoint: "https://host", Protocol: config.ProtocolREST}, want: &restclient.Conn{}},
		{reason: "gRPC without its files", d: config.Deployment{Endpoint: "host:1", TLS: missing}, fails: "big.tls: caFile"},
		{reason: "REST without its files", d: config.Deployment{Endpoint: "https://host", Protocol: config.ProtocolREST, TLS: missing}, fails: "big.tls: caFile"},
		{reason: "REST without a URL", d: config.Deployment{Endpoint: "host:1", Protocol: config.ProtocolREST}, fails: "big.endpoint"},
		{reason: "anything else", d: config.Deployment{Endpoint: "host:1", Protocol: "soap"}, fails: `big.protocol "soap": there is no such transport`},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			c, err := dial.Dial("big", &tt.d)
			if tt.fails != "" {
				require.ErrorContains(t, err, "plugins.backend.deployments."+tt.fails)
				assert.True(t, c == nil, "no connection that is not nil and holds none") //nolint:testifylint // assert.Nil takes a nil pointer in an interface for nil
				return
			}
			require.NoError(t, err)
			assert.IsType(t, tt.want, c)
			assert.NoError(t, c.Close())
		})
	}
}
