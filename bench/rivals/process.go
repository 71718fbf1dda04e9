package rivals

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/kvgym/kvgym/kv"
)

// Workload says what a rival steps.
type Workload struct {
	Profile    string // "seed" or "serving"
	Envs       int
	Slots      int
	Steps      int // of an episode
	MaxWait    int
	Cycle      int // op matrices
	Warm       int // of them, the first ones, whose steps Run does not time: below Cycle
	Seed       uint64
	FirstEnv   uint32 // environment number of row 0
	Difficulty string // easy, medium, hard, all
	OpsPath    string // file of Cycle op matrices, [Cycle][Envs][Slots] bytes of kv.Op
	PresetPath string // serving: what WritePreset has written
	Style      string // of the C rival, which alone has a choice: "plain" or "tuned"; empty is plain
}

// Time limits. They only turn a hang into an error: a rival in pure Python may need minutes for a large run.
const (
	answerLimit = 10 * time.Minute
	exitLimit   = 5 * time.Second // between the end of its input and the end of the process
)

// Process is a running rival. One goroutine may use it at a time.
type Process struct {
	ctx    context.Context
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Closer
	lines  chan string // closed when the process has closed its standard output
	exited chan error  // gets the process's fate, once
	stderr tail
	broken error // why no more answers can come
	closed bool
}

// Start starts a rival: a program that speaks the protocol. It is killed when ctx ends.
func Start(ctx context.Context, program string, args ...string) (*Process, error) {
	p := &Process{ctx: ctx, name: program, lines: make(chan string), exited: make(chan error, 1)}
	p.cmd = exec.CommandContext(ctx, program, args...)
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = exitLimit
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("rival %s: %w", program, err)
	}
	// Not StdoutPipe: a grandchild that keeps standard output open must not keep Wait from telling the process's fate.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("rival %s: %w", program, err)
	}
	p.cmd.Stdout, p.stdin, p.stdout = in, stdin, out
	if err := p.cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("rival %s: %w", program, err)
	}
	in.Close()
	go p.read(out)
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

// read passes the process's lines on until its output ends or Close has closed the pipe.
func (p *Process) read(out io.Reader) {
	defer close(p.lines)
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		select {
		case p.lines <- strings.TrimSpace(line):
		case <-p.ctx.Done():
			return
		}
	}
}

// Init gives the rival its batch; it must be the first command, and comes once.
func (p *Process) Init(w Workload) error {
	line := fmt.Sprintf("init profile=%s envs=%d slots=%d steps=%d max_wait=%d seed=%d first_env=%d difficulty=%s cycle=%d warm=%d ops=%s",
		w.Profile, w.Envs, w.Slots, w.Steps, w.MaxWait, w.Seed, w.FirstEnv, w.Difficulty, w.Cycle, w.Warm, w.OpsPath)
	if w.PresetPath != "" {
		line += " preset=" + w.PresetPath
	}
	if w.Style != "" {
		line += " style=" + w.Style
	}
	for _, s := range []string{w.Profile, w.Difficulty, w.OpsPath, w.PresetPath, w.Style} {
		if strings.ContainsFunc(s, unicode.IsSpace) {
			return fmt.Errorf("rival %s: init: %.200q: the protocol allows no white space in it", p.name, s)
		}
	}
	return p.expectOK("init", line)
}

// Stagger makes the start state: every sixteenth of the environments at another step of its episode.
func (p *Process) Stagger() error { return p.expectOK("stagger", "stagger") }

// Digest hashes all outputs of one cycle from the start state.
func (p *Process) Digest() (uint64, error) {
	text, err := p.ask("digest", "digest", "digest ")
	if err != nil {
		return 0, err
	}
	d, err := strconv.ParseUint(text, 16, 64)
	if err != nil || len(text) != 16 {
		return 0, p.failed("digest", fmt.Errorf("answered %.60q: want 16 hexadecimal digits", text))
	}
	return d, nil
}

// Run steps rounds cycles, each from the start state, and returns the time that their steps took but for the first Warm ones of each,
// measured by the process itself.
func (p *Process) Run(rounds int) (time.Duration, error) {
	text, err := p.ask("run", fmt.Sprintf("run %d", rounds), "ns ")
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ns < 0 {
		return 0, p.failed("run", fmt.Errorf("answered %.60q: want nanoseconds", text))
	}
	return time.Duration(ns), nil
}

