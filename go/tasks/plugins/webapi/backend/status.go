package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/ioutils"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/webapi"
)

// Error codes of failures that the plugin finds itself. A code of the error table stands behind "Backend/".
const (
	codePrefix = "Backend/"
	// CodeUnreachable: polls failed for longer than poll.maxOutage, or creates for longer than create.deadline.
	CodeUnreachable = codePrefix + "Unreachable"
	// CodeFailed: the job failed and the service gave no code.
	CodeFailed = codePrefix + "JobFailed"
	// CodeAborted: the job was ended outside Flyte.
	CodeAborted = codePrefix + "JobAborted"
	// CodeOutputsMissing: the job succeeded without the outputs that the interface declares.
	CodeOutputsMissing = codePrefix + "OutputsMissing"
	// CodeOutputsMismatch: the job's outputs do not fit the interface.
	CodeOutputsMismatch = codePrefix + "OutputsMismatch"
	// CodeOutputsTooLarge is propeller's code for a file of outputs that is too large to be read.
	CodeOutputsTooLarge = "OutputSizeExceeded"
	// CodeStateDamaged: the file in which a sub-task of a map keeps its job cannot be read.
	CodeStateDamaged = codePrefix + "StateDamaged"
	// CodeBadTemplate: the task template cannot be run at all.
	CodeBadTemplate = codePrefix + "BadTemplate"
)

// Status says what a job's latest state means to Flyte. It makes no call to the service; at the end of a task it may look
// into the data store for outputs or an error.
func (p plugin) Status(ctx context.Context, sCtx webapi.StatusContext) (pluginscore.PhaseInfo, error) {
	meta, ok := sCtx.ResourceMeta().(resourceMeta)
	if !ok {
		return pluginscore.PhaseInfoUndefined, fmt.Errorf("%w: no job's reference", errEnvelope)
	}
	var v view
	if t := p.s.tasks.lookup(meta.key); t != nil {
		v = t.view()
	}
	if r, ok := sCtx.Resource().(resource); ok && v.job == nil {
		v.job = r.job
	}
	h, ok := handlingOf(sCtx)
	if ok && (v.job != nil || v.outage.count > 0 || v.fatal != nil) {
		h.told = true
	}
	now := time.Now()
	switch {
	case v.fatal != nil:
		return polledToDeath(v.fatal, meta, v.job), nil //nolint:nilerr // the phase tells of it
	case v.outage.count > 0 && now.Sub(v.outage.since) > p.s.config().Poll.MaxOutage.Duration:
		return failed(&core.ExecutionError{
			Code: CodeUnreachable, Kind: core.ExecutionError_SYSTEM,
			Message: fmt.Sprintf("the job could not be polled for %s (plugins.backend.poll.maxOutage is %s), %d polls in a row; the last: %v",
				now.Sub(v.outage.since).Round(time.Second), p.s.config().Poll.MaxOutage.Duration, v.outage.count, v.outage.latest),
		}, true, true, taskInfo(v.job, meta, pluginscore.PhaseRetryableFailure)), nil
	case v.job == nil && v.outage.count > 0:
		// After a restart of propeller: the job was last seen in the phase that is recorded.
		phase := pluginscore.PhaseQueued
		if ok {
			phase = unchanged(h.env).Phase()
		}
		return ongoing(phase, outageMessage(v.outage), taskInfo(nil, meta, phase)), nil
	case v.job == nil:
		return pluginscore.PhaseInfoQueuedWithTaskInfo(pluginscore.DefaultPhaseVersion, "the job is created", taskInfo(nil, meta, pluginscore.PhaseQueued)), nil
	}
	return p.jobStatus(ctx, sCtx, meta, v)
}

func outageMessage(o outage) string {
	return fmt.Sprintf("cannot be polled since %s: %s", o.since.UTC().Format(time.RFC3339), o.latest.Error())
}

