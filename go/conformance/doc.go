// Package conformance checks a backend plugin service, in any language and over either protocol, against the contract
// (docs/contract.md): it repeats calls, breaks them off, sends garbage, kills connections, and says in plain words what is wrong.
//
//	func TestConformance(t *testing.T) {
//		conformance.Run(t, conformance.Options{Endpoint: "127.0.0.1:8000", Insecure: true, Template: template, Inputs: inputs})
//	}
//
// [Run] makes each case a subtest; [Check] does the same without package testing, for command lines. [Cases] lists what is
// looked at. A case that cannot be tried, because the service lacks an optional ability or the options lack what it needs, is
// skipped and says so.
//
// The suite starts real jobs and deletes them again, also when it is interrupted; [Report] names those that it could not
// delete. It sends the service what a good client never would, and it is not for a service that others are using.
package conformance

//go:generate go run ./internal/gendocs ../../docs/conformance.md
