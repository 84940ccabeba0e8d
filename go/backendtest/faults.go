package backendtest

import (
	"context"
	"net"
	"net/http"
	"path"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// listener knows its connections.
type listener struct {
	net.Listener
	accepted func()

	mu   sync.Mutex
	open map[net.Conn]bool
}

// Accept gives the next connection, and counts it.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.accepted()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := &conn{Conn: c, l: l}
	l.open[out] = true
	return out, nil
}

// drop closes every connection at once.
func (l *listener) drop() {
	l.mu.Lock()
	conns := make([]net.Conn, 0, len(l.open))
	for c := range l.open {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

type conn struct {
	net.Conn
	l *listener
}

// Close closes the connection and forgets it.
func (c *conn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

func (b *Backend) connected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns++
}

// garbled says whether the answer to this call is to be garbled.
func (b *Backend) garbled(m Method) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return take(b.garbles, m)
}

// garbage is what no protobuf message and no JSON is.
var garbage = []byte("\xff\xff{ this is no answer")

// noise is sent as garbage.
type noise struct{}

// garbling is a codec that can send garbage.
type garbling struct{ encoding.CodecV2 }

// Marshal writes a message, or garbage.
func (c garbling) Marshal(v any) (mem.BufferSlice, error) {
	if _, is := v.(noise); is {
		return mem.BufferSlice{mem.SliceBuffer(garbage)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// grpcMethods are the methods by the last part of their names.
var grpcMethods = map[string]Method{
	"ListAgents": List, "CreateTask": Create, "GetTask": Get, "GetTasks": Get, "DeleteTask": Delete, "ExecuteTaskSync": Execute,
}

func (b *Backend) garbleUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	res, err := handler(ctx, req)
	if err == nil && b.garbled(grpcMethods[path.Base(info.FullMethod)]) {
		return noise{}, nil
	}
	return res, err
}

func (b *Backend) garbleStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if b.garbled(grpcMethods[path.Base(info.FullMethod)]) {
		stream = noisyStream{stream}
	}
	return handler(srv, stream)
}

type noisyStream struct{ grpc.ServerStream }

// SendMsg sends garbage in place of the message.
func (s noisyStream) SendMsg(any) error { return s.ServerStream.SendMsg(noise{}) }

// restMethod gives the method that a request is for.
func restMethod(r *http.Request) Method {
	switch last := path.Base(r.URL.Path); {
	case r.Method == http.MethodPut:
		return Create
	case r.Method == http.MethodDelete || r.Method == http.MethodPost && last == "delete":
		return Delete
	case r.Method == http.MethodPost && last == "execute":
		return Execute
	case r.Method == http.MethodPost && last == "poll":
		return Get
	case r.Method == http.MethodGet && r.URL.Query().Has("job_id"):
		return Get
	default:
		return List
	}
}

// unheard is what a garbled answer is written to.
type unheard struct{ header http.Header }

func (u unheard) Header() http.Header         { return u.header }
func (u unheard) Write(p []byte) (int, error) { return len(p), nil }
func (u unheard) WriteHeader(int)             {}

func (b *Backend) garbleREST(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !b.garbled(restMethod(r)) {
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(unheard{http.Header{}}, r)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(garbage) // nobody who garbles answers minds that one is lost
	})
}
