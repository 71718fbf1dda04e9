package policy

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/policy/onnx"
	"github.com/kvgym/kvgym/vecenv"
)

// networkPrefix before a file's path names the policy that the file holds.
const networkPrefix = "onnx:"

// NetworkName is how a trained network is named; New reads the file.
const NetworkName = networkPrefix + "FILE"

// NetworkAbout is its one-line description.
const NetworkAbout = "the likeliest operations of the trained network in FILE, as examples/ppo.py writes it"

// network plays what a trained network holds for best: for every slot the possible operation with the greatest logit, the
// lowest-numbered of equal ones.
type network struct {
	name  string
	model *onnx.Model
	graph *onnx.Graph // for the number of slots last seen
	slots int
	mask  []uint8
}

// newNetwork reads the file that a name tells.
func newNetwork(name string) (*network, error) {
	path := strings.TrimPrefix(name, networkPrefix)
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %s%w", networkPrefix, err)
	}
	m, err := onnx.Read(data)
	if err != nil {
		return nil, fmt.Errorf("policy: %s: %w", name, err)
	}
	return &network{name: name, model: m}, nil
}

// maxNetworkFile bounds what is read.
const maxNetworkFile = 64 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, unwrapped(err))
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: allowed a regular file", path)
	case info.Size() > maxNetworkFile:
		return nil, fmt.Errorf("%s: %d bytes: allowed at most %d", path, info.Size(), maxNetworkFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, unwrapped(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxNetworkFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, unwrapped(err))
	}
	return data, nil
}

// unwrapped is the cause of a file's error, without the operation and the path that we name ourselves.
func unwrapped(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

func (n *network) Name() string { return n.name }

// fit makes the graph for a number of slots.
func (n *network) fit(slots int) error {
	if n.slots == slots {
		return nil
	}
	g, err := n.model.Compile(vecenv.ObsLen(slots), slots, kv.NumOps)
	if err != nil {
		return fmt.Errorf("policy: %s: %d slots: %w", n.name, slots, err)
	}
	n.graph, n.slots, n.mask = g, slots, g.Mask
	if n.mask == nil { // a network that does not ask for it
		n.mask = make([]uint8, slots*kv.NumOps)
	}
	return nil
}

// Act panics if the network does not fit the number of slots; NewFor tells beforehand.
func (n *network) Act(v vecenv.View, a *Actions) {
	if err := n.fit(v.Slots()); err != nil {
		panic(err.Error())
	}
	v.Observe(n.graph.Obs)
	v.ObserveMask(n.mask)
	n.graph.Run()
	for slot := range n.slots {
		if op := n.choose(slot); op != kv.Keep {
			a.add(op, slot)
		}
	}
}

func (n *network) choose(slot int) kv.Op {
	possible := n.mask[slot*kv.NumOps:][:kv.NumOps]
	if n.graph.Logits == nil {
		op := n.graph.Ops[slot]
		if op < 0 || op >= kv.NumOps || possible[op] == 0 {
			return kv.Keep
		}
		return kv.Op(op)
	}
	logits := n.graph.Logits[slot*kv.NumOps:][:kv.NumOps]
	best := kv.Keep
	for op := kv.Keep + 1; op < kv.NumOps; op++ {
		if possible[op] != 0 && logits[op] > logits[best] {
			best = op
		}
	}
	return best
}

// NewFor is New for environments of that many slots: it refuses a network that does not fit them.
func NewFor(name string, slots int) (Policy, error) {
	p, err := New(name)
	if n, ok := p.(*network); ok {
		if err := n.fit(slots); err != nil {
			return nil, err
		}
	}
	return p, err
}

// Fingerprint is the SHA-256 of the file that a policy was made from; empty for built-in ones.
func Fingerprint(p Policy) string {
	if n, ok := p.(*network); ok {
		return n.model.SHA256()
	}
	return ""
}
