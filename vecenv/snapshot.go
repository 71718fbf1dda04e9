package vecenv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/scenario"
)

// A snapshot is, little-endian: magic, format version, then the length of and the text of a fingerprint (rules, shape,
// profile, max wait, source), the number of environments, for each its identity, fresh flag, head, blocks and queue as
// declared in columns.go, with lanes and tally as declared in serving.go and kernels.Tickets if the batch has any serving environment, and
// a CRC-32 (IEEE) of everything before it.
const (
	snapshotMagic   = "KVGYMSNP"
	snapshotVersion = 2
)

// snapshotHead is the fixed part of an environment beside its head and blocks.
type snapshotHead struct {
	ID      scenario.Identity
	Fresh   uint16
	Profile uint16
}

// fingerprint is what must agree between two batches that exchange environments.
func (b *Batch) fingerprint() string {
	fp := fmt.Sprintf("simulator=%s/slots=%d/steps=%d/max_wait=%d", SimulatorVersion, b.cfg.Slots, b.cfg.Steps, b.cfg.MaxWait)
	for p := Seed; p <= Serving; p++ {
		if b.cfg.plays(p) {
			fp += "/" + b.rules[p].fingerprint()
		}
	}
	return fp
}

// fingerprint is what must agree beside the shape between two environments of which one becomes the other.
func (r *rules) fingerprint() string {
	fp := fmt.Sprintf("profile=%s/source=%s", r.profile, r.source.Fingerprint())
	if r.serving != nil {
		fp += "/preset=" + r.serving.id
	}
	return fp
}

// parts are the state of an environment as it stands in a snapshot.
func (v *env) parts(withServing bool) []any {
	out := []any{v.head, v.blocks(), v.queue()}
	if withServing {
		out = append(out, v.lanes(), v.tickets(), v.tally)
	}
	return out
}

// emptyEnv is memory for one environment outside the batch.
func (b *Batch) emptyEnv() env {
	r := &b.rules[Seed]
	v := env{head: &head{}, rules: r}
	v.sit(&make([]block, r.width)[0], &make([]scenario.Word, r.words)[0], &make([]uint32, r.words)[0])
	if b.serving != nil {
		v.firstLane, v.firstTicket, v.tally = &make([]lane, r.width)[0], &make([]kernels.Tickets, r.ticketGroups)[0], &tally{}
	}
	return v
}

// whole is environment i with its serving part even where the profile has none.
func (b *Batch) whole(i int) env {
	v := b.envAt(i)
	if b.serving != nil && v.tally == nil {
		v.tally, v.firstLane, v.firstTicket = b.serving.at(i)
	}
	return v
}

// Snapshot appends the state of environments [first, end) to buf. Actions, tensors, modes and workers are no part of it.
func (b *Batch) Snapshot(buf []byte, first, end int) ([]byte, error) {
	if err := b.checkIdle("Snapshot"); err != nil {
		return buf, err
	}
	if first < 0 || end > b.cfg.Envs || first >= end {
		return buf, fmt.Errorf("vecenv: Snapshot: environments %d to %d: allowed a non-empty range within 0 to %d", first, end, b.cfg.Envs)
	}
	start := len(buf)
	fp := b.fingerprint()
	buf = append(buf, snapshotMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, snapshotVersion)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(fp)))
	buf = append(buf, fp...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(end-first))
	for i := first; i < end; i++ {
		v := b.whole(i)
		h := snapshotHead{ID: b.ids[i], Profile: uint16(v.rules.profile)}
		if b.fresh[i] {
			h.Fresh = 1
		}
		for _, part := range append([]any{&h}, v.parts(b.serving != nil)...) {
			var err error
			if buf, err = binary.Append(buf, binary.LittleEndian, part); err != nil {
				return buf, fmt.Errorf("vecenv: Snapshot: environment %d: %w", i, err)
			}
		}
	}
	return binary.LittleEndian.AppendUint32(buf, crc32.ChecksumIEEE(buf[start:])), nil
}

