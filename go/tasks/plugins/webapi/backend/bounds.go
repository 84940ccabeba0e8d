package backend

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// What a task shows goes to flyteadmin in one message of at most 4 MiB, and its failure into etcd, whose objects have 1.5 MiB
// for a whole workflow. What is too large fails the workflow's round, every time. docs/contract.md states these bounds.
const (
	maxShownMessage = 4 << 10
	// maxFailure is below propeller's own limit, beyond which it cuts messages in the middle of a character.
	maxFailure    = 64 << 10
	maxCode       = 256
	maxLinks      = 100
	maxLink       = 4 << 10
	maxCustomInfo = 128 << 10
)

// bounded cuts what a service says of a job to what can be shown. The job is the caller's own.
func bounded(job *client.Job) *client.Job {
	if job.Terminal() {
		job.Message = cutMiddle(job.Message, maxFailure)
	} else {
		job.Message = cutEnd(job.Message, maxShownMessage)
	}
	var links []*core.TaskLog
	for _, l := range job.LogLinks {
		if len(links) < maxLinks && proto.Size(l) <= maxLink {
			links = append(links, l)
		}
	}
	job.LogLinks = links
	if size := proto.Size(job.CustomInfo); size > maxCustomInfo {
		job.CustomInfo = &structpb.Struct{Fields: map[string]*structpb.Value{"omitted": structpb.NewStringValue(
			fmt.Sprintf("the custom info has %d bytes, at most %d are shown", size, maxCustomInfo))}}
	}
	return job
}

// boundedError cuts what is kept of a failure.
func boundedError(e *core.ExecutionError) *core.ExecutionError {
	e.Code, e.Worker = cutEnd(e.GetCode(), maxCode), cutEnd(e.GetWorker(), maxCode)
	e.Message = cutMiddle(e.GetMessage(), maxFailure)
	return e
}

// cutEnd shortens a text, at a whole character.
func cutEnd(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// cutMiddle keeps the beginning and the end of a text, since the end of a traceback says the most.
func cutMiddle(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	half := limit / 2
	return fmt.Sprintf("%s\n… %d bytes left out …\n%s",
		strings.ToValidUTF8(s[:half], ""), len(s)-2*half, strings.ToValidUTF8(s[len(s)-half:], ""))
}
