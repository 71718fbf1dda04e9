// Command libkvgym is the shared library behind the Python package: packages export and toolenv under C names. docs/abi.md is its reference; guard.c has
// the functions that C sees.
package main

// #include "kvgym.h"
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"unsafe"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/toolenv"
	"github.com/kvgym/kvgym/vecenv"
)

func main() {}

// entry is an open environment and the shapes that its callers' pointers are taken to have.
type entry struct {
	env  *export.Env
	desc *export.Description
}

var (
	handles sync.Map // int64 to *entry
	last    struct {
		sync.Mutex
		handle int64
	}
)

var errHandle = fmt.Errorf("handle: not open: allowed one that kvgym_open gave and kvgym_close has not taken back")

func find(handle C.int64_t) (*entry, error) {
	if e, ok := handles.Load(int64(handle)); ok {
		return e.(*entry), nil
	}
	return nil, errHandle
}

// code turns an error into its code and writes the message.
func code(err error, out *C.char, size C.int64_t) C.int32_t {
	if err == nil {
		return C.KVGYM_OK
	}
	tell(err.Error(), out, size)
	var broken *vecenv.PanicError
	switch {
	case errors.Is(err, errHandle), errors.Is(err, vecenv.ErrClosed), errors.Is(err, toolenv.ErrClosed):
		return C.KVGYM_CLOSED
	case errors.Is(err, export.ErrBusy):
		return C.KVGYM_BUSY
	case errors.As(err, &broken):
		return C.KVGYM_BROKEN
	}
	return C.KVGYM_REFUSED
}

// tell writes a message, cut to its room.
func tell(text string, out *C.char, size C.int64_t) {
	if out == nil || size < 1 {
		return
	}
	room := unsafe.Slice((*byte)(unsafe.Pointer(out)), int(size))
	room[copy(room[:len(room)-1], text)] = 0
}

// rescue turns a panic into a code: none may cross into C. Used deferred.
func rescue(result *C.int32_t, out *C.char, size C.int64_t) {
	if r := recover(); r != nil {
		tell(fmt.Sprintf("kvgym: panic: %v: please report it with this stack: %s", r, debug.Stack()), out, size)
		*result = C.KVGYM_INTERNAL
	}
}

// slice is caller memory as a slice, nil for a null pointer.
func slice[To, From any](p *From, n int) []To {
	if p == nil {
		return nil
	}
	return unsafe.Slice((*To)(unsafe.Pointer(p)), n)
}

// tensors are the caller's, of the lengths that a description tells; those that it does not tell of stay out.
func tensors(d *export.Description, t *C.kvgym_tensors) (b vecenv.Buffers) {
	if t == nil {
		return b
	}
	for _, x := range d.Tensors {
		n := 1
		for _, s := range x.Shape {
			n *= s
		}
		switch x.Name {
		case "obs":
			b.Obs, b.ObsBytes = floatsOrBytes(x.DType, t.obs, t.obs_u8, n)
		case "final_obs":
			b.FinalObs, b.FinalObsBytes = floatsOrBytes(x.DType, t.final_obs, t.final_obs_u8, n)
		case "reward":
			b.Reward = slice[float32](t.reward, n)
		case "terminated":
			b.Terminated = slice[uint8](t.terminated, n)
		case "truncated":
			b.Truncated = slice[uint8](t.truncated, n)
		case "mask":
			b.Mask = slice[uint8](t.mask, n)
		case "components":
			b.Components = slice[float32](t.components, n)
		case "metrics":
			b.Metrics = slice[float32](t.metrics, n)
		}
	}
	return b
}

func floatsOrBytes(dtype string, floats *C.float, bytes *C.uint8_t, n int) ([]float32, []uint8) {
	if dtype == "uint8" {
		return nil, slice[uint8](bytes, n)
	}
	return slice[float32](floats, n), nil
}

// actions are the caller's, for so many environments.
func (e *entry) actions(envs int, ops *C.uint8_t, list *C.int32_t, perEnv C.int64_t) (a vecenv.Actions, err error) {
	if list != nil && (perEnv < 0 || perEnv > 1<<20) {
		return a, fmt.Errorf("per_env: %d: allowed 0 to %d", perEnv, 1<<20)
	}
	a.Ops = slice[uint8](ops, envs*e.desc.Slots)
	if list != nil {
		a.List, a.PerEnv = slice[int32](list, envs*int(perEnv)*2), int(perEnv)
	}
	return a, nil
}

// copyOut writes bytes where there is room for them, and always tells how many there are.
func copyOut(data []byte, out unsafe.Pointer, size C.int64_t, needed *C.int64_t) error {
	if needed != nil {
		*needed = C.int64_t(len(data))
	}
	if out == nil {
		return nil
	}
	if int(size) < len(data) {
		return fmt.Errorf("out_size: %d: allowed %d or more", size, len(data))
	}
	copy(unsafe.Slice((*byte)(out), len(data)), data)
	return nil
}

//export goDescribe
func goDescribe(config *C.char, out *C.char, size C.int64_t, needed *C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	d, err := describe(config)
	if err != nil {
		return code(err, errText, errSize)
	}
	text, err := json.Marshal(d)
	if err == nil {
		err = copyOut(append(text, 0), unsafe.Pointer(out), size, needed)
	}
	return code(err, errText, errSize)
}

func describe(config *C.char) (*export.Description, error) {
	s, err := spec(config)
	if err != nil {
		return nil, err
	}
	return export.Describe(&s)
}

func spec(config *C.char) (export.Spec, error) {
	if config == nil {
		return export.Spec{}, errors.New("config: NULL: allowed a JSON object")
	}
	return export.ParseSpec([]byte(C.GoString(config)))
}

