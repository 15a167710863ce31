/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in: the tested files only have members of these types. */
#ifndef SHIM_LIST_H
#define SHIM_LIST_H
#include "types.h"
struct hlist_head { struct hlist_node *first; };
#endif
