/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in for kmod/compat.h: the shim has the newest names already. */
#include "time.h"
#define mkvm_hrtimer_setup hrtimer_setup