//export goOpen
func goOpen(config *C.char, t *C.kvgym_tensors, handle *C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	if handle == nil {
		return code(errors.New("handle: NULL: allowed where to write it"), errText, errSize)
	}
	s, err := spec(config)
	if err != nil {
		return code(err, errText, errSize)
	}
	d, err := export.Describe(&s)
	if err != nil {
		return code(err, errText, errSize)
	}
	env, err := export.Open(&s, tensors(d, t))
	if err != nil {
		return code(err, errText, errSize)
	}
	*handle = C.int64_t(newHandle())
	handles.Store(int64(*handle), &entry{env: env, desc: d})
	return C.KVGYM_OK
}

// newHandle is a number that no handle has had before.
func newHandle() int64 {
	last.Lock()
	defer last.Unlock()
	last.handle++
	return last.handle
}

//export goClose
func goClose(handle C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err == nil {
		if err = e.env.Close(); err == nil {
			handles.Delete(int64(handle))
		}
	}
	return code(err, errText, errSize)
}

//export goSetTensors
func goSetTensors(handle C.int64_t, t *C.kvgym_tensors, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err == nil {
		err = e.env.SetBuffers(tensors(e.desc, t))
	}
	return code(err, errText, errSize)
}

//export goReset
func goReset(handle C.int64_t, mask *C.uint8_t, seeds *C.uint64_t, t *C.kvgym_tensors, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	o := vecenv.ResetOptions{Seeds: slice[uint64](seeds, e.desc.Envs)}
	if m := slice[uint8](mask, e.desc.Envs); m != nil {
		o.Mask = make([]bool, len(m))
		for i, x := range m {
			o.Mask[i] = x != 0
		}
	}
	if t != nil {
		if err := e.env.SetBuffers(tensors(e.desc, t)); err != nil {
			return code(err, errText, errSize)
		}
	}
	return code(e.env.Reset(o), errText, errSize)
}

//export goStep
func goStep(handle C.int64_t, ops *C.uint8_t, list *C.int32_t, perEnv C.int64_t, t *C.kvgym_tensors, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	a, err := e.actions(e.desc.Envs, ops, list, perEnv)
	if err == nil && t != nil {
		err = e.env.SetBuffers(tensors(e.desc, t))
	}
	if err == nil {
		err = e.env.Step(a)
	}
	return code(err, errText, errSize)
}

//export goSend
func goSend(handle, group C.int64_t, ops *C.uint8_t, list *C.int32_t, perEnv C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	if err := e.checkGroup(group); err != nil {
		return code(err, errText, errSize)
	}
	g := e.desc.Groups[group]
	a, err := e.actions(g[1]-g[0], ops, list, perEnv)
	if err == nil {
		err = e.env.Send(int(group), a)
	}
	return code(err, errText, errSize)
}

func (e *entry) checkGroup(group C.int64_t) error {
	if group < 0 || int(group) >= len(e.desc.Groups) {
		return fmt.Errorf("group: %d: allowed 0 to %d", group, len(e.desc.Groups)-1)
	}
	return nil
}

//export goRecv
func goRecv(handle, group C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err == nil {
		if err = e.checkGroup(group); err == nil {
			err = e.env.Recv(int(group))
		}
	}
	return code(err, errText, errSize)
}

//export goDecide
func goDecide(handle C.int64_t, policy *C.char, list *C.int32_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err == nil {
		switch {
		case policy == nil:
			err = errors.New("policy: NULL: allowed a policy's name")
		case list == nil:
			err = errors.New("list: NULL: allowed int32 [envs][2*slots][2]")
		default:
			err = e.env.Decide(C.GoString(policy), slice[int32](list, e.desc.Envs*e.desc.Slots*4))
		}
	}
	return code(err, errText, errSize)
}

//export goIdentities
func goIdentities(handle C.int64_t, seeds *C.uint64_t, envs, episodes *C.uint32_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	n := e.desc.Envs
	s, v, p := slice[uint64](seeds, n), slice[uint32](envs, n), slice[uint32](episodes, n)
	err = e.env.Identities(func(i int, id scenario.Identity) {
		if s != nil {
			s[i] = id.Seed
		}
		if v != nil {
			v[i] = id.Env
		}
		if p != nil {
			p[i] = id.Episode
		}
	})
	return code(err, errText, errSize)
}

//export goSnapshot
func goSnapshot(handle, first, end C.int64_t, out *C.uint8_t, size C.int64_t, needed *C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	data, err := e.env.Snapshot(int(first), int(end))
	if err == nil {
		err = copyOut(data, unsafe.Pointer(out), size, needed)
	}
	return code(err, errText, errSize)
}

//export goRestore
func goRestore(handle C.int64_t, snapshot *C.uint8_t, size, first C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err == nil {
		if snapshot == nil || size < 0 {
			err = fmt.Errorf("snapshot: NULL or %d bytes: allowed what kvgym_snapshot gave", size)
		} else {
			err = e.env.Restore(slice[byte](snapshot, int(size)), int(first))
		}
	}
	return code(err, errText, errSize)
}

//export goFork
func goFork(handle, from, toHandle, to C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := find(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	d, err := find(toHandle)
	if err == nil {
		err = e.env.Fork(int(from), d.env, int(to))
	}
	return code(err, errText, errSize)
}

// The sizes that kvgym.h states.
var (
	_ [11]struct{} = [reward.NumTerms]struct{}{}
	_ [19]struct{} = [vecenv.NumMetrics]struct{}{}
	_ [4]struct{}  = [kv.NumOps]struct{}{}
)
