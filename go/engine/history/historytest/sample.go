package historytest

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/flyte-backend/flyte-backend/go/engine/history"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/event"
)

// SampleEnd is how long the sample runs.
const SampleEnd = 92 * time.Second

// Sample is a run that has one of everything: a chain, a map of 20 with failures, a sub-workflow whose training is tried
// again, a child execution with a cache hit, a gate, a branch, and a task that fails at the end.
func Sample(start time.Time) ([]history.Description, []history.Event) {
	r := NewRun("f7qkd2mzr9", start)
	child := NewRun("f7qkd2mzr9-n3", start)
	s := sample{r: r, child: child}
	s.workflow()
	return []history.Description{
		{ID: r.ID, Workflow: SampleWorkflow(), LaunchPlan: id("churn.weekly"), Inputs: Values("region", String("europe"), "week", Int(47))},
		{ID: child.ID, Parent: r.ID, Workflow: sampleChild(), LaunchPlan: id("scoring.nightly")},
	}, Sorted(r, child)
}

// SampleUntil is the sample's model after some time.
func SampleUntil(start time.Time, until time.Duration) *history.Model {
	m := history.New()
	descriptions, events := Sample(start)
	for _, d := range descriptions {
		m.Describe(d)
	}
	for _, e := range events {
		if e.At.Sub(start) <= until {
			m.Add(e)
		}
	}
	return m
}

type sample struct{ r, child *Run }

const (
	queued    = core.NodeExecution_QUEUED
	running   = core.NodeExecution_RUNNING
	succeeded = core.NodeExecution_SUCCEEDED
	failed    = core.NodeExecution_FAILED
)

