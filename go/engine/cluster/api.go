package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// api is controller-runtime's fake client, and tells of each write.
type api struct {
	client.Client
	informers *informers
	kubelet   *kubelet

	// writes one after the other, so that what is told is in the order in which it happened.
	writes sync.Mutex
}

func (a *api) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	if obj.GetUID() == "" {
		obj.SetUID(uuid.NewUUID())
	}
	if created := obj.GetCreationTimestamp(); created.IsZero() {
		obj.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
	pod, isPod := obj.(*v1.Pod)
	if !isPod || a.kubelet == nil {
		return a.write(ctx, obj, func() error { return a.Client.Create(ctx, obj, opts...) })
	}
	if err := a.kubelet.admit(pod); err != nil {
		return err
	}
	if err := a.write(ctx, obj, func() error { return a.Client.Create(ctx, obj, opts...) }); err != nil {
		a.kubelet.forget(pod.UID)
		return err
	}
	a.kubelet.created(ctx, pod.UID)
	return nil
}

func (a *api) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	return a.write(ctx, obj, func() error { return a.Client.Delete(ctx, obj, opts...) })
}

func (a *api) Update(ctx context.Context, obj client.Object, opts ...client.UpdateOption) error {
	return a.write(ctx, obj, func() error { return a.Client.Update(ctx, obj, opts...) })
}

func (a *api) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	return a.write(ctx, obj, func() error { return a.Client.Patch(ctx, obj, patch, opts...) })
}

// Propeller and its plugins do neither of these, and what they change could not be told of.

func (a *api) DeleteAllOf(context.Context, client.Object, ...client.DeleteAllOfOption) error {
	return apierrors.NewMethodNotSupported(v1.Resource("objects"), "deletecollection")
}

func (a *api) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	return apierrors.NewMethodNotSupported(v1.Resource("objects"), "apply")
}

func (a *api) Status() client.SubResourceWriter {
	return subResource{a.Client.SubResource("status"), a}
}

func (a *api) SubResource(name string) client.SubResourceClient {
	return subResource{a.Client.SubResource(name), a}
}

type subResource struct {
	client.SubResourceClient
	a *api
}

func (s subResource) Update(ctx context.Context, obj client.Object, opts ...client.SubResourceUpdateOption) error {
	return s.a.write(ctx, obj, func() error { return s.SubResourceClient.Update(ctx, obj, opts...) })
}

func (s subResource) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
	return s.a.write(ctx, obj, func() error { return s.SubResourceClient.Patch(ctx, obj, patch, opts...) })
}

// write does op and tells what has become of the object.
func (a *api) write(ctx context.Context, obj client.Object, op func() error) error {
	gvk, err := apiutil.GVKForObject(obj, a.Scheme())
	if err != nil {
		return err
	}
	a.writes.Lock()
	defer a.writes.Unlock()
	old, err := a.current(ctx, obj)
	if err != nil {
		return err
	}
	if err := op(); err != nil {
		return err
	}
	now, err := a.current(ctx, obj)
	if err != nil {
		return err
	}
	a.informers.tell(change{gvk: gvk, old: old, now: now})
	if old != nil && a.kubelet != nil && (now == nil || now.GetUID() != old.GetUID() || now.GetDeletionTimestamp() != nil) {
		a.kubelet.deleted(old.GetUID())
	}
	return nil
}

// current gives a copy of the object as it is kept; nil means that there is none.
func (a *api) current(ctx context.Context, obj client.Object) (client.Object, error) {
	kept, ok := obj.DeepCopyObject().(client.Object)
	if !ok {
		return nil, fmt.Errorf("a copy of %T is no object", obj)
	}
	switch err := a.Client.Get(ctx, client.ObjectKeyFromObject(obj), kept); {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // no object, as documented
	case err != nil:
		return nil, err
	}
	return kept, nil
}

// setStatus changes the status of the pod with this UID; there is nothing to do when it is gone.
func (a *api) setStatus(ctx context.Context, key types.NamespacedName, uid types.UID, change func(*v1.PodStatus)) error {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	err := a.write(ctx, pod, func() error {
		if err := a.Client.Get(ctx, key, pod); err != nil {
			return err
		}
		if pod.UID != uid {
			return apierrors.NewNotFound(v1.Resource("pods"), key.Name)
		}
		change(&pod.Status)
		return a.Client.Status().Update(ctx, pod)
	})
	return client.IgnoreNotFound(err)
}
