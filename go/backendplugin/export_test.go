package backendplugin

import "time"

// WithHeaderTimeout is how long a REST caller has for its headers, which tests do not wait out.
func WithHeaderTimeout(d time.Duration) Option { return func(o *options) { o.headerTimeout = d } }
