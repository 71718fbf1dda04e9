package toolenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/kvgym/kvgym/kv"
)

// Fault is a kind of what can be wrong with a call, or with a turn.
type Fault string

// The kinds. The first two leave the call as good as it is meant; no call is a turn's; all others refuse the call.
const (
	CoercedID       Fault = "coerced_id"       // the id was text or a float: "3", 3.0
	ExtraArgument   Fault = "extra_argument"   // an argument that the tool does not have; ignored
	UnknownTool     Fault = "unknown_tool"     //
	TooLong         Fault = "too_long"         // arguments above MaxArguments bytes
	BadJSON         Fault = "bad_json"         // arguments that are no JSON
	NotAnObject     Fault = "not_an_object"    // arguments that are JSON, but no object
	MissingArgument Fault = "missing_argument" // no seq_id
	WrongType       Fault = "wrong_type"       // of seq_id
	OutOfRange      Fault = "out_of_range"     // no slot has that id
	NotInCache      Fault = "not_in_cache"     // the slot is empty
	Repeated        Fault = "repeated"         // the same was done in this turn already
	AtInt4          Fault = "at_int4"          // cannot be compressed further
	Swapped         Fault = "swapped"          // in CPU memory already, or asked back already
	InPrefill       Fault = "in_prefill"       // serving: only evict works before the prompt is computed
	Moving          Fault = "moving"           // serving: on its way between GPU and CPU
	CPUFull         Fault = "cpu_full"         // serving: no CPU memory left
	AfterEnd        Fault = "after_end"        // the episode is over, or its Env is closed
	NoCall          Fault = "no_call"          // a turn without any call: everything is kept
)

// Faults are all kinds.
var Faults = []Fault{CoercedID, ExtraArgument, UnknownTool, TooLong, BadJSON, NotAnObject, MissingArgument, WrongType, OutOfRange, NotInCache, Repeated,
	AtInt4, Swapped, InPrefill, Moving, CPUFull, AfterEnd, NoCall}

// MaxArguments is how many bytes of arguments are read.
const MaxArguments = 4096

// refusal is an answer to a call that is not done.
type refusal struct {
	kind Fault
	text string
}

func refuse(kind Fault, format string, args ...any) *refusal {
	return &refusal{kind, "refused: " + fmt.Sprintf(format, args...)}
}

// Call takes one tool call of the present turn and answers it for the model. Nothing is done before Step.
func (e *Env) Call(name, arguments string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.called = true
	answer, r := e.call(name, arguments)
	if r != nil {
		e.faults[r.kind]++
		return r.text
	}
	return answer
}

func (e *Env) call(name, arguments string) (string, *refusal) {
	op, ok := opOf(name)
	if !ok {
		return "", refuse(UnknownTool, "unknown tool %.40q: allowed %s", name, allTools)
	}
	e.calls[op]++
	if e.batch == nil {
		return "", refuse(AfterEnd, "closed")
	}
	if e.done {
		return "", refuse(AfterEnd, "the episode is over: call nothing more")
	}
	args, r := parse(arguments)
	if r != nil {
		return "", r
	}
	if op == kv.Keep {
		e.note(len(args) > 0, ExtraArgument)
		return "kept", nil
	}
	id, r := e.id(args)
	if r != nil {
		return "", r
	}
	s := &e.picture.seats[id]
	if r := e.picture.may(op, s, id); r != nil {
		return "", r
	}
	e.list = append(e.list, int32(op), int32(id))
	return e.picture.do(op, s), nil
}

// note counts a fault that does not refuse the call.
func (e *Env) note(is bool, kind Fault) {
	if is {
		e.faults[kind]++
	}
}

// parse reads a call's arguments. Nothing at all, and null, are an object without members.
func parse(arguments string) (map[string]json.RawMessage, *refusal) {
	if len(arguments) > MaxArguments {
		return nil, refuse(TooLong, "%d bytes of arguments: allowed %d", len(arguments), MaxArguments)
	}
	if strings.TrimSpace(arguments) == "" {
		return nil, nil
	}
	var args map[string]json.RawMessage
	err := json.Unmarshal([]byte(arguments), &args)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return nil, refuse(NotAnObject, `arguments are a JSON %s: allowed an object such as {"seq_id": 3}`, wrong.Value)
	}
	if err != nil {
		return nil, refuse(BadJSON, `arguments are not JSON: allowed an object such as {"seq_id": 3}`)
	}
	return args, nil
}

// id reads the sequence's id out of arguments.
func (e *Env) id(args map[string]json.RawMessage) (int, *refusal) {
	raw, ok := args[seqID]
	if !ok {
		return 0, refuse(MissingArgument, `seq_id is missing: allowed {"seq_id": 3}`)
	}
	x, coerced, ok := integer(string(raw))
	if !ok {
		return 0, refuse(WrongType, "seq_id: %s: allowed one integer, and a call for each sequence", shown(raw))
	}
	e.note(coerced, CoercedID)
	e.note(len(args) > 1, ExtraArgument)
	if x < 0 || x >= float64(len(e.picture.seats)) {
		return 0, refuse(OutOfRange, "seq_id: %s: allowed 0 to %d", shown(raw), len(e.picture.seats)-1)
	}
	return int(x), nil
}

