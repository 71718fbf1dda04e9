package report

import (
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
)

// What the serving profile adds to the documents of an episode; docs/simulator.md, section 13. A document of the seed profile
// has nil pointers here, and none of these names.

// Session is the part of a request that has further turns, or could have.
type Session struct {
	Ref   uint32 `json:"ref"`            // names the present turn, 0 none
	Turns []Turn `json:"turns,omitzero"` // those that follow; left out where the request waits
}

// Turn is one further turn of a session.
type Turn struct {
	Pause        uint16 `json:"pause"` // steps after the end of the turn before
	PromptTokens uint32 `json:"prompt_tokens"`
	OutputTokens uint16 `json:"output_tokens"`
}

// Ticket is what the profile knows of a waiting request.
type Ticket struct {
	Born  int  `json:"born"`
	First bool `json:"first"`
	Late  bool `json:"late"`
	Again bool `json:"again"`
}

// ServingSlot is what the profile knows of a live sequence.
type ServingSlot struct {
	WorkUS uint32 `json:"work_us"`
	Moving bool   `json:"moving"` // to or from CPU memory
	Back   bool   `json:"back"`   // of that, from it
	MoveQP uint32 `json:"move_qp"`
	Wanted bool   `json:"wanted"`
	First  bool   `json:"first"`
	Late   bool   `json:"late"`
	Born   int    `json:"born"`
	Admit  int    `json:"admit"`
	Ref    uint32 `json:"ref"`
	Wake   *int   `json:"wake,omitempty"` // of an idle sequence
}

// ServingState is what the profile counts, and what it holds of shared prefixes and CPU memory.
type ServingState struct {
	Goodput     uint64   `json:"goodput"`
	WasteUS     uint64   `json:"waste_us"`
	FirstWaits  uint32   `json:"first_waits"`
	Late        uint32   `json:"late"`
	Forced      uint32   `json:"forced"`
	FirstTokens uint32   `json:"first_tokens"`
	PrefixQP    []uint32 `json:"prefix_multipliers"` // quarter pages a page of prefix p is entry p-1
	HostFreeQP  uint64   `json:"host_free_qp"`       // CPU memory left for swapped sequences
}

// presetOf copies an environment's preset.
func presetOf(v vecenv.View) *kv.Preset {
	p := v.Preset()
	if p == nil {
		return nil
	}
	out := *p
	return &out
}

// drawn is a request as it was drawn, with all that its session goes on with.
func drawn(v vecenv.View, e *scenario.Episode, q *scenario.Sequence) Request {
	out := request(v, q)
	if out.Session != nil {
		out.Turns = turns(v.Source(), e, q.Ref)
	}
	return out
}

// turns follows a session to its end.
func turns(src scenario.Source, e *scenario.Episode, ref uint32) []Turn {
	out := []Turn{}
	for {
		t, ok := src.Next(e, ref)
		if !ok {
			return out
		}
		out = append(out, Turn{t.PauseSteps, t.PromptTokens, t.OutputTokens})
		ref = t.Ref
	}
}

func session(v vecenv.View, q *scenario.Sequence) *Session {
	if v.Profile() != vecenv.Serving {
		return nil
	}
	return &Session{Ref: q.Ref}
}

func ticket(v vecenv.View, i int) *Ticket {
	if v.Profile() != vecenv.Serving {
		return nil
	}
	t := v.Ticket(i)
	return &Ticket{t.Born, t.First, t.Late, t.Again}
}

func servingSlot(v vecenv.View, q *vecenv.SlotState) *ServingSlot {
	if v.Profile() != vecenv.Serving {
		return nil
	}
	x := v.ServingSlot(q.Slot)
	s := &ServingSlot{q.WorkUS, q.Moving, q.Back, x.MoveQP, q.Wanted, q.First, x.Late, x.Born, x.Admit, x.TurnRef, nil}
	if q.Phase == kv.Idle && q.Type != kv.System {
		wake := x.Wake
		s.Wake = &wake
	}
	return s
}

func servingState(v vecenv.View) *ServingState {
	if v.Profile() != vecenv.Serving {
		return nil
	}
	c, t := v.Counters(), v.Totals()
	s := &ServingState{Goodput: t.Serving.Goodput, WasteUS: t.Serving.WasteUS, FirstWaits: t.Serving.FirstWaits, Late: c.Late, Forced: c.Forced,
		FirstTokens: c.FirstTokens, PrefixQP: []uint32{}, HostFreeQP: v.HostFreeQP()}
	for p := 1; p <= int(v.Episode().NumPrefixes); p++ {
		s.PrefixQP = append(s.PrefixQP, v.PrefixMultiplier(p))
	}
	return s
}
