/* What both profiles of the plain style share, besides shared.h.
 *
 * The plain style is the rules written down: a struct per sequence in a struct per environment, and a loop over the slots
 * for every phase of a step. It is what one writes who wants an environment for PufferLib and leaves speed to the compiler. */
#ifndef KVGYM_RIVAL_PLAIN_SHARED_H
#define KVGYM_RIVAL_PLAIN_SHARED_H

#include "shared.h"

enum { FP16, INT8, INT4, QUANTS };

static const int quant_qp[QUANTS] = {4, 2, 1}; /* quarter pages of a page */
static const int retention[5] = {20, 15, 10, 2, 0}; /* by type, W of rule 9.6 */

/* The observation of a type, a phase, a level. */
static const float seen_eviction[5] = {0.0f, 0.25f, 0.5f, 0.9f, 1.0f};
static const float seen_phase[4] = {0.0f, 0.25f, 0.5f, 0.75f};
static const float seen_quant[QUANTS] = {1.0f, 0.5f, 0.25f};

#endif
