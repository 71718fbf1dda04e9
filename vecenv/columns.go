package vecenv

import (
	"reflect"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
)

// block holds 64 slots of one environment: the columns and bit planes that kernels.Block declares, with what they mean here.
type block struct{ kernels.Block }

// head is what an environment holds once.
//
// INVARIANT: PrivateQP, RetainedPrivate, SharedQP, RetainedShared, PendingQP, PrefixMul and PrefixWeight equal what check
// recomputes;
// Arrived = Admitted + Failures + QueueLen.
type head struct {
	Episode scenario.Episode `unit:"what was drawn once"`
	kernels.Ledger
	Ended uint32 `unit:"0 or 1"`
}

// Counters counts the events of an episode.
type Counters = kernels.Counters

// Column describes one column of the state.
type Column struct {
	Name   string `json:"name"`
	Type   string `json:"type"` // Go type, for example [64]uint32
	Unit   string `json:"unit"`
	Offset int    `json:"offset"` // bytes from the start of its block or head
	Bytes  int    `json:"bytes"`
}

// Columns lists the state: the columns of a block of 64 slots, then those of an environment's head.
func Columns() (slots, env []Column) {
	return columnsOf(reflect.TypeFor[block]()), columnsOf(reflect.TypeFor[head]())
}

// ServingColumns lists what the serving profile adds: the columns of 64 slots, of an environment, and of 32 waiting requests.
func ServingColumns() (slots, env, waiting []Column) {
	return columnsOf(reflect.TypeFor[lane]()), columnsOf(reflect.TypeFor[tally]()), columnsOf(reflect.TypeFor[kernels.Tickets]())
}

func columnsOf(t reflect.Type) []Column {
	var out []Column
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			out = append(out, columnsOf(f.Type)...)
			continue
		}
		out = append(out, Column{f.Name, f.Type.String(), f.Tag.Get("unit"), int(f.Offset), int(f.Type.Size())})
	}
	return out
}

// blockType reads the type of slot s out of the three planes.
func (b *block) blockType(s uint) kv.BlockType {
	return kv.BlockType(b.Type0>>(s&63)&1 | b.Type1>>(s&63)&1<<1 | b.Type2>>(s&63)&1<<2)
}

// Type planes of live slots. Types are coded 0 system, 1 context, 2 generation, 3 reasoning, 4 ephemeral.
func (b *block) system() uint64    { return b.Alive &^ (b.Type0 | b.Type1 | b.Type2) }
func (b *block) reasoning() uint64 { return b.Type0 & b.Type1 }

// quant reads the quantisation level of slot s.
func (b *block) quant(s uint) kv.Quant {
	return kv.Quant(b.Int8>>(s&63)&1 | b.Int4>>(s&63)&1<<1)
}
