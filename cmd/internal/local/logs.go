package local

import (
	"flag"
	"io"
	"log"
	"os"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
)

// RouteLogs sends what propeller and its libraries log to a file, or nowhere: what happens is told by events, and lines of
// others would tear up the tree.
func RouteLogs(file string) (closeLog func(), err error) {
	out := io.Discard
	closeLog = func() {}
	if file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, exit.BadInputf("cannot write the log: %w", err)
		}
		out, closeLog = f, func() { _ = f.Close() } // what is lost of a log at its end is nothing that can be helped
	}
	logrus.SetOutput(out)
	log.SetOutput(out)
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, out))
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false") // these flags exist
	_ = flags.Set("alsologtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(out)
	ctrllog.SetLogger(logr.Discard())
	return closeLog, nil
}
