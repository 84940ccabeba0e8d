// Package transport tells a call's transport to what serves it, which otherwise cannot tell them apart.
package transport

import "context"

// The transports, as metrics call them.
const (
	GRPC = "grpc"
	REST = "rest"
)

type key struct{}

// With marks a call's context.
func With(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, key{}, name)
}

// Of gives the transport that a call came by.
func Of(ctx context.Context) string {
	if name, ok := ctx.Value(key{}).(string); ok {
		return name
	}
	return GRPC
}
