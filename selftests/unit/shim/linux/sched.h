/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in: see shim/base.h */
#include "../base.h"
