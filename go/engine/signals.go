package engine

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/engine/literals"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler/validators"
)

const kindSignal = "signals"

// signals stands for flyteadmin's signal service: gates ask it for the values that they wait for. The real one is a database
// behind gRPC, and propeller learns of a value at its next look; here the workflow is brought up at once.
type signals struct {
	records *records
	wake    func(key string)
	setting *sync.Mutex // of two values that come at once one is refused
}

var _ service.SignalServiceClient = signals{}

func signalKey(id *core.SignalIdentifier) string {
	exec := id.GetExecutionId()
	return exec.GetProject() + "/" + exec.GetDomain() + "/" + exec.GetName() + "/" + id.GetSignalId()
}

func (s signals) find(id *core.SignalIdentifier) (*admin.Signal, error) {
	data, ok := s.records.get(kindSignal, signalKey(id))
	if !ok {
		return nil, status.Errorf(codes.NotFound, "no gate has asked for signal %q yet", id.GetSignalId())
	}
	sig := &admin.Signal{}
	if err := proto.Unmarshal(data, sig); err != nil {
		return nil, status.Errorf(codes.DataLoss, "signal %q cannot be read: %v", id.GetSignalId(), err)
	}
	return sig, nil
}

func (s signals) keep(sig *admin.Signal) error {
	data, err := proto.Marshal(sig)
	if err != nil {
		return err
	}
	return s.records.put(kindSignal, signalKey(sig.GetId()), data)
}

// GetOrCreateSignal gives the signal, which has a value once one was set.
func (s signals) GetOrCreateSignal(_ context.Context, req *admin.SignalGetOrCreateRequest, _ ...grpc.CallOption) (*admin.Signal, error) {
	sig, err := s.find(req.GetId())
	if status.Code(err) != codes.NotFound {
		return sig, err
	}
	sig = &admin.Signal{Id: req.GetId(), Type: req.GetType()}
	return sig, s.keep(sig)
}

// ListSignals lists the signals of an execution.
func (s signals) ListSignals(_ context.Context, req *admin.SignalListRequest, _ ...grpc.CallOption) (*admin.SignalList, error) {
	list := &admin.SignalList{}
	for _, key := range s.records.keys(kindSignal) {
		data, _ := s.records.get(kindSignal, key)
		sig := &admin.Signal{}
		if err := proto.Unmarshal(data, sig); err != nil {
			return nil, status.Errorf(codes.DataLoss, "signal %s cannot be read: %v", key, err)
		}
		if proto.Equal(sig.GetId().GetExecutionId(), req.GetWorkflowExecutionId()) {
			list.Signals = append(list.Signals, sig)
		}
	}
	return list, nil
}

// SetSignal gives a gate the value that it waits for. As in flyteadmin the type has to be right, and a value stays.
func (s signals) SetSignal(_ context.Context, req *admin.SignalSetRequest, _ ...grpc.CallOption) (*admin.SignalSetResponse, error) {
	s.setting.Lock()
	defer s.setting.Unlock()
	sig, err := s.find(req.GetId())
	if err != nil {
		return nil, err
	}
	if !validators.AreTypesCastable(validators.LiteralTypeForLiteral(req.GetValue()), sig.GetType()) {
		return nil, status.Errorf(codes.InvalidArgument, "signal %q takes %s", req.GetId().GetSignalId(), literals.Describe(sig.GetType()))
	}
	switch {
	case sig.GetValue() == nil:
	case proto.Equal(sig.GetValue(), req.GetValue()):
		return &admin.SignalSetResponse{}, nil
	default:
		return nil, status.Errorf(codes.AlreadyExists, "signal %q has a value already", req.GetId().GetSignalId())
	}
	sig.Value = req.GetValue()
	if err := s.keep(sig); err != nil {
		return nil, fmt.Errorf("signal %q: %w", req.GetId().GetSignalId(), err)
	}
	exec := req.GetId().GetExecutionId()
	s.wake(keyOf(namespaceOf(exec.GetProject(), exec.GetDomain()), exec.GetName()))
	return &admin.SignalSetResponse{}, nil
}
