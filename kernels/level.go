package kernels

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Level is a choice of instructions. All levels give the same bits.
type Level uint8

// The levels, each faster than the one before.
const (
	Generic Level = iota // plain Go, everywhere
	AVX2                 // amd64 with AVX2
	AVX512               // amd64 with AVX-512 F, BW, DQ, VL, CD, VBMI, VBMI2, VNNI and VPOPCNTDQ (Ice Lake, Zen 4 and later)
)

var levelNames = [...]string{"generic", "avx2", "avx512"}

// String returns the level's name.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("Level(%d)", uint8(l))
}

// Levels lists what this machine and build can do, the best last.
func Levels() []Level { return slices.Clone(supported) }

// Active is the level in use.
func Active() Level { return active }

// Use chooses a level for the whole process; Active is then that level. Nothing may be in a kernel meanwhile. A level that this
// machine or build has not is an error.
func Use(l Level) error {
	if !slices.Contains(supported, l) {
		return fmt.Errorf("simd: %s: allowed %s on this machine", l, Names(supported))
	}
	active = l
	return nil
}

// Parse returns the level of that name; "auto" and "" are the best of this machine.
func Parse(name string) (Level, error) {
	if name == "auto" || name == "" {
		return supported[len(supported)-1], nil
	}
	for _, l := range supported {
		if l.String() == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("simd: %.40q: allowed auto, %s on this machine", name, Names(supported))
}

// Names lists levels for people.
func Names(levels []Level) string {
	names := make([]string, len(levels))
	for i, l := range levels {
		names[i] = l.String()
	}
	return strings.Join(names, ", ")
}

// SIMDVariable is the environment variable that lowers the level of every program that uses kvgym: auto, generic, avx2 or avx512.
const SIMDVariable = "KVGYM_SIMD"

var (
	supported = detect()
	active    Level
	// problem is what was wrong with SIMDVariable.
	problem error
)

func init() { active, problem = Parse(os.Getenv(SIMDVariable)); fallBack() }

// fallBack keeps a process going whose SIMDVariable names nothing: commands report Problem, libraries run at the best level.
func fallBack() {
	if problem != nil {
		problem = fmt.Errorf("%s: %w", SIMDVariable, problem)
		active = supported[len(supported)-1]
	}
}

// Problem tells what is wrong with the environment variable KVGYM_SIMD, if anything is; the level is then the best one.
func Problem() error { return problem }
