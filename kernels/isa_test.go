//go:build amd64 && !purego

package kernels

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/cpuid/v2"
	"github.com/stretchr/testify/require"
)

// The generator writes above every function what its instructions require. A level must have made sure of it, or the program dies
// with an illegal instruction on machines that none of us has.
func TestLevelsGuaranteeTheirInstructions(t *testing.T) {
	// What every amd64 processor has (MMX+ is the generator's name for what SFENCE, which is of SSE, needs), and what comes before AVX in
	// every processor that has it.
	always := []string{"CMOV", "MMX+", "SSE", "SSE2", "SSE3", "SSSE3", "SSE4.1", "SSE4.2"}
	for file, needs := range map[string][]cpuid.FeatureID{
		"avx2_amd64.s":   needsAVX2,
		"avx512_amd64.s": slices.Concat(needsAVX2, needsAVX512),
	} {
		guaranteed := slices.Clone(always)
		for _, f := range needs {
			guaranteed = append(guaranteed, strings.Replace(f.String(), "BMI1", "BMI", 1)) // the generator's name for it
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		text := string(source)
		requires := regexp.MustCompile(`(?m)^// Requires: (.*)\n(?://.*\n)*TEXT ·(\w+)\(SB\)`).FindAllStringSubmatch(text, -1)
		require.Greater(t, len(requires), 15, "%s: requirements were found", file)
		require.Len(t, requires, strings.Count(text, "\n// Requires: "), "%s: each belongs to a function", file)
		for _, r := range requires {
			for _, feature := range strings.Split(r[1], ", ") {
				require.Contains(t, guaranteed, feature, "%s: %s needs %s, which its level does not ask for", file, r[2], feature)
			}
		}
	}
}
