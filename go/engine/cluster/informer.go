package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// change is one write: old is nil for a created object, now for one that is gone.
type change struct {
	gvk      schema.GroupVersionKind
	old, now client.Object
}

// informers passes changes on, from one goroutine and in order, so that neither a handler that is slow nor one that writes
// holds up the writer. The goroutine is there while there is something to pass on.
type informers struct {
	mu       sync.Mutex
	handlers map[schema.GroupVersionKind][]*registration
	queue    []change
	passing  bool
	closed   bool
	passes   sync.WaitGroup
}

type registration struct {
	handler toolscache.ResourceEventHandler
}

// HasSynced is true at once: a handler hears of what happens from now on. Propeller's ignore what has been there before.
func (*registration) HasSynced() bool { return true }

func newInformers() *informers {
	return &informers{handlers: map[schema.GroupVersionKind][]*registration{}}
}

func (i *informers) tell(c change) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || len(i.handlers[c.gvk]) == 0 {
		return
	}
	i.queue = append(i.queue, c)
	if !i.passing {
		i.passing = true
		i.passes.Go(i.pass)
	}
}

func (i *informers) pass() {
	for {
		c, handlers := i.next()
		if handlers == nil {
			return
		}
		for _, r := range handlers {
			switch {
			case c.old == nil && c.now != nil:
				r.handler.OnAdd(c.now, false)
			case c.old != nil && c.now != nil:
				r.handler.OnUpdate(c.old, c.now)
			case c.old != nil:
				r.handler.OnDelete(c.old)
			}
		}
	}
}

// next gives the next change and who is to hear of it; nobody when there is no change left.
func (i *informers) next() (change, []*registration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for !i.closed && len(i.queue) > 0 {
		c := i.queue[0]
		i.queue = i.queue[1:]
		if handlers := slices.Clone(i.handlers[c.gvk]); len(handlers) > 0 {
			return c, handlers
		}
	}
	i.queue, i.passing = nil, false
	return change{}, nil
}

// close waits for the handler that is at work.
func (i *informers) close() {
	i.mu.Lock()
	i.closed = true
	i.mu.Unlock()
	i.passes.Wait()
}

// informer is the informer of one kind.
type informer struct {
	all *informers
	gvk schema.GroupVersionKind
}

func (i informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	r := &registration{handler: h}
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	i.all.handlers[i.gvk] = append(i.all.handlers[i.gvk], r)
	return r, nil
}

func (i informer) AddEventHandlerWithResyncPeriod(h toolscache.ResourceEventHandler, _ time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}

func (i informer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, _ toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}

func (i informer) RemoveEventHandler(handle toolscache.ResourceEventHandlerRegistration) error {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	i.all.handlers[i.gvk] = slices.DeleteFunc(i.all.handlers[i.gvk], func(r *registration) bool {
		return toolscache.ResourceEventHandlerRegistration(r) == handle
	})
	return nil
}

func (informer) AddIndexers(toolscache.Indexers) error {
	return errors.New("there is no index here")
}
func (informer) HasSynced() bool { return true }

func (i informer) IsStopped() bool {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	return i.all.closed
}

// kubeCache reads what the client wrote, without delay.
type kubeCache struct {
	*api
}

func (k kubeCache) GetInformer(_ context.Context, obj client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	gvk, err := apiutil.GVKForObject(obj, k.Scheme())
	if err != nil {
		return nil, err
	}
	return informer{k.informers, gvk}, nil
}

func (k kubeCache) GetInformerForKind(_ context.Context, gvk schema.GroupVersionKind, _ ...cache.InformerGetOption) (cache.Informer, error) {
	return informer{k.informers, gvk}, nil
}
func (kubeCache) RemoveInformer(context.Context, client.Object) error { return nil }

// Start has nothing to start, and blocks until ctx ends, as a cache's does.
func (kubeCache) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
func (kubeCache) WaitForCacheSync(context.Context) bool { return true }
func (kubeCache) IndexField(context.Context, client.Object, string, client.IndexerFunc) error {
	return nil
}
