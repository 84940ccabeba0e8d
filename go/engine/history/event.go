package history

import (
	"time"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
)

// Event is one event of propeller's, as flyteadmin would get it. Exactly one of Workflow, Node and Task is set. Nothing
// here changes the message that it points to, and whoever adds an event must not change it afterwards.
type Event struct {
	// At is when the event was handed out. Where an event does not tell when its change occurred, this counts.
	At       time.Time
	Workflow *event.WorkflowExecutionEvent
	Node     *event.NodeExecutionEvent
	Task     *event.TaskExecutionEvent
}