func (p plugin) jobStatus(ctx context.Context, sCtx webapi.StatusContext, meta resourceMeta, v view) (pluginscore.PhaseInfo, error) {
	job, message := v.job, v.job.Message
	if v.outage.count > 0 {
		message = strings.TrimPrefix(message+"; "+outageMessage(v.outage), "; ")
	}
	if phase, ok := ongoingPhases[job.Phase]; ok {
		return ongoing(phase, message, taskInfo(job, meta, phase)), nil
	}
	switch job.Phase {
	case core.TaskExecution_SUCCEEDED:
		info := taskInfo(job, meta, pluginscore.PhaseSuccess)
		problem, err := writeOutputs(ctx, sCtx, meta, job)
		if err != nil {
			return pluginscore.PhaseInfoUndefined, err
		}
		if problem != nil {
			return failed(problem, problem.GetCode() == CodeOutputsMissing, false, info), nil
		}
		addReason(info, message)
		return pluginscore.PhaseInfoSuccess(info), nil
	case core.TaskExecution_FAILED, core.TaskExecution_RETRYABLE_FAILED, core.TaskExecution_ABORTED:
		return jobFailure(ctx, sCtx, meta, job)
	default:
		// poll lets no other phase in; a synchronous call has to be checked here.
		return pluginscore.PhaseInfoUndefined, contractError("get", meta.deployment, fmt.Sprintf("the job's phase is %s", job.Phase))
	}
}

// ongoingPhases are propeller's names of the phases of a job that has not ended.
var ongoingPhases = map[core.TaskExecution_Phase]pluginscore.Phase{
	core.TaskExecution_QUEUED:                pluginscore.PhaseQueued,
	core.TaskExecution_WAITING_FOR_RESOURCES: pluginscore.PhaseWaitingForResources,
	core.TaskExecution_INITIALIZING:          pluginscore.PhaseInitializing,
	core.TaskExecution_RUNNING:               pluginscore.PhaseRunning,
}

// ongoing is the phase of a task that has not ended; any phase that is none of a job's is queued. The report gives the version.
func ongoing(phase pluginscore.Phase, message string, info *pluginscore.TaskInfo) pluginscore.PhaseInfo {
	switch phase {
	case pluginscore.PhaseRunning:
		addReason(info, message)
		return pluginscore.PhaseInfoRunning(0, info)
	case pluginscore.PhaseInitializing:
		return pluginscore.PhaseInfoInitializing(0, message, info)
	case pluginscore.PhaseWaitingForResources:
		return pluginscore.PhaseInfoWaitingForResourcesInfo(0, message, info)
	default:
		return pluginscore.PhaseInfoQueuedWithTaskInfo(0, message, info)
	}
}

// addReason shows a message in a phase whose PhaseInfo takes none.
func addReason(info *pluginscore.TaskInfo, message string) {
	if message != "" {
		now := time.Now()
		info.AdditionalReasons = append(info.AdditionalReasons, pluginscore.ReasonInfo{Reason: message, OccurredAt: &now})
	}
}

// jobFailure keeps what is known of a failure: the service's code, kind and origin, or the error file that the job wrote
// at its output prefix, which has a time and a worker too.
func jobFailure(ctx context.Context, sCtx webapi.StatusContext, meta resourceMeta, job *client.Job) (pluginscore.PhaseInfo, error) {
	e := &core.ExecutionError{
		Code: CodeFailed, Message: job.Message, Kind: core.ExecutionError_USER,
		Timestamp: timestamppb.Now(), Worker: "backend/" + meta.deployment,
	}
	retry := job.Phase == core.TaskExecution_RETRYABLE_FAILED
	if job.Phase == core.TaskExecution_ABORTED {
		e.Code = CodeAborted
		e.Message = strings.TrimSuffix("the job was aborted outside Flyte: "+job.Message, ": ")
	}
	if f := job.Failure; f != nil {
		if f.Code != "" {
			e.Code = f.Code
		}
		if f.Origin != core.ExecutionError_UNKNOWN {
			e.Kind = f.Origin
		}
		retry = retry || f.Recoverable
	} else if written, recoverable, err := readErrorFile(ctx, sCtx); errors.Is(err, ioutils.ErrRemoteFileExceedsMaxSize) {
		e.Message = strings.TrimPrefix(fmt.Sprintf("%s; the error that the job wrote is not shown: %v", e.GetMessage(), err), "; ")
	} else if err != nil {
		return pluginscore.PhaseInfoUndefined, err
	} else if written != nil {
		if written.GetTimestamp() == nil {
			written.Timestamp = e.GetTimestamp()
		}
		if written.GetWorker() == "" {
			written.Worker = e.GetWorker()
		}
		e, retry = written, retry || recoverable
	}
	if e.GetMessage() == "" {
		e.Message = fmt.Sprintf("the job at backend deployment %q ended in phase %s; its service gave no message", meta.deployment, job.Phase)
	}
	phase := pluginscore.PhasePermanentFailure
	if retry {
		phase = pluginscore.PhaseRetryableFailure
	}
	return failed(e, retry, false, taskInfo(job, meta, phase)), nil
}