// Restore reads a snapshot into environments first, first+1, ..., bit for bit, and writes their observations and masks
// (reward and flags become 0). The snapshot may come from another batch or process with the same rules, shape and
// source. It is checked as untrusted input; on an error nothing has changed.
func (b *Batch) Restore(snapshot []byte, first int) error {
	if err := b.checkIdle("Restore"); err != nil {
		return err
	}
	r, n, err := b.openSnapshot(snapshot)
	if err != nil {
		return fmt.Errorf("vecenv: Restore: %w", err)
	}
	if first < 0 || first+n > b.cfg.Envs {
		return fmt.Errorf("vecenv: Restore: %d environments at %d: allowed within 0 to %d", n, first, b.cfg.Envs)
	}
	states, err := b.readStates(r, n, first)
	if err != nil {
		return fmt.Errorf("vecenv: Restore: %w", err)
	}
	for k := range states {
		b.adopt(&states[k], first+k)
	}
	b.publish()
	return nil
}

// envState is one environment outside a batch.
type envState struct {
	snapshotHead
	env
}

func (b *Batch) openSnapshot(s []byte) (*bytes.Reader, int, error) {
	const fixed = len(snapshotMagic) + 4 + 4
	if len(s) < fixed+8 || string(s[:len(snapshotMagic)]) != snapshotMagic {
		return nil, 0, errors.New("snapshot: not one: allowed the bytes that Snapshot gave")
	}
	if v := binary.LittleEndian.Uint32(s[len(snapshotMagic):]); v != snapshotVersion {
		return nil, 0, fmt.Errorf("snapshot: format version %d: allowed %d", v, snapshotVersion)
	}
	body, sum := s[:len(s)-4], binary.LittleEndian.Uint32(s[len(s)-4:])
	if got := crc32.ChecksumIEEE(body); got != sum {
		return nil, 0, fmt.Errorf("snapshot: checksum %08x: allowed %08x: it is truncated or damaged", got, sum)
	}
	n := uint64(binary.LittleEndian.Uint32(s[fixed-4:]))
	if uint64(len(body)) < uint64(fixed)+n+4 {
		return nil, 0, errors.New("snapshot: truncated fingerprint")
	}
	fp := string(body[fixed : fixed+int(n)])
	if want := b.fingerprint(); fp != want {
		return nil, 0, fmt.Errorf("snapshot: made by %.400q: allowed %q", fp, want)
	}
	rest := body[fixed+int(n):]
	envs := binary.LittleEndian.Uint32(rest)
	one := b.emptyEnv()
	size := binary.Size(snapshotHead{})
	for _, part := range one.parts(b.serving != nil) {
		size += binary.Size(part)
	}
	if uint64(len(rest)-4) != uint64(envs)*uint64(size) {
		return nil, 0, fmt.Errorf("snapshot: %d bytes for %d environments: allowed %d", len(rest)-4, envs, uint64(envs)*uint64(size))
	}
	return bytes.NewReader(rest[4:]), int(envs), nil
}

// readStates reads and checks n environments that are to become first, first+1, ...
func (b *Batch) readStates(r *bytes.Reader, n, first int) ([]envState, error) {
	states := make([]envState, n)
	for k := range states {
		st := &states[k]
		st.env = b.emptyEnv()
		for _, part := range append([]any{&st.snapshotHead}, st.parts(b.serving != nil)...) {
			if err := binary.Read(r, binary.LittleEndian, part); err != nil {
				return nil, fmt.Errorf("snapshot: environment %d: %w", k, err)
			}
		}
		st.rules = b.rulesOf(first + k)
		if st.Profile != uint16(st.rules.profile) {
			return nil, fmt.Errorf("snapshot: environment %d: profile %s into environment %d: allowed %s", k, Profile(st.Profile), first+k, st.rules.profile)
		}
		if st.Fresh != 0 { // there is no state yet
			st.env = b.emptyEnv()
			continue
		}
		if err := st.checkRestored(); err != nil {
			return nil, fmt.Errorf("snapshot: environment %d: %w", k, err)
		}
	}
	return states, nil
}

