package conformance_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/conformance"
)

// listener keeps its connections, so that a service can die with all of them, and sees what comes over them.
type listener struct {
	net.Listener
	f     *faulty
	mu    sync.Mutex
	conns map[*conn]bool
	slots chan struct{}
}

type conn struct {
	net.Conn
	l    *listener
	once sync.Once
	read int
	head []byte
}

func (l *listener) Accept() (net.Conn, error) {
	if l.f.is("at most 24 connections") {
		l.slots <- struct{}{}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	out := &conn{Conn: c, l: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[out] = true
	return out, nil
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(c.head) < 4 {
		c.head = append(c.head, p[:min(n, 4)]...)
	}
	c.read += n
	f := c.l.f
	switch {
	case err != nil && f.is("dies of a cut connection") && f.protocol == conformance.GRPC && c.read == 44,
		f.is("dies of another protocol") && (bytes.HasPrefix(c.head, []byte("GET /")[:4]) && f.protocol == conformance.GRPC || bytes.HasPrefix(c.head, []byte{0, 0})):
		f.die()
	}
	return n, err
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
		if c.l.f.is("at most 24 connections") {
			<-c.l.slots
		}
	})
	return err
}

// die ends the service as a killed process does.
func (f *faulty) die() {
	f.mu.Lock()
	l := f.lis
	f.lis = nil
	f.mu.Unlock()
	if l == nil {
		return
	}
	_ = l.Listener.Close()
	l.mu.Lock()
	conns := l.conns
	l.conns = map[*conn]bool{}
	l.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// start serves, at the same address as before.
func (f *faulty) start() error {
	if f.is("jobs are in memory") {
		f.store.mu.Lock()
		f.store.jobs, f.store.keys = map[string]*fjob{}, map[string]fkey{}
		f.store.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var lis net.Listener
	var err error
	for range 100 {
		address := f.address
		if address == "" { // not of the range that the system gives away while this one is dead
			address = fmt.Sprintf("127.0.0.1:%d", 23000+rand.IntN(9000))
		}
		if lis, err = net.Listen("tcp", address); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	f.address = lis.Addr().String()
	f.starts++
	f.broken = map[string]bool{}
	f.lis = &listener{Listener: lis, f: f, conns: map[*conn]bool{}, slots: make(chan struct{}, 24)}
	lis = f.lis
	if f.tls != nil {
		lis = tls.NewListener(lis, f.tls)
	}
	if f.protocol == conformance.REST {
		f.stop = f.serveREST(lis)
	} else {
		f.stop = f.serveGRPC(lis)
	}
	return nil
}

// restart kills the service and starts it again.
func (f *faulty) restart(context.Context) error {
	f.die()
	f.mu.Lock()
	stop := f.stop
	f.mu.Unlock()
	stop()
	return f.start()
}

// endpoint is what Options.Endpoint takes.
func (f *faulty) endpoint() string {
	if f.protocol == conformance.REST {
		if f.tls != nil {
			return "https://" + f.address
		}
		return "http://" + f.address
	}
	return f.address
}

// serve starts a service with a fault, and another replica.
func serve(t *testing.T, protocol conformance.Protocol, fault string) (one, other *faulty) {
	t.Helper()
	one = &faulty{fault: fault, protocol: protocol, store: newStore()}
	other = &faulty{fault: fault, protocol: protocol, store: one.store}
	if fault == "jobs are in memory" {
		other.store = newStore()
	}
	for _, f := range []*faulty{one, other} {
		require.NoError(t, f.start())
		t.Cleanup(func() {
			f.die()
			f.stop()
		})
	}
	return one, other
}
