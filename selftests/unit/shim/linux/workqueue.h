/* SPDX-License-Identifier: GPL-2.0 */
/* Stand-in: the tested files only have members of this type. */
#ifndef SHIM_WORKQUEUE_H
#define SHIM_WORKQUEUE_H
struct work_struct { void (*func)(struct work_struct *work); };
#endif