func sec(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (s *sample) workflow() {
	r := s.r
	r.Workflow(0, core.WorkflowExecution_RUNNING)
	r.Node(0, "start-node", succeeded)

	r.Node(sec(0.1), "n0", queued, Inputs(Values("region", String("europe"), "week", Int(47))))
	bq := Link("BigQuery Console", "https://console.cloud.google.com/bigquery?project=acme&j=bq:EU:job_9fX2")
	r.Task(sec(0.2), "n0", 0, core.TaskExecution_QUEUED, "")
	r.Node(sec(0.3), "n0", running)
	r.Task(sec(0.9), "n0", 0, core.TaskExecution_RUNNING, "Query submitted", bq, Job("acme:EU.job_9fX2"))
	r.Task(sec(4), "n0", 0, core.TaskExecution_RUNNING, "Stage 2 of 5: 1.2 GiB read", bq, Job("acme:EU.job_9fX2"), Version(1))
	r.Task(sec(8), "n0", 0, core.TaskExecution_RUNNING, "Stage 4 of 5: 2.9 GiB read", bq, Job("acme:EU.job_9fX2"), Version(2),
		Custom(map[string]any{"bytesProcessed": 3113851289.0, "slotMillis": 48210.0, "cacheHit": false}))
	r.Task(sec(11.4), "n0", 0, core.TaskExecution_SUCCEEDED, "3,418,220 rows", bq, Job("acme:EU.job_9fX2"))
	r.Node(sec(11.5), "n0", succeeded, Outputs(Values("results", Dataset("bq://acme:churn.extract_2026_47"))))

	s.theMap()
	s.training()
	s.launch()

	r.Node(sec(61.2), "n4", queued)
	r.Node(sec(61.3), "n4", running)
	r.Node(sec(74), "n4", succeeded)

	r.Node(sec(74.1), "n5", queued)
	r.Node(sec(74.2), "n5", running)
	r.Node(sec(74.3), "n5/n6", queued)
	r.Task(sec(74.5), "n5/n6", 0, core.TaskExecution_RUNNING, "Opening a connection to warehouse-eu", Link("Snowflake Console", "https://app.snowflake.example.com/q/01b2"), Job("01b2-4c1d"))
	r.Node(sec(74.6), "n5/n6", running)
	denied := "SQL access control error: insufficient privileges to operate on table CHURN.SCORES.\nThe role LOADER needs INSERT on it."
	r.Task(sec(91.2), "n5/n6", 0, core.TaskExecution_FAILED, "", TaskError(core.ExecutionError_USER, "PermissionDenied", denied))
	r.Node(sec(91.3), "n5/n6", failed, NodeError(core.ExecutionError_USER, "PermissionDenied", denied))
	r.Node(sec(91.5), "n5", failed, NodeError(core.ExecutionError_USER, "PermissionDenied", denied))
	fail := func(e *event.WorkflowExecutionEvent) {
		e.OutputResult = &event.WorkflowExecutionEvent_Error{Error: &core.ExecutionError{Kind: core.ExecutionError_USER, Code: "PermissionDenied", Message: denied}}
	}
	r.Workflow(sec(91.7), core.WorkflowExecution_FAILING, fail)
	r.Workflow(SampleEnd, core.WorkflowExecution_FAILED, fail)
}

func (s *sample) theMap() {
	r := s.r
	var texts []*core.Literal
	for i := range 20 {
		texts = append(texts, String(fmt.Sprintf("gs://acme-churn/chunks/%02d.parquet", i)))
	}
	isArray := func(e *event.NodeExecutionEvent) { e.IsArray = true }
	r.Node(sec(11.6), "n1", queued, isArray, Inputs(Values("chunk", List(texts...))))
	r.Node(sec(11.7), "n1", running, isArray)
	version := uint32(0)
	phase := func(at float64, items ...func(*event.TaskExecutionEvent)) {
		r.Task(sec(at), "n1", 0, core.TaskExecution_RUNNING, "", append([]func(*event.TaskExecutionEvent){Array, Version(version)}, items...)...)
		version++
	}
	for i := range 20 {
		begin := 12 + 0.4*float64(i)
		phase(begin, Item(i, 0, core.TaskExecution_QUEUED))
		phase(begin+0.5, Item(i, 0, core.TaskExecution_RUNNING))
		length := 9 + float64((i*7)%11)
		switch i {
		case 4, 13: // fails twice
			phase(begin+3, Item(i, 0, core.TaskExecution_FAILED))
			phase(begin+4, Item(i, 1, core.TaskExecution_RUNNING))
			phase(begin+12, Item(i, 1, core.TaskExecution_FAILED))
		case 9: // succeeds when it is tried again
			phase(begin+5, Item(i, 0, core.TaskExecution_FAILED))
			phase(begin+6, Item(i, 1, core.TaskExecution_RUNNING))
			phase(begin+17, Item(i, 1, core.TaskExecution_SUCCEEDED))
		default:
			phase(begin+length, Item(i, 0, core.TaskExecution_SUCCEEDED))
		}
	}
	// Phase versions rise with time, whatever the order in which they were made above.
	var mapEvents []*event.TaskExecutionEvent
	for _, e := range r.Events {
		if e.Task.GetParentNodeExecutionId().GetNodeId() == "n1" {
			mapEvents = append(mapEvents, e.Task)
		}
	}
	slices.SortStableFunc(mapEvents, func(a, b *event.TaskExecutionEvent) int {
		return a.OccurredAt.AsTime().Compare(b.OccurredAt.AsTime())
	})
	for i, e := range mapEvents {
		e.PhaseVersion = uint32(i)
	}
	var done []*core.Literal
	for i := range 20 {
		if i == 4 || i == 13 {
			done = append(done, &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}}}})
			continue
		}
		done = append(done, Dataset(fmt.Sprintf("gs://acme-churn/features/%02d.parquet", i)))
	}
	r.Task(sec(40.2), "n1", 0, core.TaskExecution_SUCCEEDED, "", Array)
	r.Node(sec(40.3), "n1", succeeded, isArray, Outputs(Values("o0", List(done...))))
}

