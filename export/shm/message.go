package shm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

// Bounds of messages: a longer one is refused unread.
const (
	maxHello   = 4096
	maxWelcome = 65536
)

// hello is the one message of a client.
type hello struct {
	Version int    `json:"version"`
	Range   *int   `json:"range,omitempty"`  // which one it wants; absent: a free one
	Layout  string `json:"layout,omitempty"` // the hash that it was made for; absent: any
}

// welcome is the server's answer to a hello, or a notice before it closes the connection: Error is then all that it holds.
type welcome struct {
	Version     int                 `json:"version"`
	Error       string              `json:"error,omitempty"`
	Server      string              `json:"server,omitempty"`
	PID         int                 `json:"pid,omitempty"`
	Range       int                 `json:"range"`
	FirstEnv    int                 `json:"first_env"`
	Layout      string              `json:"layout,omitempty"`
	Segment     *Segment            `json:"segment,omitempty"`
	Description *export.Description `json:"description,omitempty"`
}

// parseHello reads a hello from bytes that may be anything. The version comes first: that of another one may have other fields.
func parseHello(text []byte) (h hello, err error) {
	if len(text) > maxHello {
		return h, fmt.Errorf("hello: more than %d bytes: allowed fewer", maxHello)
	}
	var v struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(text, &v); err != nil || v.Version == nil {
		return h, fmt.Errorf("hello: no JSON object with a version: allowed {\"version\":%d}", Version)
	}
	if *v.Version != Version {
		return h, fmt.Errorf("version: %d: allowed %d: use a client and a server of the same release", *v.Version, Version)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return hello{}, fmt.Errorf("hello: %s: allowed version, range, layout", plain(err.Error()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return hello{}, errors.New("hello: something follows the JSON object: allowed one object")
	}
	return h, nil
}

// plain makes text of a foreign side fit for a log: one short line of printable characters.
func plain(s string) string {
	if len(s) > 120 {
		s = s[:120]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, s)
}

// parseWelcome reads what a server has sent, and checks what a client is going to index with.
func parseWelcome(text []byte) (w welcome, err error) {
	if err := json.Unmarshal(text, &w); err != nil {
		return w, errors.New("welcome: no JSON object: is this a kvgym server?")
	}
	switch {
	case w.Version != Version:
		return w, fmt.Errorf("version: %d: allowed %d: use a client and a server of the same release", w.Version, Version)
	case w.Error != "":
		return w, errors.New(w.Error)
	case w.Segment == nil || w.Description == nil || w.Description.Envs < 1 || w.Description.Slots < 1:
		return w, errors.New("welcome: no segment or description: is this a kvgym server?")
	}
	if err := w.Segment.check(w.Description); err != nil {
		return w, err
	}
	return w, nil
}

// check tells whether a segment is what its description asks for.
func (s *Segment) check(d *export.Description) error {
	if d.Envs > vecenv.MaxEnvs || d.Slots > 256 {
		return fmt.Errorf("welcome: %d environments of %d slots: allowed %d of 256", d.Envs, d.Slots, vecenv.MaxEnvs)
	}
	for _, t := range d.Tensors {
		if err := checkTensor(t, d.Envs); err != nil {
			return err
		}
	}
	want, err := SegmentOf(d, len(s.Blocks))
	if err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	if got, want := fmt.Sprint(*s), fmt.Sprint(want); got != want { // maps are printed in order
		return fmt.Errorf("welcome: segment: %.200s: allowed %.200s", got, want)
	}
	return nil
}

// tensorTypes are the types that a tensor may have.
var tensorTypes = map[string][]string{"obs": {"float32", "uint8"}, "final_obs": {"float32", "uint8"}, "reward": {"float32"}, "terminated": {"uint8"},
	"truncated": {"uint8"}, "mask": {"uint8"}, "components": {"float32"}, "metrics": {"float32"}}

func checkTensor(t export.Tensor, envs int) error {
	if !slices.Contains(tensorTypes[t.Name], t.DType) {
		return fmt.Errorf("welcome: tensor %.40q: %.40q: allowed those of package vecenv", t.Name, t.DType)
	}
	ok := len(t.Shape) >= 1 && len(t.Shape) <= 3 && t.Shape[0] == envs
	for _, n := range t.Shape[min(1, len(t.Shape)):] {
		ok = ok && n >= 1 && n <= 1<<16
	}
	if !ok {
		return fmt.Errorf("welcome: tensor %.40q: %.80s: allowed a row of 1 to 65536 values a side for each of %d environments", t.Name, fmt.Sprint(t.Shape), envs)
	}
	return nil
}
