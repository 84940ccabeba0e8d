package conformance

import (
	"slices"
	"strings"
)

// Case is one thing that is looked at.
type Case struct {
	// ID is stable: area, slash, name.
	ID    string
	Level Level
	// Purpose says in a sentence what is looked at.
	Purpose string
	// Contract is the anchor of the paragraph in docs/contract.md that says so.
	Contract string
	// Protocols are those that the case is about.
	Protocols []Protocol

	scope scope
	run   func(*probe)
}

// Area is what stands before the slash of the id.
func (c *Case) Area() string {
	area, _, _ := strings.Cut(c.ID, "/")
	return area
}

// scope is how often a case runs.
type scope int

const (
	once  scope = iota // for the service
	any1               // once, with the first asynchronous plugin
	async              // with every asynchronous plugin
	sync1              // with every synchronous plugin
)

var (
	both     = []Protocol{GRPC, REST}
	onlyGRPC = []Protocol{GRPC}
	onlyREST = []Protocol{REST}
)

// The paragraphs of docs/contract.md that cases cite.
const (
	secListing  = "saying-what-it-serves"
	secCreate   = "createtask"
	secGet      = "gettask"
	secDelete   = "deletetask"
	secExecute  = "executetasksync"
	secErrors   = "errors"
	secForm     = "the-form-of-an-error"
	secIDs      = "job-ids"
	secVersions = "plugin-versions"
	secBad      = "bad-requests"
	secBroken   = "calls-that-break-off"
	secMany     = "many-calls-at-once"
	secStay     = "restarts-and-replicas"
	secOptional = "optional-abilities"
	secREST     = "rest"
	secTime     = "time"
)

// suite has the cases in the order in which they run. What is seen of errors is judged last.
var suite = slices.Concat(metadataCases, createCases, pollCases, deleteCases, idCases, versionCases, executeCases, batchCases,
	watchCases, extraCases, loadCases, breakCases, grpcCases, restCases, sizeCases, replicaCases, restartCases, errorCases)

// Cases lists all cases in the order in which they run.
func Cases() []Case { return slices.Clone(suite) }