func (s *sample) training() {
	r := s.r
	isParent := func(e *event.NodeExecutionEvent) { e.IsParent = true }
	logs := Link("Databricks run", "https://adb-71.example.net/run/88121")
	r.Node(sec(11.6), "n2", queued, isParent)
	r.Node(sec(11.7), "n2", running, isParent)
	r.Node(sec(11.8), "n2/n0", queued)
	r.Node(sec(11.9), "n2/n0", running)
	r.Task(sec(12), "n2/n0", 0, core.TaskExecution_WAITING_FOR_RESOURCES, "Waiting for a cluster")
	r.Task(sec(16), "n2/n0", 0, core.TaskExecution_INITIALIZING, "Cluster 0412-c7 starts", logs, Job("88121"))
	r.Task(sec(21), "n2/n0", 0, core.TaskExecution_RUNNING, "Epoch 1 of 8", logs, Job("88121"))
	r.Task(sec(29), "n2/n0", 0, core.TaskExecution_FAILED, "", logs, Job("88121"),
		TaskError(core.ExecutionError_SYSTEM, "SpotTerminated", "the cluster lost its spot instance i-0b77"))
	again := Link("Databricks run", "https://adb-71.example.net/run/88144")
	r.Task(sec(30), "n2/n0", 1, core.TaskExecution_INITIALIZING, "Cluster 0413-a1 starts", again, Job("88144"))
	r.Task(sec(33), "n2/n0", 1, core.TaskExecution_RUNNING, "Epoch 1 of 8", again, Job("88144"))
	r.Task(sec(41), "n2/n0", 1, core.TaskExecution_RUNNING, "Epoch 5 of 8, loss 0.214", again, Job("88144"), Version(1))
	r.Task(sec(47), "n2/n0", 1, core.TaskExecution_SUCCEEDED, "Loss 0.187", again, Job("88144"))
	r.Node(sec(47.1), "n2/n0", succeeded, Outputs(Values("model", String("models:/churn/31"), "loss", Float(0.187))))
	r.Node(sec(47.2), "n2/n1", queued)
	r.Task(sec(47.4), "n2/n1", 0, core.TaskExecution_RUNNING, "")
	r.Node(sec(47.5), "n2/n1", running)
	r.Task(sec(52), "n2/n1", 0, core.TaskExecution_SUCCEEDED, "")
	r.Node(sec(52.1), "n2/n1", succeeded, Outputs(Values("auc", Float(0.913))), func(e *event.NodeExecutionEvent) { e.DeckUri = "gs://acme-flyte/f7qkd2mzr9/n2/deck.html" })
	r.Node(sec(52.3), "n2", succeeded, isParent, Outputs(Values("model", String("models:/churn/31"), "auc", Float(0.913))))
}

func (s *sample) launch() {
	r, c := s.r, s.child
	r.Node(sec(52.4), "n3", queued)
	r.Node(sec(52.6), "n3", running, Launched(c.ID))
	c.Workflow(sec(52.8), core.WorkflowExecution_RUNNING)
	c.Node(sec(52.8), "start-node", succeeded)
	c.Node(sec(52.9), "n0", queued)
	c.Node(sec(53), "n0", succeeded, Cache(core.CatalogCacheStatus_CACHE_HIT), Outputs(Values("features", Dataset("gs://acme-churn/customers/latest.parquet"))))
	c.Node(sec(53.1), "n1", queued)
	c.Task(sec(53.4), "n1", 0, core.TaskExecution_RUNNING, "Scoring 1.1 M customers", Job("score-5521"), Link("Ray Dashboard", "https://ray.example.com/jobs/score-5521"))
	c.Node(sec(53.5), "n1", running)
	c.Task(sec(60.4), "n1", 0, core.TaskExecution_SUCCEEDED, "")
	c.Node(sec(60.5), "n1", succeeded, Cache(core.CatalogCacheStatus_CACHE_POPULATED), Outputs(Values("scores", Dataset("gs://acme-churn/scores/2026_47.parquet"))))
	c.Workflow(sec(60.7), core.WorkflowExecution_SUCCEEDING)
	c.Workflow(sec(60.8), core.WorkflowExecution_SUCCEEDED, func(e *event.WorkflowExecutionEvent) {
		e.OutputResult = &event.WorkflowExecutionEvent_OutputData{OutputData: Values("scores", Dataset("gs://acme-churn/scores/2026_47.parquet"))}
	})
	r.Node(sec(61), "n3", succeeded, Launched(c.ID), Outputs(Values("scores", Dataset("gs://acme-churn/scores/2026_47.parquet"))))
}