// checkRestored checks untrusted state: first that nothing indexes outside a table, then that it is consistent.
func (v *env) checkRestored() error {
	if v.Episode.DrawnFrom > scenario.Hard || v.Episode.ArrivalLevel > scenario.FromTrace {
		return fmt.Errorf("episode: difficulty %d, arrivals %d: allowed those of the rules", v.Episode.DrawnFrom, v.Episode.ArrivalLevel)
	}
	if err := v.rules.source.CheckEpisode(&v.Episode); err != nil {
		return err
	}
	return v.check()
}

// adopt makes environment i the given state.
func (b *Batch) adopt(st *envState, i int) {
	b.ids[i], b.fresh[i] = st.ID, st.Fresh != 0
	v := b.whole(i)
	v.become(&st.env)
	v = b.envAt(i)
	if st.Fresh == 0 {
		b.writeRestored(&v, i)
	}
}

// writeRestored writes the rows of an environment whose state came from elsewhere.
func (b *Batch) writeRestored(v *env, i int) {
	b.Reward[i], b.Terminated[i], b.Truncated[i] = 0, 0, 0
	t := v.totals()
	terms := terms(&t, v.Step)
	b.writeTotals(v, i, &terms)
	v.look()
	b.writeView(v, i)
}

// Fork copies environment from of b into environment to of dst (which may be b), bit for bit, without allocating. Both
// batches must have the same rules, shape and source, and both must be idle.
func (b *Batch) Fork(from int, dst *Batch, to int) error {
	if err := b.checkIdle("Fork"); err != nil {
		return err
	}
	if err := dst.checkIdle("Fork"); err != nil {
		return err
	}
	if from < 0 || from >= b.cfg.Envs || to < 0 || to >= dst.cfg.Envs {
		return fmt.Errorf("vecenv: Fork: environment %d to %d: allowed 0 to %d and 0 to %d", from, to, b.cfg.Envs-1, dst.cfg.Envs-1)
	}
	src, v := b.envAt(from), dst.envAt(to)
	if !src.rules.same(v.rules) {
		return fmt.Errorf("vecenv: Fork: environment %q into %q: allowed equal ones", src.rules.describe(), v.rules.describe())
	}
	dst.ids[to], dst.fresh[to] = b.ids[from], b.fresh[from]
	v.become(&src)
	if !dst.fresh[to] {
		dst.writeRestored(&v, to)
		dst.publish()
	}
	return nil
}

// become copies the state of another environment of the same rules.
func (v *env) become(o *env) {
	*v.head = *o.head
	copy(v.blocks(), o.blocks())
	copy(v.queue(), o.queue())
	v.findNeeds()
	if v.tally != nil && o.tally != nil {
		copy(v.lanes(), o.lanes())
		copy(v.tickets(), o.tickets())
		*v.tally = *o.tally
	}
}

// findNeeds derives needs from the waiting requests.
func (v *env) findNeeds() {
	if v.rules.serving != nil {
		return
	}
	for i, w := range v.queue()[:v.QueueLen] {
		v.needs()[i] = scenario.Need(v.rules.source.Demand(&v.Episode, w))
	}
}

// same tells whether environments of the two rules may become each other.
func (r *rules) same(o *rules) bool {
	if r == o {
		return true
	}
	if r.slots != o.slots || r.steps != o.steps || r.maxWait != o.maxWait || r.profile != o.profile {
		return false
	}
	if r.source == o.source && (r.serving == nil || r.serving.id == o.serving.id) {
		return true
	}
	return r.fingerprint() == o.fingerprint()
}

func (r *rules) describe() string {
	return fmt.Sprintf("slots=%d/steps=%d/max_wait=%d/%s", r.slots, r.steps, r.maxWait, r.fingerprint())
}
