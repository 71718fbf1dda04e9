package scenario

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"gonum.org/v1/gonum/stat/distuv"
)

func TestTablesAreTheDistributions(t *testing.T) {
	for level, mean := range arrivalMeans {
		assert.Equal(t, poissonThresholds(mean/4), [arrivalTableLen]uint16(arrivalThresholds[level][:arrivalTableLen]), "level %s", Level(level))
	}
	assert.Equal(t, poissonThresholds(burstMean/4), [arrivalTableLen]uint16(arrivalThresholds[burst][:arrivalTableLen]))
	for i, pages := range promptPages {
		assert.EqualValues(t, logNormal(6.3, 0.6, i, 1, 24), pages, "prompt pages %d", i)
	}
	for i, tokens := range outputTokens {
		assert.EqualValues(t, logNormal(34, 0.6, i, 4, 96), tokens, "output tokens %d", i)
	}
}

func poissonThresholds(lambda float64) (out [arrivalTableLen]uint16) {
	d := distuv.Poisson{Lambda: lambda}
	for k := range out {
		out[k] = uint16(min(65535, math.Round(65536*d.CDF(float64(k)))))
	}
	return out
}

func logNormal(median, sigma float64, i int, lo, hi float64) int {
	d := distuv.LogNormal{Mu: math.Log(median), Sigma: sigma}
	return int(math.Round(min(hi, max(lo, d.Quantile((float64(i)+0.5)/64)))))
}