// polledToDeath is a poll whose answer will never be better. Another attempt may go well, except for a message that is
// too large: the next would be as large.
func polledToDeath(e *client.Error, meta resourceMeta, job *client.Job) pluginscore.PhaseInfo {
	return failed(&core.ExecutionError{
		Code: codePrefix + e.Code.String(), Kind: core.ExecutionError_SYSTEM, Message: e.Error(),
	}, !e.TooLarge, true, taskInfo(job, meta, pluginscore.PhaseRetryableFailure))
}

// failed makes a failure. cleanup has propeller abort the task all the same, so that the job is deleted.
func failed(e *core.ExecutionError, retry, cleanup bool, info *pluginscore.TaskInfo) pluginscore.PhaseInfo {
	e = boundedError(e)
	if !cleanup {
		phase := pluginscore.PhasePermanentFailure
		if retry {
			phase = pluginscore.PhaseRetryableFailure
		}
		return pluginscore.PhaseInfoFailed(phase, e, info)
	}
	switch {
	case retry:
		return pluginscore.PhaseInfoSystemRetryableFailureWithCleanup(e.GetCode(), e.GetMessage(), info)
	default:
		return pluginscore.PhaseInfoSystemFailureWithCleanup(e.GetCode(), e.GetMessage(), info)
	}
}

func taskInfo(job *client.Job, meta resourceMeta, phase pluginscore.Phase) *pluginscore.TaskInfo {
	info := &pluginscore.TaskInfo{}
	external := &pluginscore.ExternalResource{ExternalID: showID(meta.id), Phase: phase}
	if job != nil {
		info.Logs, info.CustomInfo = cloneLinks(job.LogLinks), job.CustomInfo
		external.Logs = cloneLinks(job.LogLinks)
	}
	if external.ExternalID != "" {
		info.ExternalResources = []*pluginscore.ExternalResource{external}
	}
	return info
}

// cloneLinks copies links: the job stays in the cache, and propeller puts the index of a map's item behind their names.
func cloneLinks(links []*core.TaskLog) []*core.TaskLog {
	if links == nil {
		return nil
	}
	out := make([]*core.TaskLog, len(links))
	for i, link := range links {
		out[i] = proto.CloneOf(link)
	}
	return out
}

// maxShownID bounds the job id in events.
const maxShownID = 256

// showID gives what the UI shows of a job id. Services that put a whole structure into it, flytekit's connectors among
// them, also put credentials there, so only a plain name is shown; of anything else a hash, which still tells two jobs
// apart.
func showID(id client.JobID) string {
	if len(id) == 0 {
		return ""
	}
	plain := len(id) <= maxShownID && utf8.Valid(id)
	for _, r := range string(id) {
		if !plain || !unicode.IsPrint(r) || strings.ContainsRune("{}[]\"=", r) {
			sum := sha256.Sum256(id)
			return "sha256:" + hex.EncodeToString(sum[:8])
		}
	}
	return string(id)
}
