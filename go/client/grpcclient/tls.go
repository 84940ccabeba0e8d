package grpcclient

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/flyte-backend/flyte-backend/go/client/tlsfiles"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// fileCredentials reads the CA and the client certificate at every handshake, so that renewed ones are used without a
// restart. A file that cannot be read at that moment fails the one handshake; grpc dials again.
type fileCredentials struct {
	// TransportCredentials are those of the files as Dial found them; they answer everything but handshakes.
	credentials.TransportCredentials
	files config.TLS
}

// tlsCredentials reads the files once, so that a wrong one is told at once.
func tlsCredentials(t config.TLS) (credentials.TransportCredentials, error) {
	cfg, err := tlsfiles.Config(t)
	if err != nil {
		return nil, err
	}
	return &fileCredentials{TransportCredentials: credentials.NewTLS(cfg), files: t}, nil
}

func (c *fileCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := tlsfiles.Config(c.files)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
}

func (c *fileCredentials) Clone() credentials.TransportCredentials {
	return &fileCredentials{TransportCredentials: c.TransportCredentials.Clone(), files: c.files}
}
