/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in: only the register constants, which come from the kernel headers. */
#include "../base.h"
#include <asm/apicdef.h>
