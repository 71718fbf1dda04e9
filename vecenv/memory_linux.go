package vecenv

import "syscall"

// adviseHuge asks for huge pages. Where the system has none the memory is as good as before.
func adviseHuge(b []byte) { _ = syscall.Madvise(b, syscall.MADV_HUGEPAGE) }
