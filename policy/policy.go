package policy

import (
	"fmt"
	"strings"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/vecenv"
)

// Policy decides for one environment at a time.
type Policy interface {
	// Name is the policy's registered name.
	Name() string
	// Act adds this step's operations, in the order in which they are to be applied.
	Act(v vecenv.View, a *Actions)
}

// Actions collects one environment's operations of one step.
type Actions struct {
	pairs []int32 // op, slot, op, slot, ...
}

// Evict, Compress and Swap add one operation on a slot.
func (a *Actions) Evict(slot int)    { a.add(kv.Evict, slot) }
func (a *Actions) Compress(slot int) { a.add(kv.Compress, slot) }
func (a *Actions) Swap(slot int)     { a.add(kv.Swap, slot) }

func (a *Actions) add(op kv.Op, slot int) { a.pairs = append(a.pairs, int32(op), int32(slot)) }

// Clear forgets all operations.
func (a *Actions) Clear() { a.pairs = a.pairs[:0] }

// Len is the number of operations.
func (a *Actions) Len() int { return len(a.pairs) / 2 }

// Pairs are the operations as (op, slot) pairs; valid until the next change.
func (a *Actions) Pairs() []int32 { return a.pairs }

// maker makes a policy for environments of one shape.
type maker func() Policy

// registry lists the policies in the order of the documentation. It is filled in init because search makes others.
var registry []entry

type entry struct {
	name  string
	about string
	make  maker
}

func init() {
	registry = []entry{
		{"noop", "keeps everything", func() Policy { return noop{} }},
		{"random", "one of the possible operations for every slot, uniformly", func() Policy { return &random{} }},
		{"lru", "evicts the least recently used until there is headroom", func() Policy { return &lru{} }},
		{"largest-first", "evicts the largest until there is headroom", func() Policy { return &ranked{name: "largest-first", key: smallness} }},
		{"value-aware", "evicts the least valuable (block type, priority, progress) until there is headroom", func() Policy { return &ranked{name: "value-aware", key: worth} }},
		{"compress-first", "compresses the largest until there is headroom, evicts by value only when that is not enough", func() Policy { return &compressor{name: "compress-first"} }},
		{"compress-int8", "compresses everything to int8 at once", func() Policy { return &constant{name: "compress-int8", level: kv.INT8} }},
		{"compress-all", "compresses everything to int4 at once", func() Policy { return &constant{name: "compress-all", level: kv.INT4} }},
		{"greedy", "batches evictions of dead blocks, then compressions, by pressure, as the seed advises", func() Policy { return &compressor{name: "greedy", dropDead: true} }},
		{"swap-idle", "evicts dead blocks, then swaps out what pauses, until there is room; of use in the serving profile", func() Policy { return &tiered{name: "swap-idle"} }},
		{"tiered", "evicts dead blocks, swaps out what pauses, compresses to int8, each only until there is room", func() Policy { return &tiered{name: "tiered", compress: true} }},
		{"search", "plays the other policies' moves out to the end on forks and takes the best; knows the future, so an upper reference", func() Policy { return newSearch() }},
	}
}

// Names lists every policy.
func Names() []string {
	out := make([]string, len(registry))
	for i, r := range registry {
		out[i] = r.name
	}
	return out
}

// About is a policy's one-line description.
func About(name string) string {
	for _, r := range registry {
		if r.name == name {
			return r.about
		}
	}
	return ""
}

// New makes a policy: a registered one, or a network from a file (NetworkName). The error names what is allowed.
func New(name string) (Policy, error) {
	if strings.HasPrefix(name, networkPrefix) {
		n, err := newNetwork(name)
		if err != nil {
			return nil, err
		}
		return n, nil
	}
	for _, r := range registry {
		if r.name == name {
			return r.make(), nil
		}
	}
	return nil, fmt.Errorf("policy: %.40q: allowed %s, %s", name, strings.Join(Names(), ", "), NetworkName)
}

// Driver steps a batch with a policy.
type Driver struct {
	policy  Policy
	actions Actions
	list    []int32
	perEnv  int
	counts  []int
}

// NewDriver makes a driver for batches of the given number of environments and slots. A policy may give each environment
// up to two operations a slot; more are dropped.
func NewDriver(p Policy, envs, slots int) *Driver {
	return &Driver{policy: p, perEnv: 2 * slots, list: make([]int32, envs*slots*4), counts: make([]int, envs)}
}

// Decide asks the policy for every environment's operations. The result is valid until the next call.
func (d *Driver) Decide(b *vecenv.Batch) vecenv.Actions {
	for i := range b.Envs() {
		d.actions.Clear()
		d.policy.Act(b.View(i), &d.actions)
		row := d.list[i*d.perEnv*2 : (i+1)*d.perEnv*2]
		n := copy(row, d.actions.Pairs())
		if used := 2 * d.counts[i]; n < used {
			clear(row[n:used])
		}
		d.counts[i] = n / 2
	}
	return vecenv.Actions{List: d.list, PerEnv: d.perEnv}
}

// Pairs are the operations that the last Decide gave environment i.
func (d *Driver) Pairs(i int) []int32 { return d.list[i*d.perEnv*2:][:2*d.counts[i]] }
