"""Before anything is imported: small models train faster on one thread than on cores that others use."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
