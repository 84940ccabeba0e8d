// Package dial connects to a deployment by the transport that its configuration names.
package dial

import (
	"fmt"
	"io"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyte-backend/flyte-backend/go/client/grpcclient"
	"github.com/flyte-backend/flyte-backend/go/client/restclient"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// Conn is a connection to a deployment. It is closed once; calls under way then fail as Canceled.
type Conn interface {
	client.Client
	io.Closer
}

// Dial prepares the connection to deployment d, called name in messages. It reads the TLS files and does not wait for the
// service.
func Dial(name string, d *config.Deployment) (Conn, error) {
	switch d.Protocol {
	case "", config.ProtocolGRPC:
		return made(grpcclient.Dial(name, d))
	case config.ProtocolREST:
		return made(restclient.Dial(name, d))
	default:
		return nil, fmt.Errorf("plugins.backend.deployments.%s.protocol %q: there is no such transport", name, d.Protocol)
	}
}

// made keeps a nil pointer from becoming a Conn that is not nil.
func made[C Conn](c C, err error) (Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}
