package report

import (
	"encoding/json"
	"fmt"
	"strings"
)

// servingDraws writes what was drawn in the serving profile, and the preset.
func (p *page) servingDraws(s *Scenario) {
	p.printf("\nDifficulty %s, arrivals %s, capacity %d QP, budget %d QP, goodput norm N = %d, requests %d (R of 13.5), throughput norm %d tokens, window step %d, pages of prefixes 1, 2, ...: %v.\n\n",
		s.Difficulty, s.ArrivalLevel, s.CapacityQP, s.BudgetQP, s.GoodNorm, s.RequestNorm, s.TokenNorm, s.WindowStep, s.PrefixPages)
	text, err := json.Marshal(s.Preset)
	if err != nil {
		p.err = err
		return
	}
	p.printf("The preset:\n\n```\n%s\n```\n\n", text)
	p.printf("The link carries %d QP a step each way; CPU memory holds %d QP.\n\n", s.Preset.LinkQP(), uint64(s.BudgetQP)*uint64(s.Preset.HostPermille)/1000)
	p.printf("Initial sequences, as drawn; those that did not fit are missing from the state below. A further turn is its pause: its prompt + its output:\n\n")
	p.header("i", "type", "private prompt", "done", "output", "priority", "prefix", "phase", "last access", "hotness", "timer", "run", "pause", "ref", "further turns")
	for i, q := range s.Initial {
		p.row(i, q.Type, q.PromptTokens, q.DoneTokens, q.OutputTokens, q.Priority, q.Prefix, q.Phase, q.LastAccess, q.Hotness, q.Timer, q.RunCode, q.PauseCode, q.Ref, further(q.Turns))
	}
	p.printf("\nRequests, by the step in which they arrive:\n\n")
	p.header("step", "k", "type", "private prompt", "output", "priority", "prefix", "run", "pause", "ref", "further turns")
	for _, a := range s.Arrivals {
		for k, q := range a.Requests {
			p.row(a.Step, k, q.Type, q.PromptTokens, q.OutputTokens, q.Priority, q.Prefix, q.RunCode, q.PauseCode, q.Ref, further(q.Turns))
		}
	}
	p.printf("\n")
}

func further(turns []Turn) string {
	var parts []string
	for _, t := range turns {
		parts = append(parts, fmt.Sprintf("%d: %d + %d", t.Pause, t.PromptTokens, t.OutputTokens))
	}
	return strings.Join(parts, ", ")
}

// servingSlots writes the live sequences of the serving profile.
func (p *page) servingSlots(s *State) {
	p.header("slot", "type", "phase", "quant", "where", "to move", "work", "first", "late", "born", "admit", "wake", "ref", "tokens", "remaining", "rate", "priority", "prefix",
		"last access", "hotness", "run", "pause", "private pages", "cost")
	for _, q := range s.Slots {
		v, wake := q.Serving, ""
		if v.Wake != nil {
			wake = fmt.Sprint(*v.Wake)
		}
		p.row(q.Slot, q.Type, q.Phase, q.Quant, where(&q), v.MoveQP, v.WorkUS, yes(v.First), yes(v.Late), v.Born, v.Admit, wake, v.Ref, q.Tokens, q.Remaining, q.Rate, q.Priority,
			q.Prefix, q.LastAccess, q.Hotness, q.RunCode, q.PauseCode, q.PrivatePages, q.CostQP)
	}
}

// where tells in which memory a sequence is.
func where(q *Slot) string {
	switch {
	case q.Serving.Back:
		return "in"
	case q.Serving.Moving:
		return "out"
	case q.Serving.Wanted:
		return "CPU, wanted"
	case q.Swapped:
		return "CPU"
	}
	return "GPU"
}

// waits describes a ticket.
func waits(q *Waiting) string {
	text := fmt.Sprintf("%s since step %d (private %d, output %d, prefix %d, ref %d, born %d", q.Type, q.Arrived, q.PromptTokens, q.OutputTokens, q.Prefix, q.Ref, q.Born)
	for _, f := range []struct {
		name string
		set  bool
	}{{"first", q.First}, {"late", q.Late}, {"again", q.Again}} {
		if f.set {
			text += ", " + f.name
		}
	}
	return text + ")"
}

func (p *page) servingTotals(s *ServingState) {
	p.printf("Serving: G = %d, W = %d, U = %d us, late %d, forced %d, first tokens %d; CPU memory free %d QP.\n\n", s.Goodput, s.FirstWaits, s.WasteUS, s.Late, s.Forced, s.FirstTokens, s.HostFreeQP)
}