func id(name string) *core.Identifier {
	return &core.Identifier{Project: "flytesnacks", Domain: "development", Name: name, Version: "v12"}
}

func workflowOf(name string, edges map[string][]string, nodes ...*core.Node) *core.CompiledWorkflow {
	down := map[string]*core.ConnectionSet_IdList{}
	for from, to := range edges {
		down[from] = &core.ConnectionSet_IdList{Ids: to}
	}
	i := id(name)
	i.ResourceType = core.ResourceType_WORKFLOW
	return &core.CompiledWorkflow{
		Template:    &core.WorkflowTemplate{Id: i, Nodes: append(nodes, &core.Node{Id: "start-node"}, &core.Node{Id: "end-node"})},
		Connections: &core.ConnectionSet{Downstream: down},
	}
}

func taskNode(nodeID, task string, retries uint32) *core.Node {
	return &core.Node{
		Id: nodeID, Metadata: &core.NodeMetadata{Name: task, Retries: &core.RetryStrategy{Retries: retries}},
		Target: &core.Node_TaskNode{TaskNode: &core.TaskNode{Reference: &core.TaskNode_ReferenceId{ReferenceId: id(task)}}},
	}
}

func task(name, kind string) *core.CompiledTask {
	return &core.CompiledTask{Template: &core.TaskTemplate{Id: id(name), Type: kind}}
}

// SampleWorkflow is the sample's compiled workflow.
func SampleWorkflow() *core.CompiledWorkflowClosure {
	each := taskNode("n1", "churn.features.embed", 1)
	training := workflowOf("churn.training", map[string][]string{"start-node": {"n0"}, "n0": {"n1"}, "n1": {"end-node"}},
		taskNode("n0", "churn.training.fit", 2), taskNode("n1", "churn.training.evaluate", 0))
	return &core.CompiledWorkflowClosure{
		Primary: workflowOf("churn.pipeline", map[string][]string{
			"start-node": {"n0"}, "n0": {"n1", "n2"}, "n1": {"n3"}, "n2": {"n3"}, "n3": {"n4"}, "n4": {"n5"}, "n5": {"n8"}, "n8": {"end-node"},
		},
			taskNode("n0", "churn.extract", 0),
			&core.Node{Id: "n1", Metadata: &core.NodeMetadata{Name: "embed all"}, Target: &core.Node_ArrayNode{ArrayNode: &core.ArrayNode{Node: each, SuccessCriteria: &core.ArrayNode_MinSuccessRatio{MinSuccessRatio: 0.8}}}},
			&core.Node{Id: "n2", Target: &core.Node_WorkflowNode{WorkflowNode: &core.WorkflowNode{Reference: &core.WorkflowNode_SubWorkflowRef{SubWorkflowRef: id("churn.training")}}}},
			&core.Node{Id: "n3", Target: &core.Node_WorkflowNode{WorkflowNode: &core.WorkflowNode{Reference: &core.WorkflowNode_LaunchplanRef{LaunchplanRef: id("scoring.nightly")}}}},
			&core.Node{Id: "n4", Metadata: &core.NodeMetadata{Name: "release"}, Target: &core.Node_GateNode{GateNode: &core.GateNode{Condition: &core.GateNode_Approve{Approve: &core.ApproveCondition{SignalId: "release"}}}}},
			&core.Node{Id: "n5", Metadata: &core.NodeMetadata{Name: "is it better?"}, Target: &core.Node_BranchNode{BranchNode: &core.BranchNode{IfElse: &core.IfElseBlock{
				Case:    &core.IfBlock{ThenNode: taskNode("n6", "churn.publish", 0)},
				Default: &core.IfElseBlock_ElseNode{ElseNode: taskNode("n7", "churn.keep_old", 0)},
			}}}},
			taskNode("n8", "churn.notify", 0),
		),
		SubWorkflows: []*core.CompiledWorkflow{training},
		Tasks: []*core.CompiledTask{
			task("churn.extract", "bigquery_query_job_task"), task("churn.features.embed", "openai-batch"), task("churn.training.fit", "databricks"),
			task("churn.training.evaluate", "python-task"), task("churn.publish", "snowflake"), task("churn.keep_old", "python-task"), task("churn.notify", "slack"),
		},
	}
}

