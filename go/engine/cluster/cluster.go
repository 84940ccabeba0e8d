// Package cluster is the Kubernetes that is not there: a client, a cache and a clientset for FlytePropeller in a process of
// its own. Objects that plugins create are kept in memory, and changes reach the handlers that propeller registers with its
// informers. By itself nothing comes of an object. When the user allows it (Options.Processes), a pod's container runs as a
// local process, and the pod's status tells of it as a kubelet would.
package cluster

import (
	"errors"
	"sync"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/executors"
)

// Options configure a Cluster. The zero value keeps objects and runs nothing.
type Options struct {
	// Processes runs pods as local processes; nil means that pods stay as they were created.
	Processes *Processes
}

// Cluster stands in for one Kubernetes cluster. Its methods, and those of its client, may be called at once.
type Cluster struct {
	api       *api
	informers *informers
	kubelet   *kubelet
	clientset kubernetes.Interface
	closing   sync.Once
}

// ErrClosed is what creating a pod in a closed cluster fails with.
var ErrClosed = errors.New("the cluster is closed")

// New makes a cluster without objects. One with processes must be closed; another one may be left to the garbage collector.
func New(o Options) (*Cluster, error) {
	c := &Cluster{informers: newInformers(), clientset: fake.NewClientset()}
	c.api = &api{Client: clientfake.NewClientBuilder().Build(), informers: c.informers}
	if o.Processes != nil {
		var err error
		if c.kubelet, err = newKubelet(*o.Processes, c.api); err != nil {
			c.informers.close()
			return nil, err
		}
		c.api.kubelet = c.kubelet
	}
	return c, nil
}

// Client is what propeller's executors and plugins take.
func (c *Cluster) Client() executors.Client { return kubeClient{c} }

// Clientset is for the few places in propeller that want client-go's own interface. It knows nothing of Client's objects.
func (c *Cluster) Clientset() kubernetes.Interface { return c.clientset }

// Close kills the processes that run, waits until they are gone, and stops telling of changes. The statuses of their pods
// stay as they are: nothing that goes on from what propeller recorded may take the end of the cluster for the task's own.
func (c *Cluster) Close() {
	c.closing.Do(func() {
		if c.kubelet != nil {
			c.kubelet.close()
		}
		c.informers.close()
	})
}

type kubeClient struct{ c *Cluster }

func (k kubeClient) GetClient() client.Client { return k.c.api }
func (k kubeClient) GetCache() cache.Cache    { return kubeCache{k.c.api} }