// shown is a value as an answer repeats it: on one line, short, and text whatever it was.
func shown(raw json.RawMessage) string {
	var line bytes.Buffer
	_ = json.Compact(&line, raw) // which has been parsed before
	return fmt.Sprintf("%.40s", strings.ToValidUTF8(line.String(), "?"))
}

// integer reads a JSON number, or text that holds one, that is whole.
func integer(raw string) (x float64, coerced, ok bool) {
	if raw[0] == '"' {
		var text string
		if json.Unmarshal([]byte(raw), &text) != nil {
			return 0, false, false
		}
		raw, coerced = strings.TrimSpace(text), true
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err == nil {
		return float64(n), coerced, true
	}
	x, err = strconv.ParseFloat(raw, 64)
	return x, true, (err == nil || errors.Is(err, strconv.ErrRange)) && x == math.Trunc(x)
}

// may tells why an operation cannot be done on a slot, nil if it can.
func (p *picture) may(op kv.Op, s *seat, id int) *refusal {
	switch {
	case s.evicted && op == kv.Evict:
		return refuse(Repeated, "%d was evicted in this turn already", id)
	case s.evicted:
		return refuse(NotInCache, "%d is not in the cache: it was evicted in this turn", id)
	case !s.live:
		return refuse(NotInCache, "%d is not in the cache: allowed the ids that the observation lists", id)
	case op == kv.Evict:
		return nil
	case op == kv.Swap && s.swapped:
		return refuse(Repeated, "%d: swap_to_cpu was called in this turn already", id)
	case op == kv.Swap && s.Swapped && (!p.serving || s.Wanted):
		return p.refuseSwapped(s, id)
	case op == kv.Swap && s.Swapped:
		return nil // back to the GPU
	case s.Swapped:
		return refuse(Swapped, "%d is in CPU memory: allowed on sequences in GPU memory", id)
	case s.Moving && s.Back:
		return refuse(Moving, "%d is on its way back to GPU memory: allowed evict", id)
	case s.Moving:
		return refuse(Moving, "%d is on its way to CPU memory: allowed evict", id)
	case p.serving && s.Phase == kv.Prefill:
		return refuse(InPrefill, "%d is still in prefill: allowed evict", id)
	case op == kv.Compress && s.Quant == kv.INT4:
		return refuse(AtInt4, "%d is at int4, the lowest level: allowed evict, swap_to_cpu", id)
	case op == kv.Swap && p.serving && p.cpuUsed+s.cpuQP() > p.cpuMost:
		return refuse(CPUFull, "%d: CPU memory is full: allowed evict, compress", id)
	}
	return nil
}

func (p *picture) refuseSwapped(s *seat, id int) *refusal {
	if s.Wanted {
		return refuse(Swapped, "%d is in CPU memory and comes back as soon as there is room", id)
	}
	return refuse(Swapped, "%d is in CPU memory already: allowed evict", id)
}

// do does an operation that may has allowed, and says what it did.
func (p *picture) do(op kv.Op, s *seat) string {
	if op == kv.Compress {
		private, shared := p.compress(s)
		return fmt.Sprintf("%d compressed to %s: frees %s", s.Slot, s.Quant, p.amount(private, shared))
	}
	if op == kv.Swap && p.serving {
		return p.doMove(s)
	}
	others, risk := p.sharers(s), p.risk(s)
	if op == kv.Swap {
		private, shared := p.swap(s)
		return fmt.Sprintf("%d swapped to CPU memory: frees %s", s.Slot, p.amount(private, shared)) + p.pinned(s, shared, others)
	}
	private, shared := p.evict(s)
	text := fmt.Sprintf("%d evicted: frees %s", s.Slot, p.amount(private, shared)) + p.pinned(s, shared, others)
	if risk > 0 {
		text += fmt.Sprintf("; a risky eviction, penalty %s", percent(risk))
	}
	return text
}

// doMove is swap of the serving profile, which only starts to move a sequence.
func (p *picture) doMove(s *seat) string {
	p.swap(s)
	if s.Wanted {
		return fmt.Sprintf("%d is asked back: it comes as soon as there is room", s.Slot)
	}
	return fmt.Sprintf("%d starts to move to CPU memory: frees %s once the link has carried it", s.Slot, p.amount(s.CostQP, 0))
}

// amount is memory as a share of the budget.
func (p *picture) amount(private, shared uint32) string {
	text := p.share(private + shared).String()
	if shared > 0 {
		text += ", its prefix's part included"
	}
	return text
}

// pinned tells that a sequence that leaves does not take its prefix with it.
func (p *picture) pinned(s *seat, shared uint32, others int) string {
	if s.Prefix == 0 || shared > 0 || others == 0 {
		return ""
	}
	held := p.share(p.prefixQP(s.Prefix) * p.pages[s.Prefix&kv.MaxPrefixes])
	return fmt.Sprintf("; prefix %d (%s) stays, pinned by %d others", s.Prefix, held, others)
}
