package backend

import (
	"hash/fnv"
	"io"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/client"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// fingerprint hashes what people see of a phase: not when it was seen.
func fingerprint(info pluginscore.PhaseInfo) uint64 {
	h := fnv.New64a()
	field(h, info.Reason())
	if ti := info.Info(); ti != nil {
		for _, reason := range ti.AdditionalReasons {
			field(h, reason.Reason)
		}
		for _, l := range ti.Logs {
			message(h, l)
		}
		message(h, ti.CustomInfo)
		for _, e := range ti.ExternalResources {
			field(h, e.ExternalID)
		}
	}
	return h.Sum64()
}

// fingerprintJob hashes what a poll can change.
func fingerprintJob(j *client.Job) uint64 {
	h := fnv.New64a()
	field(h, strconv.Itoa(int(j.Phase)))
	field(h, j.Message)
	for _, l := range j.LogLinks {
		message(h, l)
	}
	message(h, j.CustomInfo)
	return h.Sum64()
}

func field(w io.Writer, s string) {
	// A hash never fails to be written to.
	_, _ = io.WriteString(w, strconv.Itoa(len(s)))
	_, _ = io.WriteString(w, ":"+s)
}

func message(w io.Writer, m proto.Message) {
	// Deterministic within one program, which is enough: after an upgrade one update too many is shown.
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	field(w, string(b))
}
