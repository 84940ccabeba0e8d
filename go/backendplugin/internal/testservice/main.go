// Command testservice serves the plugins of tests as a process of its own.
package main

import (
	"context"
	"flag"
	"log"
	"time"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyte-backend/flyte-backend/go/backendplugin/internal/testplugins"
)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "address to listen on")
	rest := flag.String("rest", "127.0.0.1:0", "address to listen on for REST")
	anything := flag.Bool("anything", false, "serve the plugin that takes anything, and no other")
	flag.Parse()
	plugins := testplugins.All()
	if *anything {
		plugins = backendplugin.Plugins{testplugins.Anything()}
	}
	err := backendplugin.Serve(context.Background(), plugins, backendplugin.WithAddress(*address), backendplugin.WithREST(*rest),
		backendplugin.WithPlainText(), backendplugin.WithDrain(0, 10*time.Second))
	if err != nil {
		log.Fatal(err)
	}
}