func sampleChild() *core.CompiledWorkflowClosure {
	return &core.CompiledWorkflowClosure{
		Primary: workflowOf("scoring.score", map[string][]string{"start-node": {"n0"}, "n0": {"n1"}, "n1": {"end-node"}},
			taskNode("n0", "scoring.load_customers", 0), taskNode("n1", "scoring.predict", 0)),
		Tasks: []*core.CompiledTask{task("scoring.load_customers", "spark"), task("scoring.predict", "ray")},
	}
}

// SleepGate is a gate that waits for time to pass.
func SleepGate(nodeID string, d time.Duration) *core.Node {
	return &core.Node{Id: nodeID, Target: &core.Node_GateNode{GateNode: &core.GateNode{Condition: &core.GateNode_Sleep{Sleep: &core.SleepCondition{Duration: durationpb.New(d)}}}}}
}

// Large is the model of a workflow with many nodes side by side and a map of many items, half of them done.
func Large(start time.Time, nodes, items int) *history.Model {
	r := NewRun("large", start)
	edges := map[string][]string{}
	var specs []*core.Node
	r.Workflow(0, core.WorkflowExecution_RUNNING)
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		specs = append(specs, taskNode(name, fmt.Sprintf("large.step_%d", i), 0))
		if i >= 25 {
			edges[fmt.Sprintf("n%d", i-25)] = append(edges[fmt.Sprintf("n%d", i-25)], name)
		}
		at := sec(float64(i) / 10)
		r.Node(at, name, queued)
		r.Task(at+sec(0.1), name, 0, core.TaskExecution_RUNNING, "works", Job(name))
		r.Node(at+sec(0.2), name, running)
		if i%2 == 0 {
			r.Task(at+sec(3), name, 0, core.TaskExecution_SUCCEEDED, "")
			r.Node(at+sec(3.1), name, succeeded, Outputs(Values("o0", Int(int64(i)))))
		}
	}
	isArray := func(e *event.NodeExecutionEvent) { e.IsArray = true }
	var in []*core.Literal
	for i := range items {
		in = append(in, Int(int64(i)))
	}
	specs = append(specs, &core.Node{Id: "map", Target: &core.Node_ArrayNode{ArrayNode: &core.ArrayNode{Node: taskNode("map", "large.each", 0)}}})
	r.Node(0, "map", running, isArray, Inputs(Values("x", List(in...))))
	var began, ended []func(*event.TaskExecutionEvent)
	for i := range items {
		began = append(began, Item(i, 0, core.TaskExecution_RUNNING))
		if i%2 == 0 {
			ended = append(ended, Item(i, 0, core.TaskExecution_SUCCEEDED))
		}
	}
	r.Task(sec(1), "map", 0, core.TaskExecution_RUNNING, "", append(began, Array)...)
	r.Task(sec(9), "map", 0, core.TaskExecution_RUNNING, "", append(ended, Array, Version(1))...)
	m := history.New()
	m.Describe(history.Description{ID: r.ID, Workflow: &core.CompiledWorkflowClosure{Primary: workflowOf("large.workflow", edges, specs...)}})
	for _, e := range r.Events {
		m.Add(e)
	}
	return m
}
