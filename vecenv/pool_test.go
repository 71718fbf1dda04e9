package vecenv_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// explosive is a source that panics when a given environment's arrivals of a given step are asked for.
type explosive struct {
	scenario.Source
	env  uint32
	step int
}

func (x explosive) Arrive(e *scenario.Episode, step int, out []scenario.Word, needs []uint32) (int, uint32) {
	if e.Env == x.env && step == x.step {
		panic("no more requests")
	}
	return x.Source.Arrive(e, step, out, needs)
}

// A panic in a step, on whichever worker, is an error that names the episode, and the batch stays broken.
func TestPanicIsAnError(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, env := range []uint32{0, 150, 199} {
			src := explosive{mustSynthetic(64, 15, scenario.All), env, 2}
			b := newBatch(t, vecenv.Config{Envs: 200, Workers: workers, Source: src, Seed: 8})
			require.NoError(t, b.Reset(vecenv.ResetOptions{}))
			require.NoError(t, b.Step(vecenv.Actions{}))
			err := b.Step(vecenv.Actions{})
			var p *vecenv.PanicError
			require.True(t, errors.As(err, &p), "%v", err)
			require.Equal(t, int(env), p.Env)
			require.Equal(t, scenario.Identity{Seed: 8, Env: env}, p.Identity)
			require.ErrorContains(t, err, fmt.Sprintf("environment %d (seed 8, env %d, episode 0): panic: no more requests", env, env))
			require.Contains(t, string(p.Stack), "Arrive")
			require.Equal(t, err, b.Step(vecenv.Actions{}))
			require.Equal(t, err, b.Reset(vecenv.ResetOptions{}))
			b.Close()
		}
	}
}

// A step allocates nothing, whatever the form of the actions, the outputs, the workers and the ends of episodes.
func TestStepAllocatesNothing(t *testing.T) {
	for _, workers := range []int{1, 2} {
		for k := range 4 {
			mode := []vecenv.Autoreset{vecenv.NextStep, vecenv.SameStep}[k%2]
			cfg := vecenv.Config{Envs: 256, Workers: workers, Groups: 2, Outputs: vecenv.AllOutputs, Autoreset: mode, Profiles: mixed(256)}
			if k >= 2 { // in runs
				cfg.Outputs, cfg.Profiles = vecenv.WithObs, nil
			}
			b := newBatch(t, cfg)
			require.NoError(t, b.Reset(vecenv.ResetOptions{}))
			matrix := play{}.actions(b, 0, 256, 1)
			list := play{list: true}.actions(b, 0, 256, 2)
			first, second := play{}.actions(b, 0, 128, 3), play{}.actions(b, 128, 256, 3)
			n := testing.AllocsPerRun(50, func() {
				_ = b.Step(matrix)
				_ = b.Step(list)
				_ = b.Send(0, first)
				_ = b.Send(1, second)
				_ = b.Recv(1)
				_ = b.Recv(0)
			})
			require.Zero(t, n, "workers=%d %s", workers, mode)
		}
	}
}

// workers counts the goroutines that batches have started, whatever else runs in the process.
func workers() int {
	stacks := make([]byte, 1<<22)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "created by github.com/kvgym/kvgym/vecenv.(*pool).startWorkers")
}

// Steps start no goroutine, and Close ends the workers.
func TestGoroutines(t *testing.T) {
	gone := func() bool { return workers() == 0 } // a goroutine that has said it is done still has to return
	require.Eventually(t, gone, time.Minute, time.Millisecond, "every other test closes its batches")
	b, err := vecenv.New(vecenv.Config{Envs: 512, Workers: 4, NoObs: true})
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	require.Equal(t, 3, workers(), "the caller is the fourth worker")
	for range 100 {
		require.NoError(t, b.Step(vecenv.Actions{}))
	}
	require.Equal(t, 3, workers())
	b.Close()
	require.Eventually(t, gone, time.Minute, time.Millisecond)
}

// Workers that have parked are woken by the next step, and groups may be received long after they are done.
func TestParkedWorkers(t *testing.T) {
	b := newBatch(t, vecenv.Config{Envs: 512, Workers: 3, Groups: 2, NoObs: true})
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	for range 20 {
		require.NoError(t, b.Send(0, vecenv.Actions{}))
		time.Sleep(2 * time.Millisecond) // ten times what a worker spins
		require.NoError(t, b.Send(1, vecenv.Actions{}))
		require.NoError(t, b.Recv(0))
		require.NoError(t, b.Recv(1))
	}
	for i := range 512 {
		require.Equal(t, 20%16, b.View(i).Step(), "15 steps and a reset, then 4")
	}
}

// A share is claimed once a step, by the first claim of it on, and never for a step that is over.
func TestClaims(t *testing.T) {
	s := vecenv.NewShare(10, 45)
	claim := func(number uint32) [2]int32 {
		lo, hi := s.Claim(number, 16)
		return [2]int32{lo, hi}
	}
	none := [2]int32{}
	require.Equal(t, none, claim(0), "before the first step")
	for _, number := range []uint32{1, 2, 4, 1<<31 + 3, 1<<32 - 1, 0, 1} { // the counter may start anew
		require.Equal(t, [2]int32{10, 26}, claim(number))
		require.Equal(t, none, claim(number-1), "a worker that is late")
		require.Equal(t, [2]int32{26, 42}, claim(number))
		require.Equal(t, [2]int32{42, 45}, claim(number))
		require.Equal(t, none, claim(number))
	}

	const steps, workers, end = 2000, 4, 100
	s = vecenv.NewShare(0, end)
	var number, done atomic.Uint32
	var counts [steps + 1][end]atomic.Int32
	number.Store(1)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				now := number.Load()
				if now > steps {
					return
				}
				lo, hi := s.Claim(now, 7)
				for i := lo; i < hi; i++ {
					counts[now][i].Add(1)
				}
				if lo < hi && done.Add(uint32(hi-lo)) == now*end {
					number.Add(1)
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	for step := 1; step <= steps; step++ {
		for i := range end {
			require.EqualValues(t, 1, counts[step][i].Load(), "step %d, environment %d", step, i)
		}
	}
}

// Pinned workers do the same work, on a processor each.
func TestPinnedWorkers(t *testing.T) {
	if runtime.GOOS != "linux" {
		_, err := vecenv.New(vecenv.Config{Envs: 256, Pin: true})
		require.ErrorContains(t, err, "Pin: true: allowed on Linux only")
		return
	}
	free, pinned := newBatch(t, vecenv.Config{Envs: 256, Workers: 3}), newBatch(t, vecenv.Config{Envs: 256, Workers: 3, Pin: true})
	require.GreaterOrEqual(t, boundThreads(t), 2, "threads that may run on one processor only")
	for _, b := range []*vecenv.Batch{free, pinned} {
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		for range 5 {
			require.NoError(t, b.Step(vecenv.Actions{}))
		}
	}
	require.Equal(t, free.Obs, pinned.Obs)
	pinned.Close()
	require.Eventually(t, func() bool { return boundThreads(t) == 0 }, 10*time.Second, time.Millisecond, "the threads are free again")
}

func boundThreads(t *testing.T) (n int) {
	if runtime.NumCPU() == 1 {
		t.Skip("one processor: every thread is bound to it")
	}
	files, err := filepath.Glob("/proc/self/task/*/status")
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has just ended
		}
		for line := range strings.Lines(string(text)) {
			if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok && !strings.ContainsAny(list, ",-") {
				n++
			}
		}
	}
	return n
}