// Close ends the process; it kills one that does not end by itself. The error tells of one that did not end well.
func (p *Process) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	p.stdin.Close()
	defer p.stdout.Close()
	go func() { // an unread answer must not keep it from ending
		for range p.lines {
		}
	}()
	select {
	case err := <-p.exited:
		if p.broken == nil && err != nil {
			return p.failed("close", err)
		}
		return nil // a death that an earlier call has reported is no news
	case <-time.After(exitLimit):
		p.cmd.Process.Kill()
		<-p.exited
		return p.failed("close", fmt.Errorf("did not end in %s: killed", exitLimit))
	}
}

func (p *Process) expectOK(command, line string) error {
	text, err := p.ask(command, line, "ok")
	if err == nil && text != "" {
		err = p.failed(command, fmt.Errorf("answered %.60q: want ok", "ok"+text))
	}
	return err
}

// ask sends a line and returns what follows the prefix in the answer.
func (p *Process) ask(command, line, prefix string) (string, error) {
	if p.closed {
		return "", fmt.Errorf("rival %s: %s: closed", p.name, command)
	}
	if p.broken != nil {
		return "", fmt.Errorf("rival %s: %s: not sent: an earlier command failed: %w", p.name, command, p.broken)
	}
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		return "", p.breakOff(command, err)
	}
	limit := time.NewTimer(answerLimit)
	defer limit.Stop()
	select {
	case text, ok := <-p.lines:
		switch {
		case !ok:
			return "", p.breakOff(command, errors.New("closed its output without an answer"))
		case strings.HasPrefix(text, prefix):
			return strings.TrimPrefix(text, prefix), nil
		case strings.HasPrefix(text, "error "):
			return "", p.failed(command, errors.New(strings.TrimPrefix(text, "error ")))
		}
		p.broken = fmt.Errorf("answered %.60q: want %q", text, strings.TrimSpace(prefix))
		return "", p.failed(command, p.broken)
	case <-p.ctx.Done():
		return "", p.breakOff(command, p.ctx.Err())
	case <-limit.C:
		p.cmd.Process.Kill()
		return "", p.breakOff(command, fmt.Errorf("no answer in %s: killed", answerLimit))
	}
}

// breakOff is failed for a process from which nothing more can come; it waits for its end, which may explain why.
func (p *Process) breakOff(command string, err error) error {
	select {
	case fate := <-p.exited:
		p.exited <- fate // for Close
		if fate == nil {
			fate = errors.New("exit status 0")
		}
		err = fmt.Errorf("%w (%v)", err, fate)
	case <-time.After(exitLimit):
		p.cmd.Process.Kill()
	}
	p.broken = err
	return p.failed(command, err)
}

// failed names the process and the command that failed, and adds the end of what the process wrote to its standard error.
func (p *Process) failed(command string, err error) error {
	if text := p.stderr.String(); text != "" {
		return fmt.Errorf("rival %s: %s: %w; its standard error ends: %s", p.name, command, err, text)
	}
	return fmt.Errorf("rival %s: %s: %w", p.name, command, err)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2048

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-tailBytes):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// WritePreset writes a server's costs as the text that rivals read: a line for every field, its name and its numbers; knots
// are pairs of tokens and nanoseconds.
func WritePreset(path string, p kv.Preset) error {
	if err := p.Validate(); err != nil {
		return err
	}
	var b strings.Builder
	line := func(name string, values ...int64) {
		b.WriteString(name)
		for _, v := range values {
			fmt.Fprintf(&b, " %d", v)
		}
		b.WriteByte('\n')
	}
	knots := func(name string, ks []kv.Knot) {
		var values []int64
		for _, k := range ks {
			values = append(values, k.Tokens, k.NS)
		}
		line(name, values...)
	}
	disaggregated := int64(0)
	if p.Disaggregated {
		disaggregated = 1
	}
	line("kv_bytes", p.KVBytes)
	line("capacity_tokens", p.CapacityTokens)
	line("step_ms", p.StepMillis)
	line("prefill_permille", p.PrefillPermille)
	line("disaggregated", disaggregated)
	knots("prefill", p.Prefill)
	line("pair_ps", p.PairPS)
	knots("decode", p.Decode)
	line("ctx_ps", p.CtxPS)
	line("curve_ns", p.CurveNS)
	line("link_ps", p.LinkPS)
	line("host_permille", p.HostPermille)
	line("compress_ps", p.CompressPS)
	line("quality_permille", p.QualityPermille[:]...)
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write preset: %w", err)
	}
	return nil
}
