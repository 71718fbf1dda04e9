package vecenv_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A mutant is the engine with one rule broken. The comparison with the oracle must notice each of them; a mutant that
// survives shows a rule that no test watches.
type mutant struct {
	rule      string
	file      string
	old, new_ string
}

// These are the references of the kernels, under which all mutants run.
const (
	generic        = "../kernels/generic.go"
	genericServing = "../kernels/generic_serving.go"
	genericTickets = "../kernels/generic_tickets.go"
)

var mutants = []mutant{
	{"1.7 finest level of the sharers", generic, "multiplierOf = [8]uint32{0, 1, 2, 2, 4, 4, 4, 4}", "multiplierOf = [8]uint32{0, 1, 2, 2, 4, 2, 4, 4}"},
	{"6.2 int4 cannot be compressed", generic, "hi&^lo&resident&^b.Int4", "hi&^lo&resident"},
	{"6.4 decay of hotness", generic, "x -= x >> 2 & 0x3F3F3F3F3F3F3F3F", "x -= x >> 3 & 0x1F1F1F1F1F1F1F1F"},
	{"6.6 stall at the capacity", generic, "u+qp > limit", "u+qp+40 > limit"},
	{"6.7 swapped sequences at half speed", generic, "min(b.Rate[s]-b.Rate[s]/2, b.Remaining[s])", "min(b.Rate[s], b.Remaining[s])"},
	{"6.8 finished reasoning lingers", generic, "done := g.finished & (context | generation)", "done := g.finished & (context | generation | b.Type2)"},
	{"6.9 latency of an access", generic, "(100 + min(200, 2*qp))", "(100 + min(180, 2*qp))"},
	{"7.2 no head-of-line blocking", generic, "a.Used+qp+a.Extra[p] <= a.Budget && a.Free > 0:", "a.Used+qp+a.Extra[p] <= a.Budget && a.Free > 0 && kept == 0:"},
	{"7.4 system entries are accessed", generic, "touch(b, b.Alive&^(b.Type0|b.Type1|b.Type2), joins, step)", "_ = joins"},
	{"7.5 expiry", "../kernels/generic_step.go", "l.Step-int32(p.Queue[old]>>48) >= f.MaxWait", "l.Step-int32(p.Queue[old]>>48) > f.MaxWait"},
	{"9.8 risk", generic, "b.Priority[s] >= 70", "b.Priority[s] > 70"},
	{"10.2 shared gain", generic, "count[top] == 1", "count[top] <= 2"},
	{"13.12 a dropped prefill is not work done again", "serving_act.go", "if b.Prefill&bit == 0 {\n\t\tk.Flags |= ticketAgain\n\t}", "k.Flags |= ticketAgain"},
	{"13.12 a parked session waits from its wake", "serving_act.go", "max(now, wake-1)", "max(now, wake)"},
	{"13.13 shared pages go down with a sharer", "serving_act.go", "v.lowerPrefixes(&sc)\n", "_ = v.lowerPrefixes\n"},
	{"13.13 compression takes time", "serving_act.go", "sc.busyQP += int64(pages) * int64(before+after)", "sc.busyQP += int64(pages) * int64(before)"},
	{"13.14 the CPU's memory ends", "serving_act.go", "if host+uint64(l.Moving[s]) <= limit {", "if host <= limit {"},
	{"13.14 the link has a budget each way", "serving_step.go", "budget := v.rules.serving.linkQP\n\tfor w := range v.rules.width {\n\t\tb, l :=", "budget := 2 * v.rules.serving.linkQP\n\tfor w := range v.rules.width {\n\t\tb, l :="},
	{"13.15 first token anew in every turn", "serving_step.go", "l.First &^= bit\n\tl.Late &^= bit\n\tb.LastAccess", "b.LastAccess"},
	{"13.16 the newest is preempted", "serving_step.go", "l.Admit[k] >= best", "l.Admit[k] > best"},
	{"13.17 prefill in order of admission", "serving_step.go", "a < best {", "a <= best {"},
	{"13.17 a resident prefix is not computed", "serving_queue.go", "PrefillUS(private+prefix&^shared, prefix&shared)", "PrefillUS(private+prefix, 0)"},
	{"13.18 quality of the shared pages", genericServing, "[b.Prefix[s]&kv.MaxPrefixes]); shared != 0 {", "[b.Prefix[s]&kv.MaxPrefixes]); shared > 4 {"},
	{"13.18 late tokens count half", genericServing, "<< (1 &^ (lane.Late >> s & 1))", "<< 1"},
	{"13.18 first tokens come late after the deadline", genericServing, "late := dueGeneric(&lane.Born, first, deadline)", "late := dueGeneric(&lane.Born, first, deadline+1)"},
	{"13.13 at once: shared pages go down with a sharer", genericServing, "if want != 0 && want < was {", "if want > 4 {"},
	{"13.13 at once: compression takes time", genericServing, "o.BusyQP = compressed + compressed/2", "o.BusyQP = compressed"},
	{"13.14 at once: the CPU's memory ends", genericServing, "x.leave != 0 && hosted+o.MovedQP > x.host", "x.leave != 0 && o.MovedQP > x.host"},
	{"13.14 at once: the link has a budget", genericServing, "if o.MovedQP > x.link ||", "if o.MovedQP > 2*x.link ||"},
	{"13.17 in one block: prefill in order of admission", genericServing, "bits.TrailingZeros64(oldest(&lane.Admit, set)) & 63", "bits.TrailingZeros64(set) & 63"},
	{"13.17 admitted: a resident prefix is not computed", genericTickets, "PrefillUS(private+prefix&^shared, prefix&shared)", "PrefillUS(private+prefix, 0)"},
	{"13.19 generation without another turn leaves, nothing else", genericServing, "d.Gone = finished & last & b.Type1 &^ b.Type0", "d.Gone = finished & b.Type1 &^ b.Type0"},
	{"13.20 at once: the watermark", genericTickets, "p.Limits.BudgetQP-p.Limits.BudgetQP/64", "p.Limits.BudgetQP"},
	{"13.20 drawn requests join behind the queue", genericTickets, "enqueueGeneric(t, int(l.QueueLen), &words", "enqueueGeneric(t, 0, &words"},
	{"13.21 at once: waiting for the first token", genericTickets, "stay&w.Ready&w.Fresh", "stay&w.Fresh"},
	{"13.19 the end lingers", "serving_step.go", "pause := 2 * int32(1+b.Cycle[s]>>6)", "pause := int32(1 + b.Cycle[s]>>6)"},
	{"13.20 swapped out in this step, not brought back in it", "serving_queue.go", "b.Swapped &^ l.Fresh &", "b.Swapped &"},
	{"13.20 the watermark", "serving_queue.go", "v.UsedQP()+need+v.watermark() > v.Episode.BudgetQP", "v.UsedQP()+need > v.Episode.BudgetQP"},
	{"13.21 waiting for the first token", "serving_queue.go", "stay & w.Ready & w.Fresh", "stay & w.Fresh"},
}

// TestMutants builds each mutant (an overlay of one file: the tree is not touched) and runs the comparison on it.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("mutants are built without -short only")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command in PATH to build mutants with")
	}
	for _, m := range mutants {
		t.Run(m.rule, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(goTool, "test", "-short", "-count=1", "-overlay", m.overlay(t), "-run", "^TestOracle$", ".")
			cmd.Env = append(os.Environ(), "KVGYM_SIMD=generic")
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the mutant survived:\n%s", out)
			require.Contains(t, string(out), "--- FAIL: TestOracle", "the mutant failed otherwise than by the comparison:\n%s", out)
		})
	}
}

func (m mutant) overlay(t *testing.T) string {
	here, err := os.Getwd()
	require.NoError(t, err)
	path := filepath.Join(here, m.file)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), m.old), "%s no longer holds %q exactly once", m.file, m.old)
	dir := t.TempDir()
	broken := filepath.Join(dir, filepath.Base(m.file))
	require.NoError(t, os.WriteFile(broken, []byte(strings.Replace(string(text), m.old, m.new_, 1)), 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: broken}})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	return file
}
