/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in: see shim/sync.h */
#include "../sync.h"
