// Package convert has what the transports share of turning package client's values into flyteidl's.
package convert

import (
	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// Metadata gives flyteidl's form of what propeller knows of a task execution.
func Metadata(m client.Metadata) *admin.TaskExecutionMetadata {
	return &admin.TaskExecutionMetadata{
		TaskExecutionId:               m.TaskExecutionID,
		Namespace:                     m.Namespace,
		Labels:                        m.Labels,
		Annotations:                   m.Annotations,
		K8SServiceAccount:             m.K8sServiceAccount,
		EnvironmentVariables:          m.EnvironmentVariables,
		Identity:                      m.Identity,
		MaxAttempts:                   m.MaxAttempts,
		Interruptible:                 m.Interruptible,
		InterruptibleFailureThreshold: m.InterruptibleFailureThreshold,
		Overrides:                     m.Overrides,
	}
}
