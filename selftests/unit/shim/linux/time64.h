/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in: see shim/time.h */
#include "../time.h"
