package backendtest

import "net"

func (b *Backend) serveREST(lis net.Listener) (stop func()) { panic("TODO") }
