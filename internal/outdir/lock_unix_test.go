//go:build unix

package outdir

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLock(t *testing.T) {
	d := Dir{t.TempDir(), "test"}
	release, err := d.Lock()
	require.NoError(t, err)
	_, err = d.Lock()
	var refused *RefusedError
	require.ErrorAs(t, err, &refused)
	require.EqualError(t, err, "test: out: "+d.Path+": another test is writing to it: allowed one at a time")
	release()
	release, err = d.Lock()
	require.NoError(t, err)
	release()
}
