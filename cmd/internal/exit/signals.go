package exit

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Signals are those that end a command in good order. A terminal that is closed is one, unless the command was started to
// outlive it, as by nohup.
func Signals() []os.Signal {
	s := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}

// oneSignal is how long another signal counts as the same one: timeout(1) and some shells send it twice at once, to the process
// and to its group.
const oneSignal = 300 * time.Millisecond

// Patience gives a context that outlives ctx until another signal comes, for what is to be put in order after ctx has ended.
// The function that it gives ends it. From now on the process does not end at once when a reader of its output goes away, as
// `head` does: that is no reason to put nothing in order.
func Patience(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE)
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, func() {
		same := time.NewTimer(oneSignal)
		defer same.Stop()
		select {
		case <-same.C:
		case <-patient.Done():
			return
		}
		second := make(chan os.Signal, 1)
		signal.Notify(second, Signals()...)
		defer signal.Stop(second)
		select {
		case <-second:
			cancel()
		case <-patient.Done():
		}
	})
	return patient, func() { unwatch(); cancel() }
}
