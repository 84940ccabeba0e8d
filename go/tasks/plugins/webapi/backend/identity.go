package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// identity names a task attempt completely.
type identity struct {
	project, domain, execution, node, generated string
	attempt                                     uint32
}

func identityOf(meta core.TaskExecutionMetadata) identity {
	tid := meta.GetTaskExecutionID()
	id := tid.GetID()
	exec := id.GetNodeExecutionId().GetExecutionId()
	return identity{
		project: exec.GetProject(), domain: exec.GetDomain(), execution: exec.GetName(),
		node: tid.GetUniqueNodeID(), attempt: id.GetRetryAttempt(),
		// ArrayNode's sub-tasks differ in nothing else.
		generated: tid.GetGeneratedName(),
	}
}

// key is the identity's SHA-256 as 64 hexadecimal characters: the machinery's cache key and the idempotency key in one.
// The generated name alone would not do: it holds neither project nor domain, and is a 32-bit hash when it is long.
func (i identity) key() string {
	h := sha256.New()
	for _, part := range []string{i.project, i.domain, i.execution, i.node, strconv.FormatUint(uint64(i.attempt), 10), i.generated} {
		// The length in front keeps two identities apart whose parts only join to the same text.
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (i identity) String() string {
	return fmt.Sprintf("%s/%s/%s/%s/%d", i.project, i.domain, i.execution, i.node, i.attempt)
}

// qualifiedMetadata gives the machinery a generated name that no other task has. It also carries the handling through the
// machinery, which hands a task's metadata on to every call but Get.
type qualifiedMetadata struct {
	core.TaskExecutionMetadata
	name string
	h    *handling
}

func (m qualifiedMetadata) GetTaskExecutionID() core.TaskExecutionID {
	return qualifiedID{m.TaskExecutionMetadata.GetTaskExecutionID(), m.name}
}

type qualifiedID struct {
	core.TaskExecutionID
	name string
}

func (id qualifiedID) GetGeneratedName() string { return id.name }
